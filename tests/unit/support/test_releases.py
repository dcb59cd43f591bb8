"""Which revision is the release before a checkout."""

import subprocess
from pathlib import Path

import pytest
from tests.support.releases import HistoryError, revision_before

pytestmark = pytest.mark.unit

VERSION_FILE = "crds/quantization_api/__init__.py"


def git(repository: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    done = subprocess.run(
        ["git", *identity, "-C", repository, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(repository: Path, version: str, note: str = "") -> str:
    file = repository / VERSION_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'"""{note}"""\nENGINE_VERSION = "{version}"\n')
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "change")
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    made.mkdir()
    git(made, "init", "-q")
    return made


def test_without_a_tag_it_is_the_commit_that_gave_the_engine_its_version(repository: Path) -> None:
    commit(repository, "0.1.0")
    wanted = commit(repository, "0.2.0")
    commit(repository, "0.2.0", note="something else")
    assert revision_before(repository) == wanted


def test_it_is_the_newest_tag_before_this_commit_as_versions_are_ordered(repository: Path) -> None:
    for version in ("0.9.0", "0.10.0", "0.11.0"):
        commit(repository, version)
        git(repository, "tag", f"v{version}")
    assert revision_before(repository) == "v0.10.0", "this commit is a release itself"
    commit(repository, "0.12.0")
    assert revision_before(repository) == "v0.11.0"


def test_where_the_history_is_missing_it_says_how_to_get_it(repository: Path, tmp_path: Path) -> None:
    commit(repository, "0.1.0")
    commit(repository, "0.1.0", note="later")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", repository.as_uri(), str(shallow))
    with pytest.raises(HistoryError, match="git fetch --unshallow --tags"):
        revision_before(shallow)
    with pytest.raises(HistoryError, match="is no git checkout"):
        revision_before(tmp_path)
