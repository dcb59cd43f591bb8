"""Prints what `pip install NAMES` would bring, as far as it is installed here: entries of site-packages by line.

Usage: python needed_packages.py NAME ...
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(names: list[str]) -> list[str]:
    """The packages and everything that they require, without extras that nobody asked for."""
    found: dict[str, None] = {}
    left = list(names)
    while left:
        name = canonicalize_name(left.pop())
        try:
            requires = [Requirement(line) for line in distribution(name).requires or ()]
        except PackageNotFoundError:
            continue  # for another platform; a name that the card has must be there, see main
        if name not in found:
            found[name] = None
            left += [one.name for one in requires if one.marker is None or one.marker.evaluate({"extra": ""})]
    return list(found)


def main() -> None:
    """Prints the entries."""
    for name in sys.argv[1:]:
        distribution(name)
    entries = {
        file.parts[0]
        for name in needed(sys.argv[1:])
        for file in distribution(name).files or ()
        if file.parts[0] not in ("..", "__pycache__")
    }
    site = Path(str(distribution("packaging").locate_file("")))
    print("\n".join(str(site / entry) for entry in sorted(entries)))


main()
