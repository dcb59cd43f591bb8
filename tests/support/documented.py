"""The commands and manifests that the documents show, as a reader would copy them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GENERATED = ("api.md", "failures.md", "metrics.md", "settings.md")
INDENT = "    "
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IN_LINE = re.compile(r"`(make [^`]+|kubectl [^`]+|quantizer [a-z]+ [^`]+|python -m [^`]+)`")


@dataclass(frozen=True)
class Command:
    """A command line with the place that it is from."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


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


def _of_page(path: Path) -> Iterator[Command]:
    text = FENCE.sub("", path.read_text())
    yield from _of_blocks(path, text.splitlines())
    for found in IN_LINE.findall(text):
        yield _command(path, found)
    for language, block in FENCE.findall(path.read_text()):
        if language in ("bash", "sh", "console"):
            yield from _of_blocks(path, [INDENT + line for line in block.splitlines()])


def _of_blocks(path: Path, lines: list[str]) -> Iterator[Command]:
    """The commands of indented blocks; where one has prompts, the other lines of it are what is printed."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.startswith(INDENT) and not line.lstrip().startswith(("- ", "* ")):
            block.append(line.removeprefix(INDENT))
            continue
        prompts = [said.removeprefix("$ ") for said in block if said.startswith("$ ")]
        yield from (_command(path, said) for said in prompts or block)
        block = []


def _command(path: Path, line: str) -> Command:
    return Command(str(path.relative_to(ROOT)), tuple(shlex.split(line, comments=True)))
