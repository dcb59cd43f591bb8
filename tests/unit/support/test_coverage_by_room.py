"""The table of coverage by room."""

from pathlib import PurePath

import pytest
from tests.support.coverage_by_room import Covered, by_room, room_of, table

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("file", "room"),
    [
        ("/a/quantizer/operator/quantization_operator/reconcile.py", "quantization_operator"),
        ("jobimage/quantizer/machine.py", "quantizer"),
        ("jobimage/quantizer/cli/olive/fields.py", "quantizer/cli"),
    ],
)
def test_a_file_is_in_a_folder_of_its_package_or_in_the_package(file: str, room: str) -> None:
    assert room_of(PurePath(file)) == room


def test_rooms_are_summed_and_all_of_them_together() -> None:
    files = {
        "quantizer/store/s3.py": Covered(100, 1),
        "quantizer/store/claim.py": Covered(99, 0),
        "quantizer/cli/run.py": Covered(1, 1),
        "quantizer/store/__init__.py": Covered(0, 0),
    }
    rooms = by_room((PurePath(file), covered) for file, covered in files.items())
    assert rooms == {
        "quantizer/cli": Covered(1, 1),
        "quantizer/store": Covered(199, 1),
        "together": Covered(200, 2),
    }
    assert [line.split() for line in table(rooms).splitlines()[1:]] == [
        ["quantizer/cli", "1", "1", "0%"],
        ["quantizer/store", "199", "1", "99%"],
        ["together", "200", "2", "99%"],
    ]
