"""docs/faults.md names tests that exist, and `make faults` runs each of them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.fault_table import PAGE, TESTS, Named, file_of, table

pytestmark = pytest.mark.unit

ROOT = PAGE.parents[1]
FILES = {file_of(path): path for path in TESTS.rglob("test_*.py")}
ALL = [named for row in table().values() for named in row]


def contents(path: Path) -> list[str]:
    """Names of the functions and the classes of a file that pytest takes for tests."""
    names = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            names.append(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names += [node.targets[0].id] if node.targets[0].id.startswith("Test") else []
    return names


def test_there_are_faults() -> None:
    assert len(table()) >= 25


@pytest.mark.parametrize("named", ALL, ids=lambda named: f"{named.file}-{named.pattern}")
def test_what_is_named_is_a_test(named: Named) -> None:
    assert named.file in FILES
    found = [name for name in contents(FILES[named.file]) if named.fits(named.file, name)]
    assert found
    assert named.pattern == "*" or len(found) == 1, f"one pattern for {found}"


@pytest.mark.nightly
def test_make_faults_runs_what_is_named() -> None:
    (chosen,) = re.findall(
        r'^\tpytest .*-m "([^"]*)".*\$\(FAULTS\)', (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    files = sorted({str(FILES[named.file]) for named in ALL})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", chosen]
    done = subprocess.run(
        [*command, *files], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = {
        (file_of(ROOT / file), test.partition("[")[0])
        for file, _, test in (line.partition("::") for line in done.stdout.splitlines() if "::" in line)
    }
    for named in ALL:
        assert any(named.fits(file, test.partition("::")[0]) for file, test in run), f"not run: {named}"


def test_what_only_make_faults_runs_is_named() -> None:
    own = [*TESTS.glob("faults/test_*.py"), *TESTS.glob("e2e/cluster/test_*.py")]
    marked = {file_of(path) for path in own if "pytest.mark.faults" in path.read_text()}
    assert marked == marked & {named.file for named in ALL}
