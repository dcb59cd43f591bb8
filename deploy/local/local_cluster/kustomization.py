"""Puts images and settings on top of the manifests of the checkout, in a kustomization for people to read."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from local_cluster.errors import ClusterError


def image_entry(name: str, reference: str) -> dict[str, str]:
    """An entry of `images:` that replaces the image `name` by `reference` (HOST/NAME@sha256:... or HOST/NAME:TAG).

    Raises:
        ClusterError: the reference has neither a digest nor a tag, so that it would mean another image tomorrow.
    """
    repository, at, digest = reference.partition("@")
    if at:
        return {
            "name": name,
            "newName": repository.rsplit(":", 1)[0] if _has_tag(repository) else repository,
            "digest": digest,
        }
    if not _has_tag(reference):
        raise ClusterError(
            f"the image {reference} has no tag and no digest; write NAME:TAG or NAME@sha256:DIGEST"
        )
    repository, _, tag = reference.rpartition(":")
    return {"name": name, "newName": repository, "newTag": tag}


def _has_tag(reference: str) -> bool:
    return ":" in reference.rpartition("/")[2]


def write(
    directory: Path,
    bases: Sequence[Path],
    images: Mapping[str, str],
    settings: Mapping[str, Mapping[str, str]] | None = None,
    namespace: str | None = None,
) -> Path:
    """Write DIRECTORY/kustomization.yaml over `bases` and return the directory, for `kubectl apply -k`.

    Args:
        directory: where it is written; made if it is not there.
        bases: directories with a kustomization.yaml.
        images: name in the bases -> reference.
        settings: name of a ConfigMap that a base generates -> values that replace its own.
        namespace: namespace of those ConfigMaps.
    """
    document: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(base.resolve(), directory.resolve()) for base in bases],
        "images": [image_entry(name, reference) for name, reference in images.items()],
    }
    if settings:
        document["configMapGenerator"] = [
            {
                "name": name,
                "namespace": namespace,
                "behavior": "merge",
                "literals": [f"{key}={value}" for key, value in values.items()],
            }
            for name, values in settings.items()
        ]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return directory
