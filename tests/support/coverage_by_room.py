"""The coverage of the last run by room, for a terminal: `python -m tests.support.coverage_by_room`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

PACKAGES = ("quantization_api", "quantization_operator", "quantizer", "local_cluster")
TOGETHER = "together"


@dataclass(frozen=True)
class Covered:
    """Statements of a room, and how many of them did not run."""

    statements: int = 0
    missed: int = 0

    def __add__(self, other: "Covered") -> "Covered":
        return Covered(self.statements + other.statements, self.missed + other.missed)

    @property
    def percent(self) -> int:
        """Rounded down, so that 100 means every statement."""
        return 100 * (self.statements - self.missed) // self.statements if self.statements else 100


def room_of(file: PurePath) -> str:
    """The room of a file: a folder of its package, or the package for a module that lies in no folder."""
    named = [place for place, part in enumerate(file.parts) if part in PACKAGES]
    package = named[-1]  # the checkout's own folder may have the name of a package too
    return "/".join(file.parts[package:-1][:2])


def by_room(files: Iterable[tuple[PurePath, Covered]]) -> dict[str, Covered]:
    """Each room in the order of its name, and all of them together."""
    rooms: dict[str, Covered] = {}
    for file, covered in files:
        room = room_of(file)
        rooms[room] = rooms.get(room, Covered()) + covered
    return dict(sorted(rooms.items())) | {TOGETHER: sum(rooms.values(), Covered())}


def table(rooms: dict[str, Covered]) -> str:
    """One line for each room."""
    lines = [f"{'room':<34}{'statements':>12}{'missed':>8}{'covered':>9}"]
    lines += [
        f"{room:<34}{covered.statements:>12}{covered.missed:>8}{covered.percent:>8}%"
        for room, covered in rooms.items()
    ]
    return "\n".join(lines)


def measured() -> Iterator[tuple[PurePath, Covered]]:
    """The files of the last run."""
    from coverage import Coverage

    coverage = Coverage()
    coverage.load()
    for file in coverage.get_data().measured_files():
        _, statements, _, missing, _ = coverage.analysis2(file)
        yield Path(file), Covered(len(statements), len(missing))


if __name__ == "__main__":
    print(table(by_room(measured())))
