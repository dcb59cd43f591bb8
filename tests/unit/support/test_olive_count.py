"""The tables of what can be imported from Olive."""

import shutil
from pathlib import Path

import pytest
from tests.support.olive_count import OWN_CONFIGS, End, Group, counted, tables

pytestmark = pytest.mark.unit

ENDS = {
    "awq": (Group.OURS, End.IMPORTED),
    "everyday": (Group.OURS, End.IMPORTED),
    "gptqmodel": (Group.OURS, End.IMPORTED),
    "gptqmodel_more": (Group.OURS, End.WITHOUT),
    "mixed_bits": (Group.MORE, End.WITHOUT),
    "builder_alone": (Group.BUILDER, End.CHANGE),
}


def test_each_run_config_is_counted_by_its_passes_and_its_end(tmp_path: Path) -> None:
    for name in ENDS:
        shutil.copy(OWN_CONFIGS / f"{name}.json", tmp_path)
    (tmp_path / "another.json").write_text('{"model_type": "llama"}')
    (tmp_path / "broken.json").write_text("{")
    found = list(counted([tmp_path]))
    assert {item.path.stem: (item.group, item.end) for item in found} == ENDS
    assert [item.path.stem for item in found if item.manifest is None] == ["builder_alone"]
    assert "| all | 6 | 3 | 2 | 1 |" in tables(found)
