"""Every block of commands is run by a test as it stands, or its page says why not."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.documented import FENCE, ROOT, SHELLS, CommandBlock, command_blocks, documents

pytestmark = pytest.mark.unit

LANGUAGES = {*SHELLS, "yaml", "python", "text", "Dockerfile"}
"""Of fenced blocks: commands, what other tests of this folder look at, and what is only shown."""
PLACEHOLDER = re.compile(r"[A-Z][A-Z-]{2,}")


def runs_here(block: CommandBlock) -> bool:
    return block.programs <= {"quantizer", "eval"}


def waits_or_gets(block: CommandBlock) -> bool:
    return all({"wait", "get"} & set(command.words) for command in block.commands)


def removes(block: CommandBlock) -> bool:
    return block.place == "docs/operations.md" and all(
        command.words[1] in ("delete", "annotate") for command in block.commands
    )


RUN_BY: dict[str, Callable[[CommandBlock], bool]] = {
    "tests/integration/test_documented_commands_run.py": runs_here,
    "tests/integration/test_documented_kubectl.py": waits_or_gets,
    "tests/integration/test_operator_uninstall.py": removes,
}
"""Which test runs which blocks."""


def who_runs(block: CommandBlock) -> list[str]:
    return [test for test, takes in RUN_BY.items() if takes(block)]


@pytest.mark.parametrize("block", command_blocks(), ids=str)
def test_a_block_is_run_or_its_page_says_why_not(block: CommandBlock) -> None:
    if block.why_not_run is None:
        assert who_runs(block), (
            "no test runs this block: write one and name it in RUN_BY, or say above the block in its page why: "
            "<!-- not run: ... -->"
        )
        words = [word for command in block.commands for word in command.words]
        assert not any(PLACEHOLDER.fullmatch(word) for word in words), "what is run has no placeholders"


@pytest.mark.parametrize("block", [b for b in command_blocks() if b.why_not_run], ids=str)
def test_a_reason_names_tests_that_there_are(block: CommandBlock) -> None:
    assert block.why_not_run is not None
    for name in re.findall(r"\btests/[\w/.]+", block.why_not_run):
        assert (ROOT / name.rstrip(".")).exists(), name


def test_the_tests_that_run_blocks_are_there() -> None:
    assert all((ROOT / test).is_file() for test in RUN_BY)


@pytest.mark.parametrize("page", documents(), ids=lambda page: page.name)
def test_a_fenced_block_says_what_it_is(page: Path) -> None:
    assert {language for language, _ in FENCE.findall(page.read_text())} <= LANGUAGES
