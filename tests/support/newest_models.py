"""The table of docs/models.md with the newest transformers of the package index, in an environment of its own.

`python -m tests.support.newest_models` makes the environment anew in the user's cache, writes the table into
build/models, and prints what is not as on the page. It exits 1 where a type that is exact there is not exact any more,
or ends in something that is no refusal; nothing in docs/ is written.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.environments import CACHE, ROOT, find_uv

PAGE = ROOT / "docs/models.md"
KEPT = ROOT / "build/models"
ROOMS = (".", "crds", "operator", "jobimage", "plugin", "deploy/local")
EXACT = "| exact |"
NO_REFUSAL = "no refusal: "

Rows = dict[tuple[int, str], str]
"""By part of the page and type."""


def rows_of(page: str) -> Rows:
    """The rows of a page."""
    return {
        (part, line.split("`")[1]): line
        for part, text in enumerate(page.split("\n## "))
        for line in text.splitlines()
        if line.startswith("| `")
    }


def differences(before: Rows, now: Rows) -> Iterator[str]:
    """Lines that say what is not as it was."""
    for key in before.keys() - now.keys():
        yield f"gone: {before[key]}"
    for key, row in now.items():
        if key not in before:
            yield f"new: {row}"
        elif row != before[key]:
            yield f"was: {before[key]}\n now: {row}"


def faults(before: Rows, now: Rows) -> list[str]:
    """Types that were exact and are not, and those that end in something that is no refusal."""
    return [
        name
        for (part, name), row in now.items()
        if NO_REFUSAL in row or (EXACT in before.get((part, name), "") and EXACT not in row)
    ]


def fresh_interpreter(home: Path) -> Path:
    """The interpreter of a new environment: what development needs, with the newest transformers."""
    uv, python = find_uv(), home / "bin/python"
    install = ["pip", "install", "--quiet", "--python", str(python)]
    shutil.rmtree(home, ignore_errors=True)
    for command in (
        ["venv", "--quiet", "--python", "3.11", str(home)],
        [*install, "--no-deps", "-r", "requirements/dev.txt"],
        [*install, "--upgrade", "--refresh-package", "transformers", "transformers"],
    ):
        subprocess.run([uv, *command], cwd=ROOT, check=True)
    return python


def table_of(python: Path) -> str:
    """The page that an interpreter makes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ROOMS)}
    command = [str(python), "-m", "tests.support.model_table", "--going-on"]
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def main() -> int:
    """Makes the table, keeps it and compares it."""
    with tempfile.TemporaryDirectory(dir=_made(CACHE)) as home:
        page = table_of(fresh_interpreter(Path(home) / "newest"))
    before, now = rows_of(PAGE.read_text()), rows_of(page)
    kept = _made(KEPT) / "newest.md"
    kept.write_text(page)
    print(*differences(before, now), sep="\n")
    wrong = faults(before, now)
    print(f"{len(now)} types in {kept}; worse than docs/models.md: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
