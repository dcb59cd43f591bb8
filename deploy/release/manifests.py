"""The manifests of a release: those of deploy/crd and deploy/base, with the release's images."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local_cluster import kustomization
from local_cluster.images import ROOT
from local_cluster.operator_install import NAME, NAMESPACE
from local_cluster.shell import run
from quantization_api import ENGINE_VERSION

Object = dict[str, Any]

KIND, OPERATOR = ROOT / "deploy/crd", ROOT / "deploy/base"
_HEAD = "# Quantization operator {version}, made by `make release`.\n"


@dataclass(frozen=True, slots=True)
class Images:
    """Where a release's images are: `REGISTRY/NAME:VERSION`, or `NAME:VERSION` on the nodes themselves."""

    registry: str = ""
    version: str = ENGINE_VERSION

    def reference(self, name: str) -> str:
        """An image of the release."""
        return f"{self.registry.rstrip('/')}/{name}:{self.version}".lstrip("/")


def kind() -> list[Object]:
    """The kind QuantizationJob, the roles of people, and what keeps the kind."""
    return _rendered(KIND)


def operator(images: Images) -> list[Object]:
    """The operator, with these images."""
    settings = {
        "QUANTIZATION_OPERATOR_QUANTIZER_IMAGE": images.reference("quantizer"),
        "QUANTIZATION_OPERATOR_LEGACY_IMAGE": images.reference("quantizer-legacy"),
    }
    with tempfile.TemporaryDirectory(
        prefix="release-", dir=ROOT
    ) as directory:  # kustomize wants relative paths
        kustomization.write(
            Path(directory), [OPERATOR], {NAME: images.reference(NAME)}, {NAME: settings}, NAMESPACE
        )
        return _rendered(Path(directory))


def text(objects: Iterable[Object]) -> str:
    """Objects as a file that kubectl applies."""
    return _HEAD.format(version=ENGINE_VERSION) + yaml.safe_dump_all(objects, sort_keys=False)


def _rendered(directory: Path) -> list[Object]:
    return list(yaml.safe_load_all(run("kubectl", "kustomize", directory).stdout))
