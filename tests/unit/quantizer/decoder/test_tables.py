"""Of tables with a row for each token only the rows that occur are in memory."""

from pathlib import Path

import pytest
import torch
from tests.support.causal_types import small_model
from tests.support.decoder_families import open_model

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.tables import further_tables, gathered

pytestmark = pytest.mark.unit


def test_a_table_that_is_larger_than_the_embedding_is_read_by_its_rows(tmp_path: Path) -> None:
    whole = small_model("gemma4_text")
    whole.save_pretrained(tmp_path)
    model = open_model(tmp_path)
    layers, width = model.layout.layers, whole.config.hidden_size_per_layer_input
    assert further_tables(model.layout.skeleton) == {"model.embed_tokens_per_layer": layers * width}
    tokens = torch.tensor([[5, 60, 7, 5]])
    next(model.embed([tokens]))
    held = model._whole()._further["model.embed_tokens_per_layer"].weight
    table = whole.model.embed_tokens_per_layer.weight
    assert torch.equal(held, table[[5, 7, 60]])


def test_rows_are_gathered_from_whatever_slices_a_table_comes_in() -> None:
    table, used = torch.randn(11, 3), torch.tensor([0, 3, 4, 10])
    slices = [(first, table[first : first + 4]) for first in range(0, 11, 4)]
    assert torch.equal(gathered(slices, used), table[used])


def test_a_token_that_a_table_does_not_have_is_zero() -> None:
    table = torch.ones(2, 3)
    assert gathered([(0, table)], torch.tensor([1, 5])).tolist() == [[1.0] * 3, [0.0] * 3]


def test_a_model_that_looks_up_tokens_of_its_own_is_refused(tmp_path: Path) -> None:
    small_model("llama").save_pretrained(tmp_path)
    model = open_model(tmp_path)
    model._whole()._base.register_forward_pre_hook(
        lambda _, args, given: (args, {**given, "input_ids": given["input_ids"] + 1}), with_kwargs=True
    )
    with pytest.raises(QuantizationError, match="looks up other tokens than those of the text") as told:
        next(model.embed([torch.tensor([[5, 60, 7]])]))
    assert told.value.category is Category.MODEL_UNSUPPORTED
