"""What `quantizer inspect` says of how a model is built."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.support.causal_types import small_model
from tests.support.decoder_families import FAMILIES, make_model

from quantization_api.pod import StorageAccess
from quantizer.cli.described import in_rows
from quantizer.run.inspection import inspect

pytestmark = pytest.mark.unit


def seen(model: Any, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The description's structure, and what is printed of it."""
    model.save_pretrained(folder)
    described = inspect(f"file://{folder}", StorageAccess())
    console = Console(width=200)
    with console.capture() as printed:
        console.print(in_rows(described))
    return described["structure"], printed.get()


def test_layers_that_are_built_alike_are_told_together(tmp_path: Path) -> None:
    structure, printed = seen(
        small_model("lfm2", layer_types=["full_attention", "conv", "full_attention"], num_hidden_layers=3),
        tmp_path,
    )
    assert [kind["layers"] for kind in structure] == [[0, 2], [1]]
    assert structure[0]["stages"][0] == [["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]]
    assert "linears of layers 0, 2, by the input they read" in printed
    assert "AWQ will try" in printed


def test_experts_stand_for_each_other(tmp_path: Path) -> None:
    structure, printed = seen(make_model(*FAMILIES["mixtral"]), tmp_path)
    (kind,) = structure
    assert kind["experts"] == 4
    assert kind["stages"][2] == [["block_sparse_moe.experts.*.w1", "block_sparse_moe.experts.*.w3"]]
    assert "layers 0 to 1" in printed
    assert "scales fold from" in printed
