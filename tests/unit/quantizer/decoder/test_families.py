"""Every architecture, walked layer by layer, against transformers' own whole model."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.decoder_families import (
    CASES,
    FAMILIES,
    Stores,
    inputs_of,
    layer_weights,
    make_model,
    open_model,
    relative,
    theirs,
    token_batches,
)
from torch import Tensor, nn

from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import Stage
from quantizer.decoder.extra import Extra
from quantizer.decoder.model import DecoderModel
from quantizer.decoder.walk import LayerWalk

pytestmark = pytest.mark.unit

TOLERANCE = 1e-5
WAYS = ("staged", "at once", "propagated", "without statistics", "halves")


def spans(way: str, stages: tuple[Stage, ...]) -> list[tuple[Stage, ...]]:
    """The stages as a pass asks for them: one after another, all, or some together."""
    if way == "staged":
        return [(stage,) for stage in stages]
    if way == "halves":
        return [stages[:1], stages[1:3], stages[3:]] if len(stages) > 3 else [stages[:1], stages[1:]]
    return [stages]


def run_walk(walk: LayerWalk, way: str) -> None:
    for span in spans(way, walk.stages):
        if way != "without statistics":
            inputs_of(walk, span, propagate_unrounded=way == "propagated")
        if way != "propagated":
            walk.finish(span)


def run_layers(
    model: DecoderModel, batches: list[Tensor], way: str, folder: Path
) -> tuple[Any, list[Tensor]]:
    """Hidden states behind each layer, by batch; and the logits."""
    stores = Stores(folder)
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    states: list[list[Tensor]] = [[] for _ in batches]
    with torch.inference_mode(), stores("hidden", shapes, model.layout.width) as hidden:
        for number, embedded in enumerate(model.embed(batches)):
            hidden.write(number, embedded)
            states[number].append(embedded)
        for index in range(model.layout.layers):
            with model.walk(index, layer_weights(model, index), hidden, stores) as walk:
                run_walk(walk, way)
            for number in range(len(batches)):
                states[number].append(hidden.read(number))
        logits: list[Tensor] = []
        for number in range(len(batches)):
            read = model.final(hidden.read(number))
            slices = model.table_slices(model.layout.head_name(), step=7)
            logits.append(torch.cat([model.logits(read, first, rows) for first, rows in slices], dim=-1))
    return states, logits


@pytest.mark.parametrize("name", CASES)
def test_the_walk_is_transformers_own_forward_pass(name: str, tmp_path: Path) -> None:
    model_type, fields, modules = CASES[name]
    whole = make_model(model_type, fields)
    whole.save_pretrained(tmp_path / "model")
    batches = token_batches()
    expected_states, expected_logits = theirs(whole, batches)
    for way in WAYS:
        model = open_model(tmp_path / "model", modules)
        assert model.layout.check_tensors() == Extra()
        states, logits = run_layers(model, batches, way, tmp_path)
        for number in range(len(batches)):
            for ours, expected in zip(states[number], expected_states[number], strict=True):
                assert relative(ours, expected) < TOLERANCE, way
            assert relative(logits[number], expected_logits[number]) < TOLERANCE, way
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def watched_inputs(
    whole: Any, model: DecoderModel, batches: list[Tensor]
) -> dict[tuple[int, str, int], Tensor]:
    """(layer, linear, batch) -> what hooks on transformers' whole model see; fused experts are not modules."""
    from_name = model.layout.stored_name
    seen: dict[tuple[int, str, int], Tensor] = {}
    modules = {from_name(name): module for name, module in whole.named_modules()}
    with ExitStack() as stack, torch.no_grad():
        number = 0
        for index in range(model.layout.layers):
            for linear in model.layout.linears(index):
                module = modules.get(model.layout.layer_prefix(index) + linear)
                if module is not None:

                    def hook(_m: nn.Module, args: Any, index: int = index, linear: str = linear) -> None:
                        seen[index, linear, number] = args[0]

                    stack.callback(module.register_forward_pre_hook(hook).remove)
        for number, batch in enumerate(batches):  # noqa: B007 - the hooks read it
            whole(input_ids=batch, use_cache=False)
    return seen


@pytest.mark.parametrize("way", ["staged", "at once", "propagated"])
@pytest.mark.parametrize("name", CASES)
def test_the_inputs_are_what_hooks_on_the_whole_model_see(name: str, way: str, tmp_path: Path) -> None:
    model_type, fields, modules = CASES[name]
    whole = make_model(model_type, fields)
    whole.save_pretrained(tmp_path / "model")
    model = open_model(tmp_path / "model", modules)
    batches = token_batches()
    expected = watched_inputs(whole, model, batches)
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    stores = Stores(tmp_path)
    compared = 0
    with torch.inference_mode(), stores("hidden", shapes, model.layout.width) as hidden:
        for number, embedded in enumerate(model.embed(batches)):
            hidden.write(number, embedded)
        for index in range(model.layout.layers):
            order: Counter[str] = Counter()
            last = index + 1 == model.layout.layers
            before = hidden.read(0).clone()
            weights = layer_weights(model, index)
            with model.walk(index, weights, hidden, stores, wants_output=not last) as walk:
                for span in spans(way, walk.stages):
                    for group, inputs in inputs_of(walk, span, propagate_unrounded=way == "propagated"):
                        for linear in group.names:
                            assert inputs.shape[-1] == walk.linear(linear).in_features
                            watched = expected.pop((index, linear, order[linear]), None)
                            order[linear] += 1
                            if watched is not None:
                                assert relative(inputs.reshape(watched.shape), watched) < TOLERANCE
                                compared += 1
                    if way != "propagated":
                        walk.finish(span)
            assert set(order) == set(model.layout.linears(index))
            assert set(order.values()) == {len(batches)}
            if way != "staged":  # there the states between attention and MLP are put in their place
                assert torch.equal(hidden.read(0), before) == last, "the last layer's output is not made"
    assert expected == {}
    assert compared > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_each_linear_runs_once_in_staged_use(name: str, tmp_path: Path) -> None:
    model_type, fields = FAMILIES[name]
    make_model(model_type, fields).save_pretrained(tmp_path / "model")
    model = open_model(tmp_path / "model")
    batches = token_batches()
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    stores = Stores(tmp_path)
    with torch.inference_mode(), stores("hidden", shapes, model.layout.width) as hidden:
        for number, embedded in enumerate(model.embed(batches)):
            hidden.write(number, embedded)
        for index in range(model.layout.layers):
            calls: Counter[str] = Counter()
            with model.walk(index, layer_weights(model, index), hidden, stores) as walk:
                for linear in model.layout.linears(index):
                    walk.linear(linear).register_forward_hook(
                        lambda _m, _i, _o, linear=linear, calls=calls: calls.update([linear])
                    )
                rows = dict.fromkeys(model.layout.linears(index), 0)
                for stage in walk.stages:
                    for group, inputs in inputs_of(walk, [stage]):
                        for linear in group.names:
                            rows[linear] += int(inputs.numel() > 0)
                    walk.finish([stage])
            assert {linear: calls[linear] for linear in rows} == rows


def test_a_later_stage_sees_the_final_weights_of_the_stages_before(tmp_path: Path) -> None:
    for name in ("llama", "gpt_neox, parallel", "opt", "mixtral", "starcoder2"):
        model_type, fields, modules = CASES[name]
        folder = tmp_path / name
        make_model(model_type, fields).save_pretrained(folder)
        batches = token_batches()
        shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
        results: list[list[Tensor]] = []
        for early in (True, False):  # the weights are changed at each stage, or before the walk
            model = open_model(folder, modules)
            stores = Stores(tmp_path)
            seen: list[Tensor] = []
            with torch.inference_mode(), stores("hidden", shapes, model.layout.width) as hidden:
                for number, embedded in enumerate(model.embed(batches)):
                    hidden.write(number, embedded)
                weights = layer_weights(model, 0)
                if early:
                    for linear in model.layout.linears(0):
                        weights[f"{linear}.weight"] *= 0.5
                with model.walk(0, weights, hidden, stores) as walk:
                    for stage in walk.stages:
                        seen += [inputs for _, inputs in inputs_of(walk, [stage])]
                        for linear in () if early else stage.names:
                            changed = walk.linear(linear).weight * 0.5
                            walk.linear(linear).weight = nn.Parameter(changed, requires_grad=False)
                        walk.finish([stage])
                seen += [hidden.read(number) for number in range(len(batches))]
            results.append(seen)
        for one, two in zip(*results, strict=True):
            assert torch.equal(one, two), name


def test_stages_are_taken_in_their_order(tmp_path: Path) -> None:
    model_type, fields = FAMILIES["llama"]
    make_model(model_type, fields).save_pretrained(tmp_path / "model")
    model = open_model(tmp_path / "model")
    stores = Stores(tmp_path)
    with stores("hidden", [(1, 4)], model.layout.width) as hidden, torch.inference_mode():
        hidden.write(0, torch.zeros(1, 4, model.layout.width))
        with model.walk(0, layer_weights(model, 0), hidden, stores) as walk:
            with pytest.raises(ValueError, match="next stage is number 0 of 4"):
                walk.finish([walk.stages[1]])
            with pytest.raises(ValueError, match="all stages that are left"):
                inputs_of(walk, walk.stages[:2], propagate_unrounded=True)
            walk.finish(walk.stages)
            with pytest.raises(ValueError, match="next stage is number 4 of 4"):
                walk.finish(walk.stages)


def test_a_walk_that_is_left_early_leaves_nothing_on_scratch(tmp_path: Path) -> None:
    for name in ("llama", "gpt_neox, parallel"):
        model_type, fields = FAMILIES[name]
        make_model(model_type, fields).save_pretrained(tmp_path / name)
        model = open_model(tmp_path / name)
        (scratch := tmp_path / f"scratch {name}").mkdir()
        hidden = ActivationStore(
            tmp_path / "h", [(1, 4)], model.layout.width, torch.float32, torch.device("cpu")
        )
        with hidden, torch.inference_mode():
            hidden.write(0, torch.zeros(1, 4, model.layout.width))
            with model.walk(0, layer_weights(model, 0), hidden, Stores(scratch)) as walk:
                for stage in walk.stages[:2]:
                    inputs_of(walk, [stage])
                    walk.finish([stage])
                walk.finish(walk.stages[2:3])
                inputs_of(walk, walk.stages[3:])
                assert list(scratch.iterdir()) != []
        assert list(scratch.iterdir()) == []
