"""What exists of a model at a time: one layer, the rows of the embedding that occur, the small rest."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support.decoder_families import (
    FAMILIES,
    UNKNOWN,
    Stores,
    inputs_of,
    layer_weights,
    make_model,
    open_model,
    token_batches,
)
from tests.support.engine import CPU
from torch import nn

from quantizer.decoder.context import ModelContext
from quantizer.decoder.layout import read_config
from quantizer.decoder.model_config import find_architecture, make_config
from quantizer.decoder.skeleton import Skeleton

pytestmark = pytest.mark.unit


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """Takes what exists before the test out of the garbage collector's sight."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def real_parameters() -> int:
    """Weights in all parameters of this process that have memory, as far as they were made in the test."""
    gc.collect()
    return sum(
        item.numel() for item in gc.get_objects() if type(item) is nn.Parameter and item.device.type != "meta"
    )


ONE_OF_EACH = ("llama", "gemma2", "opt", "gpt2", "gpt_neox, parallel", "bloom", "qwen3_moe", "starcoder2")


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_parameters_of_one_layer_exist(name: str, tmp_path: Path) -> None:
    model_type, fields, *names = FAMILIES[name] if name in FAMILIES else UNKNOWN[name]
    make_model(model_type, {**fields, "num_hidden_layers": 4}).save_pretrained(tmp_path / "model")
    model = open_model(tmp_path / "model", *names)
    assert real_parameters() == 0
    batches = [batch % 5 for batch in token_batches()]  # five rows of the embedding
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    stores = Stores(tmp_path)
    layers_prefix = model.layout.layer_prefix(0).removesuffix("0.")
    tables = (model.layout.embedding_name(), model.layout.head_name())
    outside = sum(
        torch.Size(info.shape).numel()
        for key, info in model.layout.reader.tensors.items()
        if not key.startswith(layers_prefix) and key not in tables
    )
    with torch.inference_mode(), stores("hidden", shapes, model.layout.width) as hidden:
        for number, embedded in enumerate(model.embed(batches)):
            hidden.write(number, embedded)
        for index in range(model.layout.layers):
            weights = layer_weights(model, index)
            of_layer = sum(value.numel() for value in weights.values())
            with model.walk(index, weights, hidden, stores) as walk:
                assert weights == {}
                for stage in walk.stages:
                    inputs_of(walk, [stage])
                    walk.finish([stage])
                assert real_parameters() == of_layer + outside + 5 * model.layout.width
            del walk


@pytest.mark.usefixtures("only_new_objects")
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_logits_wait_for_no_collection_of_cycles(name: str, tmp_path: Path) -> None:
    model_type, fields, *names = FAMILIES[name] if name in FAMILIES else UNKNOWN[name]
    make_model(model_type, fields).save_pretrained(tmp_path)
    model = open_model(tmp_path, *names)
    read = model.final(torch.zeros(1, 3, model.layout.width))

    def held() -> int:
        found = [item for item in gc.get_objects() if isinstance(item, torch.Tensor | nn.Module)]
        return len(found)

    gc.collect()
    gc.disable()
    try:
        before = held()
        for first, rows in model.table_slices(model.layout.head_name(), 16):
            assert model.logits(read, first, rows).shape == (1, 3, rows.shape[0])
        del rows
        assert held() == before
    finally:
        gc.enable()


def test_layers_of_a_kind_share_their_arguments(tmp_path: Path) -> None:
    make_model(*FAMILIES["gemma3"]).save_pretrained(tmp_path)
    reader, source = open_model(tmp_path).layout.reader, open_model(tmp_path).layout.reader.source
    raw = read_config(source)
    known = find_architecture(raw)
    context = ModelContext(Skeleton(make_config(raw, known), known, None), reader.tensor, CPU, torch.float32)
    sliding, full, sliding_too = (context.arguments(index, 2, 17) for index in range(3))
    assert sliding["attention_mask"] is sliding_too["attention_mask"]
    assert sliding["attention_mask"] is not full["attention_mask"]
    assert sliding["position_embeddings"] is sliding_too["position_embeddings"]
    assert context.arguments(0, 2, 17) is sliding
    for tokens in range(3, 9):
        context.arguments(0, 1, tokens)
    assert context.arguments(0, 2, 17) is not sliding
