"""Order of the tests against real servers."""

import pytest

LONG = (
    "operator_removal",
    "operator_uninstall",
    "quantizer_s3",
    "operator_lease",
    "quantizer_killed",
    "operator_lifecycle",
)
"""Files that take longest: with --no-loadscope-reorder they begin first, and the short ones fill the gaps."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long files first, each in its own order."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    name = item.path.stem.removeprefix("test_")
    return LONG.index(name) if name in LONG else len(LONG)
