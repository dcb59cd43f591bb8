"""What an image contains of other people's packages, as CycloneDX, read from the lock files that it is built from.

Only Python packages: what the base image brings is in the base image's own list.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.release.archives import RELEASED
from local_cluster.images import RECIPES, ROOT
from quantization_api import ENGINE_VERSION

PYTHON = "3.11.15"
"""Of the base image that the Containerfiles name."""
_IMAGES_PYTHON = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": PYTHON,
    "python_version": PYTHON.rpartition(".")[0],
    "sys_platform": "linux",
}
"""For it the conditions in the lock files are decided."""
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_INSTALLER = "requirements/installer.txt"
"""Fetches the packages, and does not stay in the image."""


def of_image(name: str) -> str:
    """The list of an image of `local_cluster.images.RECIPES`, as JSON; the same text for the same lock files."""
    recipe = RECIPES[name]
    locks = [
        source for source in recipe.sources if source.startswith("requirements/") and source != _INSTALLER
    ]
    found = {each["purl"]: each for lock in locks for each in components((ROOT / lock).read_text())}
    return document(recipe.repository, [found[purl] for purl in sorted(found)])


def document(name: str, listed: Sequence[Mapping[str, Any]]) -> str:
    """A CycloneDX document about an image with these components."""
    own = {"type": "container", "bom-ref": name, "name": name, "version": ENGINE_VERSION}
    identity = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([own, *listed]))
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{identity}",
        "version": 1,
        "metadata": {"component": own},
        "components": listed,
        "dependencies": [{"ref": name, "dependsOn": [each["bom-ref"] for each in listed]}],
    }
    return json.dumps(body, indent=1) + "\n"


def components(lock: str) -> Iterator[dict[str, Any]]:
    """The packages of a lock file that the images' Python installs; their hashes are those of all distributions."""
    for block in re.sub(r"\\\n", " ", lock).splitlines():
        if not block.strip() or block.lstrip().startswith("#"):
            continue
        requirement = Requirement(block.partition(" --hash")[0])
        if requirement.marker and not requirement.marker.evaluate(_IMAGES_PYTHON):
            continue
        (pinned,) = requirement.specifier
        package = f"pkg:pypi/{canonicalize_name(requirement.name)}@{pinned.version}"
        yield {
            "type": "library",
            "bom-ref": package,
            "name": requirement.name,
            "version": pinned.version,
            "purl": package,
            "properties": [
                {"name": "quantization.dev:distribution:sha256", "value": digest}
                for digest in _HASH.findall(block)
            ],
        }


def write(directory: Path) -> list[Path]:
    """Write the list of each image of the release."""
    paths = []
    for name in RELEASED:
        path = directory / f"{RECIPES[name].repository}-{ENGINE_VERSION}.cdx.json"
        path.write_text(of_image(name))
        paths.append(path)
    return paths
