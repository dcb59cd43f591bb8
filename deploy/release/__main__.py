"""Make a release from the checkout: `make release`, or `python -m deploy.release --help`."""

import argparse
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.release import archives, chart, manifests, plugin, sbom
from local_cluster.errors import ClusterError
from local_cluster.images import ROOT
from local_cluster.progress import Progress
from local_cluster.shell import run
from quantization_api import ENGINE_VERSION

SUMS = "SHA256SUMS"


def described(changelog: str, version: str) -> bool:
    """Whether the changelog has a section of this version, with something in it."""
    section = re.search(rf"^## {re.escape(version)}\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    return bool(section and section[1].strip())


def tag_problem(tags: str, version: str) -> str | None:
    """What is wrong with the tags of the commit that is released; None: nothing, or it has no tag of a version."""
    versions = [tag for tag in tags.split() if re.fullmatch(r"v\d+\.\d+\.\d+", tag)]
    if not versions or f"v{version}" in versions:
        return None
    return (
        f"the commit is tagged {', '.join(versions)}, and ENGINE_VERSION is {version}: they must be the same"
    )


def make(directory: Path, images: manifests.Images, with_images: bool, progress: Progress) -> list[Path]:
    """Write everything that a release consists of.

    Raises:
        ClusterError: the changelog does not describe the version, the commit has another one's tag, or a step failed.
    """
    if not described((ROOT / "CHANGELOG.md").read_text(), ENGINE_VERSION):
        raise ClusterError(
            f"CHANGELOG.md has no section `## {ENGINE_VERSION}` that says what is new; write it first"
        )
    tags = run("git", "tag", "--points-at", "HEAD", cwd=ROOT, check=False).stdout
    if problem := tag_problem(tags, ENGINE_VERSION):
        raise ClusterError(problem)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    steps: dict[str, Callable[[], object]] = {
        "manifests": lambda: _manifests(directory, images),
        "chart": lambda: chart.write(directory),
        "plugin of kubectl": lambda: plugin.write(directory),
        "lists of packages": lambda: sbom.write(directory),
        "wheel": lambda: run("uv", "build", "--quiet", "--wheel", "--out-dir", directory, ROOT),
        **({"images": lambda: archives.write(directory, progress)} if with_images else {}),
    }
    for name, step in steps.items():
        with progress.step(f"Making the {name}"):
            step()
    (directory / ".gitignore").unlink(missing_ok=True)  # uv's
    return _sums(directory)


def _manifests(directory: Path, images: manifests.Images) -> None:
    kind, operator = manifests.kind(), manifests.operator(images)
    for name, objects in (("crd", kind), ("operator", operator), ("install", [*kind, *operator])):
        (directory / f"{name}.yaml").write_text(manifests.text(objects))


def _sums(directory: Path) -> list[Path]:
    """Checksums as `sha256sum --check` reads them."""
    paths = sorted(path for path in directory.iterdir() if path.name != SUMS)
    lines = []
    for path in paths:
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    (directory / SUMS).write_text("".join(lines))
    return [*paths, directory / SUMS]


def _install_plugin(directory: Path) -> int:
    """Say where it is, and what is missing for kubectl to find it."""
    path = directory / plugin.PROGRAM
    plugin.install(path)
    print(f"{path}: try `kubectl quantization --help`")
    if str(directory) not in os.environ.get("PATH", "").split(os.pathsep):
        print(
            f"{directory} is not on your PATH, so kubectl does not find it yet: export PATH={directory}:$PATH"
        )
    return 0


def main(argv: list[str]) -> int:
    """Make the release and print its files; exit code 1 and a sentence when it cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m deploy.release", description=__doc__)
    parser.add_argument(
        "--directory", type=Path, default=ROOT / "dist", help="is emptied first (default: dist)"
    )
    parser.add_argument(
        "--registry", default="", help="where the cluster pulls images from; without it they are on its nodes"
    )
    parser.add_argument(
        "--images",
        action="store_true",
        help="also build the images and write them as OCI archives (needs root)",
    )
    parser.add_argument(
        "--values-schema", action="store_true", help="print the schema of the chart's values only"
    )
    parser.add_argument(
        "--install-plugin", type=Path, metavar="DIR", help="put the plugin of kubectl into DIR only"
    )
    arguments = parser.parse_args(argv)
    if arguments.install_plugin is not None:
        return _install_plugin(arguments.install_plugin.absolute())
    if arguments.values_schema:
        sys.stdout.write(chart.values_schema())
        return 0
    try:
        made = make(
            arguments.directory.absolute(), manifests.Images(arguments.registry), arguments.images, Progress()
        )
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in made:
        print(f"{path.stat().st_size:>13,}  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
