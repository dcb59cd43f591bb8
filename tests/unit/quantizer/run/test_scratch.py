"""The scratch directory of a run, and what killed runs left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quantization_api.failures import Category, QuantizationError
from quantizer.run.scratch import OWNER_NAME, make_scratch, remove_ownerless

pytestmark = pytest.mark.unit

RUN = """
import sys, time
from pathlib import Path
from quantizer.run.scratch import make_scratch

with make_scratch(Path(sys.argv[1])) as scratch:
    (Path(scratch) / "shard").write_bytes(bytes(1000))
    print(scratch, flush=True)
    time.sleep(60)
"""


def start(parent: Path) -> tuple[subprocess.Popen[str], Path]:
    """A run in a process of its own, and its scratch."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(parent)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_a_living_one_has_is_not(
    tmp_path: Path,
) -> None:
    killed, left = start(tmp_path)
    living, used = start(tmp_path)
    with killed, living:
        try:
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            assert (left / "shard").exists()
            with make_scratch(tmp_path) as scratch:
                assert not left.exists()
                assert (used / "shard").exists()
                assert sorted(tmp_path.iterdir()) == sorted([used, Path(scratch)])
                assert remove_ownerless(tmp_path) == 0
        finally:
            killed.kill()
            living.kill()
    assert remove_ownerless(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_scratch_is_removed_at_the_end_however_it_ends(tmp_path: Path) -> None:
    def failing() -> None:
        with make_scratch(tmp_path) as scratch:
            (Path(scratch) / "shard").write_bytes(b"x")
            raise RuntimeError("fails")

    with pytest.raises(RuntimeError, match="fails"):
        failing()
    assert list(tmp_path.iterdir()) == []


def test_directories_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run-of-another-program").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / OWNER_NAME).touch()
    (tmp_path / "run-link").symlink_to("elsewhere")
    (tmp_path / "run-empty").mkdir()
    (tmp_path / "run-planted").mkdir()
    (tmp_path / "run-planted" / OWNER_NAME).symlink_to("/dev/null")
    before = sorted(tmp_path.rglob("*"))
    assert remove_ownerless(tmp_path) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_scratch_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(QuantizationError, match="does not exist") as caught,
        make_scratch(tmp_path / "nowhere"),
    ):
        pass
    assert caught.value.category is Category.INTERNAL
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(QuantizationError, match="not writable"), make_scratch(tmp_path):
            pass
