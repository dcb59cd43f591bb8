"""A newcomer's first ten minutes on a cluster of their own: the commands of docs/quick-start.md, in their order.

What the page writes in capitals is filled in. `docker` is a stand-in: this machine has none, so it takes the images
are built already. `make` finds its tools set up. All else is what a reader has: checkout, kubectl and registry.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.documented import command_blocks

from local_cluster import s3, uninstall
from local_cluster.images import ROOT
from local_cluster.progress import Progress
from quantization_api import ENGINE_VERSION

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

PAGE, ITSELF = "docs/quick-start.md", "tests/e2e/cluster/test_first_ten_minutes.py"
LINES = [
    line
    for block in command_blocks()
    if block.place == PAGE and ITSELF in (block.why_not_run or "")
    for line in block.lines
]
FAILS = re.compile(r"# fails: (\w+)$")
"""Behind a command that is to fail, as the page says."""
NEWCOMER = "newcomer"
LIMIT = 600.0
ROOMS = ("", "crds", "operator", "jobimage", "deploy/local", "plugin")
DOCKER = """\
#!/bin/sh -eu
# docker build -f FILE -t IMAGE . | docker push IMAGE
if [ "$1" = build ]; then test -f "$3"; exit; fi
case "$2" in
*/quantization-operator:*) image={operator} ;;
*/quantizer:*) image={quantizer} ;;
esac
exec skopeo copy --quiet --insecure-policy --src-tls-verify=false --dest-tls-verify=false "docker://$image" "docker://$2"
"""


@dataclass(frozen=True)
class Done:
    """How a line of the page ended."""

    line: str
    code: int
    said: str


def values(whole: Any) -> dict[str, str]:
    """What the page leaves to its reader, and what is said here."""
    found = whole.target.kubectl("-n", s3.NAMESPACE, "get", "secret", s3.CREDENTIALS, "-o", "json").stdout
    keys = {name: base64.b64decode(text).decode() for name, text in json.loads(found)["data"].items()}
    content = whole.images["quantizer"].rpartition(":")[2][
        :12
    ]  # a node keeps what it has pulled under a name
    return {
        "REGISTRY": f"{whole.settings.registry}/{content}",
        "VERSION": ENGINE_VERSION,
        "NAMESPACE": NEWCOMER,
        "KEY": keys["AWS_ACCESS_KEY_ID"],
        "SECRET": keys["AWS_SECRET_ACCESS_KEY"],
        "ENDPOINT": f"http://s3.{s3.NAMESPACE}.svc:8333",
    }


def filled_in(line: str, given: Mapping[str, str]) -> str:
    """The line as the reader types it. `make release REGISTRY=REGISTRY` names a variable that is called so too."""
    return re.sub(rf"(?<![A-Z_])({'|'.join(given)})(?![A-Z_=])", lambda found: given[found[0]], line)


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(scope="module")
def desk(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A checkout of the reader's own, and the environment of their shell."""
    folder = tmp_path_factory.mktemp("newcomer")
    checkout, bin_, home = folder / "checkout", folder / "bin", folder / "home"
    bin_.mkdir()
    home.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.split("\0")[:-1]:
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, checkout / name)
    config = home / "config"
    shutil.copy(whole.target.kubeconfig, config)
    tools = Path(sys.executable).parent
    program(bin_ / "docker", DOCKER.format_map(whole.images))
    program(bin_ / "make", f'#!/bin/sh\nexec {shutil.which("make")} -o .venv/complete BIN={tools} "$@"\n')
    path = [bin_, home / ".local/bin", whole.target.kubectl.program.parent, tools, os.environ["PATH"]]
    return checkout, {
        **os.environ,
        "PATH": os.pathsep.join(map(str, path)),
        "PYTHONPATH": os.pathsep.join(str(checkout / room) for room in ROOMS),
        "HOME": str(home),
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache/uv"),
        "KUBECONFIG": str(config),
        "BROWSER": "true",
    }


@pytest.fixture(scope="module")
def first_minutes(whole: Any, desk: tuple[Path, dict[str, str]]) -> Iterator[tuple[list[Done], float]]:
    """The page from its first line to its last, or to the first that ends otherwise than it says; and the seconds."""
    checkout, environment = desk
    given, done = values(whole), []
    uninstall.uninstall(whole.target, "keep", Progress())
    began = time.monotonic()
    try:
        for line in LINES:
            typed = filled_in(line, given)
            ended = subprocess.run(
                ["bash", "-c", typed], cwd=checkout, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT, check=False,
            )  # fmt: skip
            print(f"{time.monotonic() - began:5.0f} s  $ {line}\n{ended.stdout}")
            done.append(Done(line, ended.returncode, ended.stdout))
            if bool(FAILS.search(line)) != (ended.returncode != 0):
                break
        yield done, time.monotonic() - began
    finally:
        whole.target.kubectl("delete", "namespace", NEWCOMER, "--ignore-not-found", "--timeout=120s")
        whole.install_operator()


def test_every_line_of_the_page_ends_as_the_page_says(first_minutes: tuple[list[Done], float]) -> None:
    done, _ = first_minutes
    assert [each.line for each in done] == LINES, done[-1]
    for each in done:
        if expected := FAILS.search(each.line):
            assert expected[1] in each.said, each
        else:
            assert each.code == 0, each


def test_it_takes_ten_minutes_at_most(first_minutes: tuple[list[Done], float]) -> None:
    assert first_minutes[1] < LIMIT


def test_the_hint_says_what_the_page_changes(first_minutes: tuple[list[Done], float]) -> None:
    (hint,) = [each.said for each in first_minutes[0] if "failure.hint" in each.line]
    assert "memory" in hint


def test_all_three_jobs_succeed_and_the_report_is_there(
    whole: Any, first_minutes: tuple[list[Done], float], desk: tuple[Path, dict[str, str]]
) -> None:
    found = json.loads(whole.target.kubectl("-n", NEWCOMER, "get", "qj", "-o", "json").stdout)["items"]
    phases = {job["metadata"]["name"]: job["status"]["phase"] for job in found}
    assert phases == dict.fromkeys(("stories15m-gptq", "too-small", "locked-out"), "Succeeded")
    assert (desk[0] / "stories15m-gptq-report.html").read_text().startswith("<!doctype html>")
