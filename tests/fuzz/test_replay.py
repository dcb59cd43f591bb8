"""What the quantizer did not bear once: each mutation ends with its category now, or with a sound result.

In a process of its own, which forks one for each: torch must not have computed in it before.
"""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.nightly]

MUTATIONS = Path(__file__).with_name("mutations.jsonl")
ROOT = Path(__file__).parents[2]


def test_the_mutations_that_failed_once_do_not_fail_again() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--replay", str(MUTATIONS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    count = len(MUTATIONS.read_text().splitlines())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{count} mutations in" in ended.stdout
