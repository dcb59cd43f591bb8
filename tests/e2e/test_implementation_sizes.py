"""The stock packages at the sizes that people calibrate with: more sequences than a package takes at a time."""

from typing import Any

import pytest
import torch
from tests.support.engine import save_tiny
from tests.support.packages import run_requests

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.06,
}
ROUNDED = {"awq, unpacked": 0, "awq, some modules": 6}
"""Linears that are rounded, where it is not all 7."""
GPTQ: dict[str, Any] = {"implementation": "auto-gptq", "group_size": 16}
AWQ: dict[str, Any] = {"implementation": "autoawq", "q_group_size": 16, "input_model_dtype": "fp32"}
USUAL, SHORT, LONG = (64, 256), (512, 64), (128, 512)
"""Sequences, tokens of each."""
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, int], int]] = {
    "awq": ("AutoAWQQuantizer", AWQ, USUAL, 1),
    "awq, another seed": ("AutoAWQQuantizer", AWQ, USUAL, 2),
    "awq, long": ("AutoAWQQuantizer", AWQ, LONG, 1),
    "awq, short": ("AutoAWQQuantizer", AWQ, SHORT, 1),
    "awq, a part at the end": ("AutoAWQQuantizer", AWQ, (67, 256), 1),
    "awq, as many sequences as tokens": ("AutoAWQQuantizer", AWQ, (160, 160), 1),
    "awq, scales of activations": ("AutoAWQQuantizer", AWQ | {"duo_scaling": False}, USUAL, 1),
    "awq, unpacked": ("AutoAWQQuantizer", AWQ | {"export_compatible": True}, USUAL, 1),
    "awq, some modules": (
        "AutoAWQQuantizer",
        AWQ | {"modules_to_not_convert": ["q_proj", "lm_head"]},
        USUAL,
        1,
    ),
    "awq, half precision": ("AutoAWQQuantizer", AWQ | {"input_model_dtype": "fp16"}, USUAL, 1),
    "awq, larger groups": ("AutoAWQQuantizer", AWQ | {"q_group_size": 32}, USUAL, 1),
    "gptq": ("GptqQuantizer", GPTQ, LONG, 1),
    "gptq, another seed": ("GptqQuantizer", GPTQ, USUAL, 2),
    "gptq, every option": (
        "GptqQuantizer",
        GPTQ
        | {
            "bits": 8,
            "sym": True,
            "desc_act": True,
            "static_groups": True,
            "true_sequential": True,
            "damp_percent": 0.1,
        },
        USUAL,
        1,
    ),
    "gptq, one group a row": ("GptqQuantizer", GPTQ | {"group_size": -1, "bits": 3}, USUAL, 1),
    "gptq, 2 bits": ("GptqQuantizer", GPTQ | {"bits": 2, "desc_act": True}, SHORT, 1),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All cases, in one process of the packages' environment."""
    folder = tmp_path_factory.mktemp("sizes")
    save_tiny(folder / "model", **MODEL)
    requests = [
        {
            "model": str(folder / "model"),
            "sequences": sequences(*size, seed),
            "type": kind,
            "parameters": parameters,
            "target": str(folder / name.replace(" ", "-")),
            "without": None,
        }
        for name, (kind, parameters, size, seed) in CASES.items()
    ]
    return dict(zip(CASES, run_requests(requests, folder), strict=True))


def sequences(count: int, length: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(0, 96, (count, length), generator=generator))


@pytest.mark.parametrize("name", CASES)
def test_a_package_takes_as_much_text_as_people_give_it(
    results: dict[str, dict[str, Any]], name: str
) -> None:
    _, _, (count, _), _ = CASES[name]
    result = results[name]
    assert result["error"] is None
    assert len(result["seen"]) == count
    assert len(result["modules"]) == ROUNDED.get(name, 7)
    assert all(0 < error < 1 for _, _, error, _ in result["modules"])
