"""A run that ends after any layer goes on from there, and the result is the same bit by bit."""

import json
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from tests.support.choice import mostly_nightly
from tests.support.engine import (
    awq_pass,
    files,
    gptq_pass,
    ignore_progress,
    make_pass,
    quarot_pass,
    random_batches,
    run_layers,
    save_tiny,
)
from tests.support.quantized_models import GROUP, family_batches, save_family

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.grid import Scheme
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import DirectorySource
from quantizer.passes import reconstruction
from quantizer.passes.interface import FinishedLayer, LayerPass
from quantizer.passes.streaming import OnProgress
from quantizer.run.finished_layers import FinishedLayers
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import OUTPUT, Buffer, Store

pytestmark = pytest.mark.unit

LAYERS = 4
RECIPE = "sha256:" + "5" * 64
STATE = f"store/.state/{'5' * 16}"
ROTATION = quarot_pass(w_gptq=False, w_bits=16, calibration_data_config=None)
PASSES: dict[str, LayerPass] = {
    "gptq, staged": make_pass(gptq_pass(group_size=GROUP, true_sequential=True)),
    "gptq, at once": make_pass(gptq_pass(group_size=GROUP)),
    "gptq, act-order, compressed-tensors": make_pass(
        gptq_pass(group_size=GROUP, desc_act=True, static_groups=True, checkpoint_format="compressed-tensors")
    ),
    "gptq, in bfloat16": make_pass(gptq_pass(group_size=GROUP, calibration_dtype="bf16")),
    "gptq, bits chosen": make_pass(gptq_pass(target_bits=4.8, candidate_group_sizes=[GROUP])),
    "gptq, the head too": make_pass(gptq_pass(group_size=GROUP, lm_head=True)),
    "gptq, layers fitted": make_pass(gptq_pass(group_size=GROUP, refine="best")),
    "quarot, then gptq, layers fitted": make_pass(ROTATION, gptq_pass(group_size=GROUP, refine="best")),
    "awq": make_pass(awq_pass(q_group_size=GROUP)),
    "awq, scales alone": make_pass(awq_pass(q_group_size=GROUP, export_compatible=True)),
    "quarot, an ordinary checkpoint": make_pass(quarot_pass(w_groupsize=GROUP)),
    "quarot, rotations alone": make_pass(ROTATION),
    "quarot, online": make_pass(quarot_pass(a_bits=4, k_bits=4, v_bits=4, gptq_opt_scales=True)),
    "quarot, then gptq": make_pass(ROTATION, gptq_pass(group_size=GROUP)),
    "quarot, then gptq, compressed-tensors": make_pass(
        ROTATION,
        gptq_pass(
            group_size=GROUP, desc_act=True, static_groups=True, checkpoint_format="compressed-tensors"
        ),
    ),
    "quarot, then gptq, staged, in bfloat16": make_pass(
        ROTATION, gptq_pass(group_size=GROUP, true_sequential=True, calibration_dtype="bf16")
    ),
    "quarot, small scales": make_pass(quarot_pass(w_bits=3, s_bits=8, w_groupsize=GROUP, w_asym=True)),
}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are fitted in few steps: what a stop could spoil is the same after each."""
    monkeypatch.setattr(reconstruction, "STEPS", 4)


class StoppedError(Exception):
    """What ends a run in these tests."""


def stop_after(layers: int) -> OnProgress:
    """Raises when that many layers are done."""

    def on_progress(_stage: str, done: int, _total: int) -> None:
        if done == layers:
            raise StoppedError

    return on_progress


def run(
    folder: Path,
    layer_pass: LayerPass,
    tokens: TokenBatches,
    out: str,
    on_progress: OnProgress = ignore_progress,
    store: Store | None = None,
) -> QuantizeReport:
    """One attempt at the model of the folder; state lies in the folder's store."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    with FinishedLayers(store or DirectoryStore(folder / "store", OUTPUT), RECIPE, scratch) as finished:
        return run_layers(
            DirectorySource(folder / "model"),
            tokens,
            layer_pass,
            folder / out,
            scratch,
            finished=finished,
            on_progress=on_progress,
            max_shard_bytes=20_000,
        )


def undisturbed(
    folder: Path, layer_pass: LayerPass, tokens: TokenBatches
) -> tuple[QuantizeReport, dict[str, bytes]]:
    """Report and files of a run that keeps nothing."""
    report = run_layers(
        DirectorySource(folder / "model"),
        tokens,
        layer_pass,
        folder / "whole",
        folder / "scratch",
        max_shard_bytes=20_000,
    )
    return report, files(folder / "whole")


STOPS = range(LAYERS + 1)
EVERY_TIME = [*product(PASSES, (2,)), *(("gptq, staged", stopped) for stopped in STOPS if stopped != 2)]


@pytest.mark.parametrize(("kind", "stopped"), mostly_nightly(product(PASSES, STOPS), EVERY_TIME))
def test_a_run_that_stops_after_any_layer_goes_on_to_the_same_bytes(
    kind: str, stopped: int, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)
    layer_pass, tokens = PASSES[kind], random_batches()
    whole, expected = undisturbed(tmp_path, layer_pass, tokens)
    with pytest.raises(StoppedError):
        run(tmp_path, layer_pass, tokens, "stopped", stop_after(stopped))
    report = run(tmp_path, layer_pass, tokens, "out")
    assert report.resumed_layers == stopped
    assert report.ranges == whole.ranges
    assert report.linears == whole.linears
    assert files(tmp_path / "out") == expected


def test_rows_whose_last_word_is_not_full_are_replayed_too(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS, hidden_size=56, intermediate_size=84)
    layer_pass, tokens = make_pass(quarot_pass(w_bits=3, a_bits=8)), random_batches()
    expected = undisturbed(tmp_path, layer_pass, tokens)[1]
    with pytest.raises(StoppedError):
        run(tmp_path, layer_pass, tokens, "stopped", stop_after(2))
    assert run(tmp_path, layer_pass, tokens, "out").resumed_layers == 2
    assert files(tmp_path / "out") == expected


SHAPES = [
    *product(
        ("gpt2", "gpt_neox, parallel", "gemma3", "qwen3_moe", "bloom"),
        ("gptq, staged", "gptq, at once", "awq"),
    ),
    *product(("gpt2", "gpt_neox, parallel", "qwen3_moe"), ("quarot, then gptq",)),
]
SHAPES_EVERY_TIME = (
    ("gpt2", "gptq, staged"),
    ("gpt_neox, parallel", "awq"),
    ("gemma3", "gptq, at once"),
    ("qwen3_moe", "gptq, staged"),
    ("bloom", "awq"),
    ("qwen3_moe", "quarot, then gptq"),
)


@pytest.mark.parametrize(("name", "kind"), mostly_nightly(SHAPES, SHAPES_EVERY_TIME))
def test_other_shapes_of_layers_are_replayed_as_they_ran(name: str, kind: str, tmp_path: Path) -> None:
    save_family(name, tmp_path / "model")
    layer_pass, tokens = PASSES[kind], family_batches()
    expected = undisturbed(tmp_path, layer_pass, tokens)[1]
    with pytest.raises(StoppedError):
        run(tmp_path, layer_pass, tokens, "stopped", stop_after(1))
    assert run(tmp_path, layer_pass, tokens, "out").resumed_layers == 1
    assert files(tmp_path / "out") == expected


def test_a_run_that_stops_more_than_once_goes_on_every_time(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)
    layer_pass, tokens = PASSES["gptq, staged"], random_batches()
    for stopped in range(1, LAYERS):
        with pytest.raises(StoppedError):
            run(tmp_path, layer_pass, tokens, f"stopped-{stopped}", stop_after(stopped))
    assert run(tmp_path, layer_pass, tokens, "out").resumed_layers == LAYERS - 1
    assert files(tmp_path / "out") == undisturbed(tmp_path, layer_pass, tokens)[1]


def test_a_sink_that_fails_loses_no_layer(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)
    layer_pass, tokens = PASSES["gptq, staged"], random_batches()
    expected = undisturbed(tmp_path, layer_pass, tokens)[1]
    shards = [name for name in expected if name.endswith(".safetensors")]
    (tmp_path / "blocked" / shards[-2]).mkdir(parents=True)  # what the sink stumbles over
    with pytest.raises(IsADirectoryError):
        run(tmp_path, layer_pass, tokens, "blocked")
    kept = list((tmp_path / STATE).glob("*.json"))
    assert len(kept) >= LAYERS - 1
    assert run(tmp_path, layer_pass, tokens, "out").resumed_layers == len(kept)
    assert files(tmp_path / "out") == expected


def shorten(state: Path) -> None:
    path = state / "layer-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def flip(state: Path) -> None:
    path = state / "layer-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def reseal(state: Path, data: bytes, modules: object = None) -> None:
    """Tensors of other content, with a record that fits them."""
    import hashlib

    (state / "layer-00001.safetensors").write_bytes(data)
    record = json.loads((state / "layer-00001.json").read_text())
    record |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if modules is not None:
        record["linears"] = modules
    (state / "layer-00001.json").write_text(json.dumps(record))


def drop_a_tensor(state: Path) -> None:
    tensors = load((state / "layer-00001.safetensors").read_bytes())
    del tensors["model.layers.1.mlp.up_proj.scales"]
    reseal(state, save(tensors))


def reshape_a_tensor(state: Path) -> None:
    tensors = load((state / "layer-00001.safetensors").read_bytes())
    name = "model.layers.1.mlp.up_proj.scales"
    tensors[name] = tensors[name][:1].contiguous()
    reseal(state, save(tensors))


def of_another_layer(state: Path) -> None:
    reseal(state, (state / "layer-00000.safetensors").read_bytes())


DAMAGES: dict[str, Callable[[Path], object]] = {
    "tensors cut short": shorten,
    "a changed byte": flip,
    "no tensors": lambda state: (state / "layer-00001.safetensors").unlink(),
    "no record": lambda state: (state / "layer-00001.json").unlink(),
    "an empty record": lambda state: (state / "layer-00001.json").write_bytes(b""),
    "a record that is no object": lambda state: (state / "layer-00001.json").write_text("[1, 2]"),
    "a record of somebody else": lambda state: (state / "layer-00001.json").write_text(
        '{"name": "a web app"}'
    ),
    "reports of somebody else": lambda state: reseal(
        state, (state / "layer-00001.safetensors").read_bytes(), [{"name": "up_proj", "shape": []}]
    ),
    "bytes that are no text": lambda state: (state / "layer-00001.json").write_bytes(b"\xff\xfe\x00"),
    "tensors that are none": lambda state: reseal(state, b"no tensors at all"),
    "a tensor too few": drop_a_tensor,
    "a tensor of another shape": reshape_a_tensor,
    "tensors of another layer": of_another_layer,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_state_is_computed_again(damage: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)
    layer_pass, tokens = PASSES["gptq, staged"], random_batches()
    expected = undisturbed(tmp_path, layer_pass, tokens)[1]
    with pytest.raises(StoppedError):
        run(tmp_path, layer_pass, tokens, "stopped", stop_after(3))
    DAMAGES[damage](tmp_path / STATE)
    assert run(tmp_path, layer_pass, tokens, "out").resumed_layers == 1
    assert files(tmp_path / "out") == expected
    assert run(tmp_path, layer_pass, tokens, "again").resumed_layers == LAYERS  # and was kept anew


class LosingStore(DirectoryStore):
    """A store that lists a layer and cannot give it: a 404 of an eventually consistent server, or a body cut short."""

    error: QuantizationError

    def read(self, key: str, start: int, length: int, version: str | None = None) -> Buffer:
        if "layer-00001" in key:
            raise self.error
        return super().read(key, start, length, version)


@pytest.mark.parametrize(
    ("category", "resumed"),
    [(OUTPUT.missing, 1), (OUTPUT.changed, 1), (Category.ACCESS_DENIED, None)],
    ids=["gone", "cut short", "denied"],
)
def test_a_layer_that_cannot_be_read_costs_no_other(
    category: Category, resumed: int | None, tmp_path: Path
) -> None:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)
    layer_pass, tokens = PASSES["gptq, staged"], random_batches()
    expected = undisturbed(tmp_path, layer_pass, tokens)[1]
    with pytest.raises(StoppedError):
        run(tmp_path, layer_pass, tokens, "stopped", stop_after(3))
    store = LosingStore(tmp_path / "store", OUTPUT)
    store.error = QuantizationError(category, "as asked for")
    before = sorted(store.list())
    if resumed is None:
        with pytest.raises(QuantizationError, match="as asked for"):
            run(tmp_path, layer_pass, tokens, "out", store=store)
        assert sorted(store.list()) == before
    else:
        assert run(tmp_path, layer_pass, tokens, "out", store=store).resumed_layers == resumed
        assert files(tmp_path / "out") == expected


def test_state_of_another_recipe_is_not_touched(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)
    layer_pass, tokens = PASSES["gptq, staged"], random_batches()
    with pytest.raises(StoppedError):
        run(tmp_path, layer_pass, tokens, "stopped", stop_after(2))
    other = FinishedLayers(DirectoryStore(tmp_path / "store", OUTPUT), "sha256:" + "6" * 64, tmp_path)
    with other:
        assert other.load(0) is None


def test_what_storing_a_layer_raises_ends_the_run(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)

    def check() -> None:
        raise StoppedError

    store = DirectoryStore(tmp_path / "store", OUTPUT)
    with pytest.raises(StoppedError), FinishedLayers(store, RECIPE, tmp_path, check) as finished:
        run_layers(
            DirectorySource(tmp_path / "model"),
            random_batches(),
            PASSES["gptq, staged"],
            tmp_path / "out",
            tmp_path / "scratch",
            finished=finished,
        )
    assert not (tmp_path / STATE).exists() or not list((tmp_path / STATE).glob("*.json"))


def test_a_layer_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", num_hidden_layers=LAYERS)
    run(tmp_path, PASSES["awq"], random_batches(), "out")
    finished = FinishedLayers(DirectoryStore(tmp_path / "store", OUTPUT), RECIPE, tmp_path)
    layer = finished.load(2)
    assert layer is not None
    assert {name.split(".")[2] for name in layer.tensors} == {"2"}
    assert layer.tensors["model.layers.2.input_layernorm.weight"].dtype is torch.float16
    assert [linear.shape for linear in layer.linears][:2] == [(64, 64), (32, 64)]
    assert finished.load(LAYERS) is None


class HeldStore(DirectoryStore):
    """A store that takes files only once it is let."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, OUTPUT)
        self.begun, self.let = threading.Event(), threading.Event()

    def put_file(self, *arguments: Any, **options: Any) -> Any:
        self.begun.set()
        assert self.let.wait(20), "the upload of a layer holds up the next one"
        return super().put_file(*arguments, **options)


def test_a_finished_layer_is_stored_while_the_next_one_is_computed(tmp_path: Path) -> None:
    store, layer = HeldStore(tmp_path / "store"), FinishedLayer({"a": torch.ones(3)}, [])
    with FinishedLayers(store, RECIPE, tmp_path) as finished:
        finished.save(0, layer)
        assert store.begun.wait(20)
        assert not list((tmp_path / STATE).glob("*.json"))  # the save came back before there was anything
        store.let.set()
    again = FinishedLayers(DirectoryStore(tmp_path / "store", OUTPUT), RECIPE, tmp_path).load(0)
    assert again is not None
    assert torch.equal(again.tensors["a"], torch.ones(3))


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"a": 3}', b'{"a": ["x", 2]}', b'{"a": [4]}'])
def test_a_choice_of_bits_that_is_damaged_is_made_again(damaged: bytes, tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store", OUTPUT)
    counted: list[int] = []
    with FinishedLayers(store, RECIPE, tmp_path, on_kept=counted.append) as finished:
        assert finished.load_schemes() is None
        finished.save_schemes({"a": Scheme(4, 128), "b": Scheme(8, -1)})
    with FinishedLayers(store, RECIPE, tmp_path, on_kept=counted.append) as finished:
        assert finished.load_schemes() == {"a": Scheme(4, 128), "b": Scheme(8, -1)}
        store.put_bytes(f".state/{'5' * 16}/schemes.json", damaged)
        assert finished.load_schemes() is None
    assert counted == [0, 0]
