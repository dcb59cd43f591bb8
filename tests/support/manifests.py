"""Manifests that tests apply: one that is valid, and changes of it."""

import copy
import functools
from typing import Any

VALID: dict[str, Any] = {
    "apiVersion": "quantization.dev/v1alpha1",
    "kind": "QuantizationJob",
    "metadata": {"name": "job", "namespace": "default"},
    "spec": {
        "workflow": {
            "input_model": {"type": "HfModel", "model_path": "s3://models/stories15m"},
            "data_configs": [
                {
                    "name": "train",
                    "type": "HuggingfaceContainer",
                    "load_dataset_config": {"data_name": "s3://datasets/stories/train.txt"},
                    "pre_process_data_config": {"max_seq_len": 256, "max_samples": 16},
                },
                {"name": "test", "load_dataset_config": {"data_name": "s3://datasets/stories/test.txt"}},
            ],
            "passes": [{"type": "GptqQuantizer", "data_config": "train", "group_size": 32}],
            "evaluators": [
                {
                    "name": "quality",
                    "metrics": [
                        {"name": "ppl", "type": "perplexity", "data_config": "test"},
                        {"name": "kl", "type": "kl_divergence", "data_config": "test"},
                    ],
                }
            ],
            "evaluator": "quality",
        },
        "output": {"uri": "s3://artifacts/stories15m-gptq"},
        "storage": {"endpoint": "http://s3.example.svc:8333", "credentialsSecret": {"name": "s3"}},
    },
}


REMOVED = object()


PASS = "workflow.passes.0"


PREPROCESS = "workflow.data_configs.0.pre_process_data_config"


def manifest(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The valid manifest with changes: dotted path below spec, and the new value or REMOVED."""
    result = copy.deepcopy(VALID)
    for path, value in changes:
        *parents, last = path.split(".")
        node: Any = result["spec"]
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if value is REMOVED:
            del node[last]
        elif isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    return result


NOT_RUN = "code from a manifest is never run"


def configured(path: str) -> dict[str, Any]:
    """A volume of a ConfigMap."""
    return {"name": f"c-{len(path)}", "mountPath": path, "configMap": {"name": "c"}}


def claimed(path: str) -> dict[str, Any]:
    """A volume of a claim."""
    return {"name": f"v-{len(path)}", "mountPath": path, "persistentVolumeClaim": {"claimName": "c"}}


def nested(depth: int) -> dict[str, Any]:
    """An object in an object, and so on."""
    return functools.reduce(lambda inner, _: {"a": inner}, range(depth), {})


VANISHING: tuple[tuple[str, list[dict[str, Any]]], ...] = (
    ("file:///scratch/x", [claimed("/s")]),
    ("file:///data-2/x", [claimed("/data")]),
    ("file:///data/x", [claimed("/data") | {"readOnly": True}]),
    ("file:///data/text/x", [claimed("/data"), configured("/data/text")]),
)
"""Outputs, and volumes beside which nothing is left of them when the pod is gone."""


AFFINITY: dict[str, Any] = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h200", "b200"]}]},
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]},
            ]
        },
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "spot", "operator": "DoesNotExist"}]}}
        ],
    },
    "podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "s3"}}, "namespaceSelector": {}}
        ]
    },
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "namespaces": ["serving"],
                    "labelSelector": {"matchExpressions": [{"key": "busy", "operator": "Exists"}]},
                },
            }
        ]
    },
}
"""All that core/v1 has, but for matchLabelKeys."""
