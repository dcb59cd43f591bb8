"""A manifest is read from a place that others may write to: its texts can be shown as they are."""

from typing import Any

import pytest

from quantization_api.manifest import ExportRecord, InputRecord, Licence, LinearReport, Manifest, TrialRecord

pytestmark = pytest.mark.unit

ODD = "\x1b[31mred\x1b[0m\r\nline\x07"
NUMBERS: dict[str, Any] = {
    "accuracy_level": 0, "size_bytes": 0, "kl_divergence": 0.0, "top1_agreement": 1.0, "tokens": 1, "damping": 0.0,
    "shape": (1, 1), "error": 0.0, "error_rtn": 0.0, "bits_per_weight": 4.0, "compression_ratio": 2.0,
    "own_head_bytes": 0, "number": 0, "bits": 4, "group_size": 128,
}  # fmt: skip
WHOLE: dict[str, Any] = {
    "recipe": "sha256:" + 64 * "a", "workflow": {}, "searched": {}, "metrics": [], "objects": [], "passes": [ODD],
    "readers": [ODD], "versions": {ODD: ODD},
}  # fmt: skip


def odd(model: type[Any], **values: Any) -> dict[str, Any]:
    """A document with the odd text in every field that is a text."""
    known = {**NUMBERS, **values}
    return {name: known.get(name, ODD) for name in model.model_fields if name != "schema_version"}


TRIAL: dict[str, Any] = {
    "parameters": {ODD: ODD},
    "state": "Finished",
    "recipe": "sha256:" + 64 * "a",
    "metrics": [],
    "size_bytes": 1,
    "bits_per_weight": 4.0,
    "seconds": 1.0,
    "on_front": True,
    "best": True,
}


def texts(value: Any) -> list[str]:
    """Every text in a document, keys included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


def test_no_text_of_a_manifest_has_control_characters() -> None:
    document = odd(
        Manifest,
        **WHOLE,
        input=odd(InputRecord, remarks=[ODD], licence=odd(Licence, names=[ODD])),
        export=odd(ExportRecord),
        modules=[odd(LinearReport, routed=1, nearest=False)],
        largest_activation=1.0,
        tensor_parallel=[1],
        trials=[odd(TrialRecord, **TRIAL)],
        ranges=[],
        seconds={ODD: 1.0},
    )
    found = texts(Manifest.model_validate(document).model_dump())
    assert [text for text in found if not text.isprintable()] == []
    assert found.count("red | line") >= 15  # cleaned, not dropped
