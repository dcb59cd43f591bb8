"""The pages' own commands without a cluster, as a reader pastes them: all blocks of a page, in order, in one folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.choice import mostly_nightly
from tests.support.documented import ROOT, CommandBlock, blocks, command_blocks

pytestmark = pytest.mark.integration

HERE = {"quantizer", "eval"}
EVERY_TIME = ("docs/olive.md",)
"""The other pages compute for a minute and more."""


def of_page(page: str) -> list[CommandBlock]:
    """The blocks of a page that run here."""
    return [
        block
        for block in command_blocks()
        if block.place == page and block.programs <= HERE and block.why_not_run is None
    ]


PAGES = sorted({block.place for block in command_blocks() if of_page(block.place)})


def runs(folder: Path, *command: str, text: str) -> None:
    """Run a text in a folder that has what a checkout has beside it."""
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "BROWSER": "true",
    }
    done = subprocess.run(
        command,
        input=text,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("deploy", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize("page", mostly_nightly(PAGES, EVERY_TIME))
def test_the_blocks_of_a_page_run(page: str, folder: Path) -> None:
    for block in of_page(page):
        runs(folder, "bash", "-e", text="\n".join(block.lines))


@pytest.mark.nightly
@pytest.mark.parametrize(("place", "text"), blocks("python"), ids=lambda value: value.splitlines()[0])
def test_python_of_a_page_runs(place: str, text: str, folder: Path) -> None:
    runs(folder, sys.executable, "-", text=text)
