"""The release before this checkout, and this checkout: code and manifests of an operator, to go between them."""

import subprocess
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml
from tests.support.operator_process import rendered

from local_cluster.control_plane import ApiServer

ROOT = Path(__file__).parents[2]
PARTS = ("crds", "operator", "deploy")
"""The rooms that an installed operator consists of."""
Object = dict[str, Any]


class HistoryError(AssertionError):
    """The checkout does not know the release before it; the message says what to do."""


@dataclass(frozen=True)
class Release:
    """The rooms of one revision, in a folder."""

    name: str
    root: Path

    @property
    def code(self) -> tuple[Path, ...]:
        """What its operator imports from, before anything that is installed."""
        return self.root / "operator", self.root / "crds"

    def write(self, api: ApiServer, dist: Path) -> None:
        """Its crd.yaml and operator.yaml, as `make release` has them. The kind may have been a part of the operator."""
        dist.mkdir(parents=True, exist_ok=True)
        deploy = self.root / "deploy"
        operator = rendered(api, deploy / "base")
        kind = rendered(api, deploy / "crd") if (deploy / "crd").exists() else definitions(operator)
        (dist / "crd.yaml").write_text(yaml.safe_dump_all(kind))
        (dist / "operator.yaml").write_text(yaml.safe_dump_all(o for o in operator if o not in kind))


def definitions(objects: list[Object]) -> list[Object]:
    """The kinds among objects."""
    return [each for each in objects if each["kind"] == "CustomResourceDefinition"]


def today() -> Release:
    """This checkout as it is."""
    return Release("today", ROOT)


def last(folder: Path) -> Release:
    """The release before this checkout, unpacked into the folder.

    Raises:
        HistoryError: the checkout does not have it.
    """
    revision = revision_before(ROOT)
    packed = subprocess.run(
        ["git", "-C", ROOT, "archive", revision, *PARTS], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return Release(revision, folder)


def revision_before(repository: Path) -> str:
    """The newest tag v* before this commit; without one, the last commit that gave the engine a version.

    Raises:
        HistoryError: the history that says it is not there.
    """
    if _git(repository, "rev-parse", "--is-inside-work-tree") != "true":
        raise HistoryError(
            f"{repository} is no git checkout, so the release before it is not known: clone it"
        )
    tags = ("tag", "--list", "v[0-9]*", "--merged", "HEAD", "--no-contains", "HEAD")
    if tag := _git(repository, *tags, "--sort=-version:refname"):
        return tag.splitlines()[0]
    if _git(repository, "rev-parse", "--is-shallow-repository") == "true":
        raise HistoryError(
            "the history of this checkout is cut off before its last release: `git fetch --unshallow --tags`"
        )
    version = ("-G^ENGINE_VERSION = ", "--", "crds/quantization_api/__init__.py")
    if commit := _git(repository, "log", "-1", "--format=%H", *version):
        return commit
    raise HistoryError("no tag v* and no commit that sets ENGINE_VERSION: `git fetch --tags`")


def _git(repository: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", repository, *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()
