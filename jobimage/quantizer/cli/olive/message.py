"""The one message of an import: what is in the way, what must be given, and what was left out."""

from collections.abc import Iterable, Sequence

from quantizer.cli.olive.notes import BLOCKING, Kind, Note

CANNOT = "the run config cannot be imported as it stands"
STRICT = "--strict refuses what is left out and what is not part of the job."


def blocking(notes: Iterable[Note], strict: bool) -> list[Note]:
    """The notes with which there is no manifest."""
    return [note for note in notes if strict or note.kind in BLOCKING]


def message(notes: Sequence[Note], strict: bool) -> str:
    """All notes, under a heading for each kind; one line for all places that have the same reason."""
    by_strict = strict and not any(note.kind in BLOCKING for note in notes)
    return "\n".join([CANNOT, *lines(notes), *([STRICT] if by_strict else [])])


def lines(notes: Sequence[Note]) -> list[str]:
    """The notes for people, in the order of the kinds."""
    found = []
    for kind in Kind:
        of_kind = [note for note in notes if note.kind is kind]
        if of_kind:
            found += [kind.value, *(f"  {line}" for line in _grouped(of_kind))]
    return found


def hint(found: Sequence[Note]) -> str:
    """What to do about the notes in the way."""
    options = " ".join(dict.fromkeys(note.option for note in found if note.option))
    if any(note.option is None for note in found):
        return "Change the run config as these lines say." + (f" Then add: {options}" if options else "")
    if all(note.kind is Kind.NEEDED for note in found):
        return f"Add: {options}"
    return f"To import the rest, add: {options}"


def _grouped(notes: Sequence[Note]) -> list[str]:
    places: dict[str, list[str]] = {}
    for note in notes:
        places.setdefault(note.reason, []).append(note.path)
    return [f"{', '.join(paths)}: {reason}" for reason, paths in places.items()]
