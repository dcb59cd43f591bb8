"""What a command imports before it knows that it has something to do: a typo costs no torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.support.manifests import VALID, manifest
from tests.support.quantizer_requests import ROOT

from quantization_api.failures import ExitCode

pytestmark = pytest.mark.unit

HEAVY = ("torch", "transformers", "numpy", "boto3", "matplotlib", "onnx", "onnxruntime", "scipy", "pydantic")
"""Each takes from a tenth of a second to several."""
CONTRACT = ["pydantic"]
"""What a manifest is checked with."""
SCRIPT = f"""
import json, os, sys
real = os._exit
def leave(code):
    print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]), file=sys.stderr, flush=True)
    real(0)
os._exit = leave
from quantizer.__main__ import main
main()
"""


def ended(*arguments: str) -> tuple[int, list[str], str]:
    """The exit code of a command, the heavy modules that it imported, and what it said on standard error."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "80"},
    )
    *said, last = process.stderr.splitlines()
    code, modules = json.loads(last)
    return code, modules, "\n".join(said)


@pytest.mark.parametrize("command", ["", "run", "verify", "inspect", "report", "compare", "delete", "import"])
@pytest.mark.parametrize("option", ["--help", "--version", "--no-such-option"])
def test_help_version_and_usage_import_nothing_heavy(command: str, option: str) -> None:
    code, modules, _ = ended(*([command] if command else []), option)
    assert modules == []
    assert code in (ExitCode.DONE, ExitCode.USAGE)
    assert (code == ExitCode.DONE) == (option != "--no-such-option")


def test_ctrl_c_is_ours_before_anything_slow_is_imported() -> None:
    """Before that the interpreter answers it, with a traceback; site, which may import anything, is left out."""
    script = (
        "import os, sys; sys.path = sys.argv[1:] + sys.path; before = set(sys.modules)\n"
        "import _signal; _signal.signal = lambda *_: os._exit(print(*set(sys.modules) - before, flush=True) or 0)\n"
        "from quantizer.__main__ import main; main()"
    )
    paths = [path for path in sys.path if path]
    command = ["env", "--default-signal=INT", sys.executable, "-S", "-c", script, *paths]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert set(said.stdout.split()) <= {"quantizer", "quantizer.__main__", "_signal"}


def test_a_manifest_with_a_typo_is_refused_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(manifest(("workflow.passes.0.bitz", 4))))
    code, modules, said = ended("run", "-f", str(path))
    assert (code, modules) == (ExitCode.INVALID_WORKFLOW, CONTRACT)
    assert "bitz" in said


@pytest.mark.parametrize(
    "arguments",
    [["run", "-f"], ["verify"], ["inspect"], ["report"], ["compare", "deploy"], ["delete"], ["import"]],
    ids=lambda a: a[0],
)
def test_a_path_that_does_not_exist_ends_with_66_and_asks_to_check_it(
    arguments: list[str], tmp_path: Path
) -> None:
    code, modules, said = ended(*arguments, str(tmp_path / "typo"))
    assert (code, modules) == (ExitCode.NOT_FOUND, CONTRACT)
    assert "typo" in said
    assert "check the path" in said.lower()


@pytest.mark.parametrize("command", [["run", "-f"], ["verify"]], ids=lambda a: a[0])
def test_so_does_a_directory_for_temporary_files(command: list[str], tmp_path: Path) -> None:
    example = "deploy/examples/gptq-stories15m-local.yaml" if command[0] == "run" else "deploy/examples"
    code, modules, said = ended(*command, example, "--scratch", str(tmp_path / "typo"))
    assert (code, modules) == (ExitCode.NOT_FOUND, CONTRACT)
    assert "check the path" in said.lower()


@pytest.mark.parametrize(
    "field",
    ["workflow.input_model.model_path", "workflow.data_configs.0.load_dataset_config.data_name"],
)
def test_so_does_a_path_in_the_manifest(field: str, tmp_path: Path) -> None:
    here = {
        "workflow.input_model.model_path": f"{ROOT}/deploy/examples/stories15m",
        "workflow.data_configs.0.load_dataset_config.data_name": f"{ROOT}/README.md",
        field: str(tmp_path / "typo"),
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(manifest(*here.items())))
    code, modules, said = ended("run", "-f", str(path))
    assert (code, modules) == (ExitCode.NOT_FOUND, CONTRACT)
    assert str(tmp_path / "typo") in said
    assert "check the path" in said.lower()


def test_an_olive_file_gives_the_command_that_imports_it() -> None:
    code, modules, said = ended("run", "-f", "deploy/examples/olive-gptq.json")
    assert (code, modules) == (ExitCode.INVALID_WORKFLOW, CONTRACT)
    assert "quantizer import deploy/examples/olive-gptq.json -o olive-gptq-job.yaml" in said
    assert VALID["kind"] in said
