"""The commands and manifests that the documents show, as a reader would copy them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ("api.md", "failures.md", "metrics.md", "settings.md")
INDENT = "    "
SHELLS = ("bash", "sh", "console")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
"""Above a block of commands: why no test runs it as it stands."""
IN_LINE = re.compile(r"`(make [^`]+|kubectl [^`]+|quantizer [a-z]+ [^`]+|python -m [^`]+)`")


@dataclass(frozen=True)
class Command:
    """A command line with the place that it is from."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class CommandBlock:
    """Commands that stand together, as a reader pastes them."""

    place: str
    lines: tuple[str, ...]
    """What is typed, without prompts and without what is printed."""
    why_not_run: str | None
    """What the page says, for tests and not for readers, about why no test runs it as it stands."""

    @property
    def commands(self) -> list[Command]:
        """Its lines, word by word."""
        return [_command(self.place, line) for line in self.lines]

    @property
    def programs(self) -> set[str]:
        """What it calls."""
        return {command.words[0] for command in self.commands}

    def __str__(self) -> str:
        return f"{self.place}: {self.lines[0]}"


def documents() -> list[Path]:
    """Everything that people read, but for the pages that are made from the code."""
    pages = [
        ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/examples/README.md")
    ]
    return pages + sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name not in GENERATED)


def commands() -> list[Command]:
    """The commands of all blocks, those within a sentence, and those in the heads of the examples."""
    found = [command for path in documents() for command in _of_page(path)]
    for path in sorted((ROOT / "deploy/examples").glob("*.yaml")):
        head = [line.removeprefix("#") for line in path.read_text().splitlines() if line.startswith("#")]
        found += _of_blocks(path, [line.removeprefix(" ") for line in head])
    return found


def blocks(wanted: str) -> list[tuple[str, str]]:
    """The blocks of a language (yaml, python): place, text."""
    return [
        (str(path.relative_to(ROOT)), text)
        for path in documents()
        for language, text in FENCE.findall(path.read_text())
        if language == wanted
    ]


def command_blocks() -> list[CommandBlock]:
    """All blocks of commands of the pages, in their order."""
    return [block for path in documents() for block in _blocks(path, path.read_text())]


def _of_page(path: Path) -> Iterator[Command]:
    text = path.read_text()
    for block in _blocks(path, text):
        yield from block.commands
    for found in IN_LINE.findall(FENCE.sub("", text)):
        yield _command(str(path.relative_to(ROOT)), found)


def _of_blocks(path: Path, lines: list[str]) -> Iterator[Command]:
    for block in _blocks(path, "\n".join(lines)):
        yield from block.commands


def _blocks(path: Path, text: str) -> Iterator[CommandBlock]:
    """The blocks that are indented, or fenced as those of a shell."""
    place = str(path.relative_to(ROOT))
    lines: list[str] = []
    above = ""
    for line in [*FENCE.sub(_indented, text).splitlines(), ""]:
        if line.startswith(INDENT) and not line.lstrip().startswith(("- ", "* ")):
            lines.append(line.removeprefix(INDENT))
            continue
        if lines:
            marked = NOT_RUN.match(above)
            yield CommandBlock(place, _typed(lines), marked and marked[1])
            lines, above = [], ""
        above = line or above


def _indented(fenced: re.Match[str]) -> str:
    """A block of a shell as an indented one; nothing in place of another one."""
    language, text = fenced.groups()
    return "".join(f"{INDENT}{line}\n" for line in text.splitlines()) if language in SHELLS else ""


def _typed(lines: list[str]) -> tuple[str, ...]:
    """Where a block has prompts, its other lines are what is printed."""
    prompts = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return tuple(prompts or lines)


def _command(place: str, line: str) -> Command:
    return Command(place, tuple(shlex.split(line, comments=True)))
