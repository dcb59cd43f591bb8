"""The Helm chart: the templates of deploy/chart over the objects of deploy/crd and deploy/base, and nothing copied.

deploy/chart holds what is the chart's own. The objects come from kustomize, so that an installation by Helm is the one
by kubectl: a test compares them object by object.
"""

import gzip
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import yaml

from deploy.release import manifests
from local_cluster.images import ROOT
from quantization_api import ENGINE_VERSION
from quantization_operator.settings import OperatorSettings

SOURCE = ROOT / "deploy/chart"
NAME = "quantization-operator"
_BY_THE_CHART = (
    *("quantizer_image", "legacy_image", "namespaces", "lease_namespace", "http_host", "http_port"),
    "defaults_file",
)
"""Settings that other values of the chart, or the pod, decide."""
_WORDS = ("nodeSelector", "podLabels", "podAnnotations", "serviceAccountAnnotations")
_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"


def files() -> dict[str, str]:
    """Path in the chart -> text, of everything that the chart consists of."""
    made = {
        path.relative_to(SOURCE).as_posix(): path.read_text()
        for path in sorted(SOURCE.rglob("*"))
        if path.is_file()
    }
    kind = manifests.kind()
    definitions = [each for each in kind if each["kind"] == "CustomResourceDefinition"]
    head = yaml.safe_load(made["Chart.yaml"]) | {"version": ENGINE_VERSION, "appVersion": ENGINE_VERSION}
    return made | {
        "Chart.yaml": yaml.safe_dump(head, sort_keys=False),
        "crds/quantizationjobs.yaml": yaml.safe_dump_all(definitions, sort_keys=False),
        "files/kind.yaml": yaml.safe_dump_all(
            [each for each in kind if each not in definitions], sort_keys=False
        ),
        "files/operator.yaml": yaml.safe_dump_all(manifests.operator(manifests.Images()), sort_keys=False),
    }


def write(directory: Path) -> Path:
    """Write the chart as `helm package` would, with the same bytes each time; the path of the archive."""
    archive = directory / f"{NAME}-{ENGINE_VERSION}.tgz"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, content in sorted(files().items()):
            entry = tarfile.TarInfo(f"{NAME}/{path}")
            entry.size = len(content.encode())
            tar.addfile(entry, io.BytesIO(content.encode()))
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return archive


def values_schema() -> str:
    """The JSON schema of the chart's values; the settings are those of the operator, in camel case."""
    settings = OperatorSettings.model_json_schema()["properties"]
    text, flag = {"type": "string"}, {"type": "boolean"}
    words, anything = {"type": "object", "additionalProperties": text}, {"type": "object"}
    schema = _closed(
        {
            "images": _closed(dict.fromkeys(("registry", "operator", "quantizer", "legacy"), text)),
            "namespaces": {"type": "array", "uniqueItems": True, "items": {**text, "pattern": _LABEL}},
            "settings": _closed(
                {_camel(name): _plain(each) for name, each in settings.items() if name not in _BY_THE_CHART}
            ),
            "replicas": {"type": "integer", "minimum": 1},
            **dict.fromkeys(("resources", "affinity", "defaults"), anything),
            **dict.fromkeys(_WORDS, words),
            **{name: {"type": "array", "items": anything} for name in ("tolerations", "imagePullSecrets")},
            "priorityClassName": text,
            "queueName": {**text, "pattern": f"{_LABEL}|^$"},
            "platformChoosesUser": flag,
            "global": anything,  # Helm's own, for charts that contain this one
        }
    )
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object without other properties: a word that nothing reads is refused."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "title"}


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)
