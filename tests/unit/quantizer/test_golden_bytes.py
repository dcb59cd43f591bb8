"""What the engine computes has not changed: its artifacts are those that were recorded, byte by byte.

On a kind of processor that nobody has recorded, only what no sum decides is compared; see tests.support.golden.
"""

import json
from pathlib import Path

import pytest
from tests.support.golden import RECORD, RECORD_COMMAND, Digests, artifacts, digests, layouts, machine

from quantization_api import ENGINE_VERSION

pytestmark = pytest.mark.unit

CHANGELOG = Path(__file__).parents[3] / "CHANGELOG.md"
Made = dict[str, tuple[Digests, Digests]]


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, dict[str, Digests]]]:
    """The committed record."""
    return dict(json.loads(RECORD.read_text()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Digests and layouts of what this engine makes, by case."""
    folder = tmp_path_factory.mktemp("golden")
    return {case: (digests(path), layouts(path)) for case, path in artifacts(folder)}


def test_the_record_is_of_this_engine_and_the_changelog_says_what_changed(
    recorded: dict[str, object],
) -> None:
    assert recorded["engine"] == ENGINE_VERSION, f"record the bytes of the new engine: {RECORD_COMMAND}"
    assert f"## {ENGINE_VERSION}" in CHANGELOG.read_text()


def test_names_sizes_and_side_files_are_those_of_the_record(
    made: Made, recorded: dict[str, dict[str, Digests]]
) -> None:
    assert {case: layout for case, (_, layout) in made.items()} == recorded["layouts"]


def test_bytes_are_those_of_the_record(
    made: Made, recorded: dict[str, dict[str, dict[str, Digests]]]
) -> None:
    known = recorded["digests"].get(machine())
    if known is None:
        pytest.skip(f"no bytes are recorded for {machine()}; add them with {RECORD_COMMAND}")
    new = [case for case in made if case not in known]
    assert not new, f"nobody has recorded these cases on this machine; run {RECORD_COMMAND}: {new}"
    changed = [case for case, (files, _) in made.items() if files != known[case]]
    assert not changed, (
        f"bits changed: bump ENGINE_VERSION and the CHANGELOG, then run {RECORD_COMMAND}; "
        f"or find out why these artifacts are no longer what they were: {changed}"
    )
