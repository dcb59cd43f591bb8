"""The example's job with as little work as a test needs that asks how a job ends, not how good its result is."""

from typing import Any


def quick(manifest: dict[str, Any]) -> None:
    """Few short sequences, and nothing measured. Two such jobs make the same tensors, bit by bit."""
    workflow = manifest["spec"]["workflow"]
    for key in ("evaluators", "evaluator"):
        workflow.pop(key)
    workflow["data_configs"] = workflow["data_configs"][:1]
    workflow["data_configs"][0]["pre_process_data_config"] |= {"max_samples": 16, "max_seq_len": 64}


def tensors(objects: dict[str, str]) -> dict[str, str]:
    """Of an artifact's objects and their digests, those of its tensors."""
    found = {key: digest for key, digest in objects.items() if key.endswith(".safetensors")}
    assert found, f"no tensors among {sorted(objects)}"
    return found
