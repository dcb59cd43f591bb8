"""How many run configs of Olive can be imported, and why not the others: the tables of docs/olive.md.

    python -m tests.support.olive_count FOLDER...

Every JSON file in the folders that is a run config and names a pass of ours is imported with places for all that must
be given. One that is refused is imported once more with the options that its message ends with.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from quantization_api.failures import QuantizationError
from quantizer.cli.olive.message import blocking
from quantizer.cli.olive.notes import Kind, Note, Object
from quantizer.cli.olive.others import comes_after_the_job
from quantizer.cli.olive.run_config import Imported, load_config, translate
from quantizer.cli.olive.spellings import SPELLINGS

OWN_CONFIGS = Path(__file__).parent / "olive_configs"
"""Small run configs, each of a kind that people have."""
OURS = frozenset(name.lower() for name in SPELLINGS)
BUILDER = "modelbuilder"


class Group(Enum):
    """What the passes of a run config are; the value is the table's row."""

    OURS = "a quantizer of ours, and nothing else that changes a number"
    MORE = "a quantizer of ours, and passes that are not available"
    BUILDER = "ModelBuilder, without a quantizer of ours before it"


class End(Enum):
    """What becomes of a run config; the value is the table's column."""

    IMPORTED = "imported"
    WITHOUT = "imported without what the refusal offers to leave out"
    CHANGE = "to be changed by hand"


@dataclass(frozen=True)
class Counted:
    """One run config."""

    path: Path
    group: Group
    end: End
    reasons: frozenset[str]
    """Why it is not imported as it stands."""
    manifest: Object | None
    """What was imported, at once or without what is not available."""


def counted(folders: Iterable[Path]) -> Iterator[Counted]:
    """Every run config in the folders that names a pass of ours."""
    for path in sorted(found for folder in folders for found in folder.rglob("*.json")):
        try:
            config = load_config(path)
        except QuantizationError:
            continue
        types = pass_types(config)
        if OURS & set(types):
            yield _counted(path, config, types)


def pass_types(config: Object) -> list[str]:
    """The types of a run config's passes, in lower case; none for any other JSON."""
    passes = config.get("passes")
    if not isinstance(passes, dict):
        return []
    items = [item for value in passes.values() for item in (value if isinstance(value, list) else [value])]
    return [str(item.get("type")).lower() for item in items if isinstance(item, dict)]


def tables(configs: Sequence[Counted]) -> str:
    """The tables of docs/olive.md."""
    rows = [["", "run configs", *(end.value for end in End)]]
    for group in Group:
        ends = Counter(item.end for item in configs if item.group is group)
        rows.append([group.value, str(ends.total()), *(str(ends[end]) for end in End)])
    every = Counter(item.end for item in configs)
    rows.append(["all", str(every.total()), *(str(every[end]) for end in End)])
    reasons = Counter(reason for item in configs for reason in item.reasons)
    return "\n".join(
        [
            *_table(rows),
            "",
            *_table([["reason", "run configs"], *([r, str(n)] for r, n in reasons.most_common())]),
        ]
    )


def _counted(path: Path, config: Object, types: Sequence[str]) -> Counted:
    first = _with_places(config, [])
    found = blocking(first.notes, strict=False)
    reasons = frozenset(note.reason for note in found)
    group = _group(types)
    if not found:
        return Counted(path, group, End.IMPORTED, reasons, first.manifest)
    if all(note.option for note in found):
        second = _with_places(config, [_dropped(note) for note in found])
        if not blocking(second.notes, strict=False):
            return Counted(path, group, End.WITHOUT, reasons, second.manifest)
    return Counted(path, group, End.CHANGE, reasons, None)


def _group(types: Sequence[str]) -> Group:
    quantizers = OURS & set(types) - {BUILDER}
    if not quantizers:
        return Group.BUILDER
    known = all(kind in OURS or comes_after_the_job(kind) for kind in types)
    return Group.OURS if known else Group.MORE


def _with_places(config: Object, drop: Sequence[str]) -> Imported:
    """The import with a place for everything that must be given."""
    options: dict[str, Any] = {
        "name": "counted",
        "output_uri": "s3://artifacts/counted",
        "model_path": "s3://models/counted",
        "drop": drop,
    }
    needed = [note for note in translate(config, **options).notes if note.kind is Kind.NEEDED]
    places = {(note.option or "").split()[-1].partition("=")[0]: "s3://texts/counted.txt" for note in needed}
    return translate(config, data_names=places, **options)


def _dropped(note: Note) -> str:
    return (note.option or "").removeprefix("--drop ")


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


if __name__ == "__main__":
    print(tables(list(counted(Path(folder) for folder in sys.argv[1:]))))
