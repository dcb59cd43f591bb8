"""Layers that are built alike share what is known of them, and no others do."""

import pytest
import torch
from tests.support.causal_types import small_model
from torch import nn

from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder import layout as layouts
from quantizer.decoder.layer_facts import KnownFacts, LayerFacts, kind_of
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.pattern import LayerNames, LayerPattern

pytestmark = pytest.mark.unit


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[LayerPattern]:
    """The patterns that layouts make."""
    patterns: list[LayerPattern] = []

    class Watched(LayerPattern):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            patterns.append(self)

    monkeypatch.setattr(layouts, "LayerPattern", Watched)
    return patterns


@pytest.mark.parametrize("model_type", ["qwen3_moe", "deepseek_v3"])
def test_one_layer_of_each_kind_is_made(
    model_type: str, made: list[LayerPattern], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp(model_type)
    whole = small_model(model_type, num_hidden_layers=5)
    whole.save_pretrained(folder)
    layout = DecoderLayout.open(DirectorySource(folder))
    assert layout.layers == 5
    shapes = [layout.layer_shapes(index) for index in range(5)]
    for index in range(5):
        layout.stages(index), layout.folds(index), layout.found(index), layout.ignored_linears(index)
    kinds = {tuple(sorted(one.items())) for one in shapes}
    assert len(made) <= 2 * len(kinds)  # the first layer of a kind, and again for its folds
    for index, known in enumerate(shapes):
        pattern = layout.pattern(index)
        assert (known, layout.stages(index)) == (pattern.shapes, pattern.stages)


def test_what_differs_makes_another_kind() -> None:
    with torch.device("meta"):
        one = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        others = (
            nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4)),
            nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(4)),
            nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4)),
            nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)),
            nn.Sequential(nn.Linear(4, 4).to(torch.float16), nn.LayerNorm(4)),
        )
        alike = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    assert kind_of(alike) == kind_of(one)
    assert all(kind_of(other) != kind_of(one) for other in others)


def test_layers_whose_tensors_have_other_names_in_the_checkpoint_share_nothing() -> None:
    def facts(index: int, name: str) -> LayerFacts:
        return LayerFacts(index, {}, (), {}, LayerNames({"up.weight": name}), (), (), ())

    known = KnownFacts()
    first = known.get("kind", lambda _: "w1", lambda: facts(0, "w1"))
    assert known.get("kind", lambda _: "w1", lambda: facts(1, "w1")) is first
    assert known.get("kind", lambda _: "w3", lambda: facts(2, "w3")).first == 2
    assert known.get("other", lambda _: "w1", lambda: facts(3, "w1")).first == 3
