"""Every command that a document shows is one that there is, with the options and files that it names."""

import argparse
import ast
import importlib.util
import inspect
import json
import re
import tomllib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from tests.support.documented import ROOT, Command, blocks, commands, documents

import quantizer as quantizer_package
from kubectl_quantization.parser import parser as plugin
from quantization_api.spec import QuantizationJobSpec
from quantizer.cli.parser import parser

pytestmark = pytest.mark.unit

COMMANDS = commands()
CRD = yaml.safe_load((ROOT / "crds/quantizationjobs.yaml").read_text())["spec"]
QUANTIZE = "quantizer.quantize"
PLACEHOLDER = re.compile(r"[A-Z][A-Z-]+|\.\.\.")
"""What a reader replaces."""
MADE = ("job.yaml", "too-small.yaml", "out/", "dist/")
"""Files that a command before it, or the reader, makes."""
OTHER_KINDS = {
    *("jobs", "pods", "events", "crd", "namespace", "clusterroles", "clusterrolebindings"),
    *("deploy", "lease", "secret"),
    *("validatingadmissionpolicies", "validatingadmissionpolicybindings"),
}


def there(name: str) -> bool:
    """Whether a file of the tree is there, or is somebody's own."""
    return bool(PLACEHOLDER.search(name)) or name.startswith(MADE) or (ROOT / name).exists()


def make(words: tuple[str, ...]) -> None:
    """Targets and variables of the Makefile."""
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z0-9-]+):", text, re.MULTILINE)
    for word in words:
        name, equals, _ = word.partition("=")
        if equals:
            assert re.search(rf"\b{name}\b", text), f"the Makefile does not look at {name}"
        else:
            assert word in targets, f"no target {word}"


def quantizer(words: tuple[str, ...]) -> None:
    """The command line's own parser, and the files of the tree."""
    options = parser().parse_args([re.sub(r"^(URI|FILE)$", "file:///there", word) for word in words])
    for value in vars(options).values():
        if isinstance(value, Path) or (isinstance(value, str) and value.startswith(("deploy/", "docs/"))):
            assert there(str(value)), f"{value} is not there"


def kubectl(words: tuple[str, ...]) -> None:
    """The verbs and options in use here; tests/integration/test_documented_kubectl.py runs them on a real server."""
    if words[0] == "quantization":
        if words[1:] not in ((), ("--version",)):
            plugin().parse_args(words[1:])
        return
    if words[0] in ("krew", "config"):
        return
    options = argparse.ArgumentParser(exit_on_error=False)
    for names in (
        ("-n", "--namespace"),
        ("-f",),
        ("-k",),
        ("-o",),
        ("--for",),
        ("--timeout",),
        ("--dry-run",),
        ("-l",),
        ("-p",),
        ("--type",),
        ("--raw",),
        ("--field-selector",),
    ):
        options.add_argument(*names)
    options.add_argument("--validate")
    options.add_argument("--from-literal", action="append")
    for flag in ("--server-side", "--force-conflicts", "--all", "--all-namespaces", "-A", "--previous"):
        options.add_argument(flag, action="store_true")
    verbs = ("apply", "get", "wait", "describe", "explain", "delete", "patch", "annotate", "create", "logs")
    options.add_argument("verb", choices=verbs)
    options.add_argument("objects", nargs="*")
    asked = options.parse_intermixed_args(words)
    for name in (asked.f, asked.k):
        assert name is None or there(name), f"{name} is not there"
    kinds = {CRD["names"][key] for key in ("plural", "singular")} | set(CRD["names"]["shortNames"])
    for one in [] if asked.verb == "explain" else asked.objects[:1]:
        assert set(one.partition("/")[0].split(",")) <= kinds | OTHER_KINDS, f"no kind {one}"


def helm(words: tuple[str, ...]) -> None:
    """The verbs in use, the chart that `make release` writes, and values that there are."""
    assert words[0] in ("install", "upgrade", "uninstall")
    values = json.loads((ROOT / "deploy/chart/values.schema.json").read_text())["properties"]
    for option, value in pairwise(words):
        assert option != "--set" or value.partition("=")[0].partition(".")[0] in values, f"no value {value}"
    for word in words:
        assert not word.endswith(".tgz") or word == "dist/quantization-operator-VERSION.tgz"


def docker(words: tuple[str, ...]) -> None:
    """`docker build` of a file that there is, under the release's version, which no page repeats; and its push."""
    if words[0] == "push":
        assert words[1].endswith(":VERSION")
        return
    assert words[:1] == ("build",) or words[:2] == ("buildx", "build")
    assert there(words[words.index("-f") + 1])
    assert words[words.index("-t") + 1].endswith(":VERSION")


def python(words: tuple[str, ...]) -> None:
    """`python -m` of a module that there is."""
    assert words[0] == "-m"
    assert importlib.util.find_spec(words[1]) is not None, f"no module {words[1]}"


def pytest_(words: tuple[str, ...]) -> None:
    """Markers and files."""
    markers = re.findall(r'^    "([a-z0-9]+): ', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for option, value in pairwise(words):
        if option == "-m":
            assert set(value.replace("not ", "").split(" and ")) <= set(markers)
    for word in words:
        assert not word.startswith("tests/") or there(word), f"{word} is not there"


def pip(words: tuple[str, ...]) -> None:
    """The parts of this project that can be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (parts,) = re.findall(r"^\.\[(.+)\]$", words[-1])
    assert set(parts.split(",")) <= set(project["optional-dependencies"])


def evaluated(words: tuple[str, ...]) -> None:
    """What a shell takes from a command of ours."""
    (inner,) = re.findall(r"^\$\((.+)\)$", " ".join(words))
    program, *rest = inner.split()
    CHECKS[program](tuple(rest))


def sed(words: tuple[str, ...]) -> None:
    """Scripts of `s`, and a file that there is."""
    scripts, file = words[:-1], words[-1]
    assert all(word == "-i" or re.fullmatch(r"(s([/|]).+\2.*\2(; )?)+", word) for word in scripts)
    assert there(file), f"{file} is not there"


def others(_: tuple[str, ...]) -> None:
    """Programs of others, which are not installed here."""


CHECKS: dict[str, Callable[[tuple[str, ...]], None]] = {
    "make": make,
    "quantizer": quantizer,
    "kubectl": kubectl,
    "docker": docker,
    "helm": helm,
    "python": python,
    "pytest": pytest_,
    "pip": pip,
    "eval": evaluated,
    "sed": sed,
    "aws": others,
    "cosign": others,
    "uv": others,
    "pre-commit": others,
}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_documented_command_is_one_that_there_is(command: Command) -> None:
    asked = command.words[: command.words.index(">")] if ">" in command.words else command.words
    program, *rest = [word for word in asked if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    name = program.removeprefix(".venv/bin/")
    assert name in CHECKS, f"nothing looks at {name}: add it here"
    CHECKS[name](tuple(rest))


def test_the_commands_are_found() -> None:
    programs = {command.words[0].removeprefix(".venv/bin/") for command in COMMANDS}
    assert {"make", "kubectl", "quantizer", "docker"} <= programs
    assert len(COMMANDS) > 30


@pytest.mark.parametrize(("place", "text"), blocks("yaml"), ids=lambda value: value.splitlines()[0])
def test_a_documented_manifest_is_one_that_is_taken(place: str, text: str) -> None:
    for document in yaml.safe_load_all(re.sub(r"^ *\.\.\.$", "", text, flags=re.MULTILINE)):
        if document.get("kind") != "QuantizationJob":
            continue
        if "workflow" in document["spec"]:
            QuantizationJobSpec.model_validate(document["spec"])
        else:  # a part, which shows where something stands
            fields = QuantizationJobSpec.model_fields
            assert set(document["spec"]) <= {info.alias or name for name, info in fields.items()}, place


@pytest.mark.parametrize(("place", "text"), blocks("python"), ids=lambda value: value.splitlines()[0])
def test_documented_python_calls_functions_as_they_are(place: str, text: str) -> None:
    tree = ast.parse(text)
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == QUANTIZE
    ]
    assert calls, f"nothing looks at this block of {place}"
    for call in calls:
        named = {keyword.arg or "": keyword.value for keyword in call.keywords}
        inspect.signature(quantizer_package.quantize).bind(*call.args, **named)
    names = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert all(there(name) for name in names if isinstance(name, str) and "/" in name)


def test_what_kubectl_get_prints_has_the_columns_of_the_crd() -> None:
    columns = [column["name"].upper() for column in CRD["versions"][0]["additionalPrinterColumns"]]
    (header,) = re.findall(r"^    (NAME +PHASE.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    shown = header.split()
    assert shown == ["NAME", *[name for name in columns if name in shown]]
    assert set(shown[1:]) == {
        column["name"].upper()
        for column in CRD["versions"][0]["additionalPrinterColumns"]
        if not column.get("priority")
    }


def test_a_documented_refusal_is_what_is_said() -> None:
    text = "\n".join(page.read_text() for page in documents())
    said = " ".join((ROOT / "crds/quantizationjobs.yaml").read_text().split())
    for field, sentence in re.findall(r"^    (spec\.\S+): Invalid value: (.+?); \.\.\.$", text, re.MULTILINE):
        assert sentence in said, field
