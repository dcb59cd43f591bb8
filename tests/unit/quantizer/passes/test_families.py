"""GPTQ and AWQ from a checkpoint to an artifact that reads back, on every architecture."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.causal_types import small_model
from tests.support.choice import mostly_nightly
from tests.support.decoder_families import FAMILIES, UNKNOWN, relative
from tests.support.engine import CPU, awq_pass, gptq_pass, ignore_progress, make_pass, run_layers
from tests.support.quantized_models import (
    GROUP,
    as_float,
    family_batches,
    save_family,
    transformers_logits,
    view_logits,
)

from quantizer.checkpoint.quantize_report import QuantizeReport
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.architecture import ModuleNames, SharedInput
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.evaluation.streamed import compare
from quantizer.evaluation.views import FloatView, RtnBaseline, RtnView, open_view
from quantizer.passes.interface import LayerPass

pytestmark = pytest.mark.unit

PASSES: dict[str, LayerPass] = {
    "gptq, staged": make_pass(gptq_pass(group_size=GROUP, true_sequential=True)),
    "gptq, at once": make_pass(gptq_pass(group_size=GROUP)),
    "awq": make_pass(awq_pass(q_group_size=GROUP, input_model_dtype="fp32")),
}


def linears(model: DecoderModel) -> set[str]:
    """Every linear that a pass works on."""
    layout = model.layout
    return {layout.layer_prefix(i) + name for i in range(layout.layers) for name in layout.linears(i)}


def shared_inputs(model: DecoderModel) -> list[tuple[str, SharedInput]]:
    """Linears that share an input, with the prefix of their layer."""
    return [
        (model.layout.layer_prefix(index), shared)
        for index in range(model.layout.layers)
        for stage in model.layout.stages(index)
        for shared in stage.shared_inputs
    ]


def check_artifact(
    name: str, layer_pass: LayerPass, folder: Path, modules: ModuleNames | None, report: QuantizeReport
) -> None:
    """The artifact reads back, as transformers' whole model on its weights, and every linear is reported."""
    source, out = DirectorySource(folder / "model"), DirectorySource(folder / "out")
    reference, packed = FloatView(DecoderLayout.open(source, modules), CPU), open_view(out, CPU, modules)
    assert {module.name for module in report.linears} == linears(reference.model)
    assert len(report.linears) == len(linears(reference.model))
    errors = {module.name: (module.error, module.error_rtn) for module in report.linears}
    for prefix, shared in shared_inputs(reference.model):
        ours, nearest = (sum(errors[prefix + name][which] for name in shared.names) for which in (0, 1))
        assert 0 < ours <= 1.02 * nearest < 1, (prefix, shared, ours, nearest)
    held_out = family_batches(4, seed=4)
    as_float(folder / "out", folder / "float", by_inputs=name.startswith("gpt2"))
    tokens = held_out.batches()[0]
    theirs = transformers_logits(folder / "float", tokens)
    assert relative(view_logits(packed, tokens), theirs) < 1e-3
    # the float model is another one: what was compared is the rounded one
    assert relative(view_logits(reference, tokens), theirs) > 1e-3
    ours = compare(reference, packed, held_out, ignore_progress, folder)
    baseline = RtnBaseline.of(layer_pass)
    assert baseline is not None
    plain = compare(
        reference,
        RtnView(DecoderLayout.open(source, modules), baseline, CPU),
        held_out,
        ignore_progress,
        folder,
    )
    assert 0 < ours.kl_divergence < 1.5 * plain.kl_divergence


READ_BACK_EVERY_TIME = [
    *product(FAMILIES, ("gptq, staged",)),
    *product(("llama", "gemma3", "gpt2", "bloom", "qwen3_moe"), ("gptq, at once", "awq")),
]


@pytest.mark.parametrize(("name", "kind"), mostly_nightly(product(FAMILIES, PASSES), READ_BACK_EVERY_TIME))
def test_every_architecture_is_quantized_and_reads_back(name: str, kind: str, tmp_path: Path) -> None:
    modules = save_family(name, tmp_path / "model")
    source, layer_pass = DirectorySource(tmp_path / "model"), PASSES[kind]
    report = run_layers(source, family_batches(), layer_pass, tmp_path / "out", tmp_path / "scratch")
    check_artifact(name, layer_pass, tmp_path, modules, report)
    before, after = (
        load_file(tmp_path / "model/model.safetensors"),
        load_file(tmp_path / "out/model.safetensors"),
    )
    assert ("lm_head.weight" in after) == ("lm_head.weight" in before)  # tied stays tied
    assert list((tmp_path / "scratch").iterdir()) == []


BY_LOOKING: dict[str, dict[str, Any]] = {
    "olmo2": {},
    "phi": {},
    "youtu": {},
    "lfm2": {},
    "xlnet": {},
    "rembert": {},
    "bert-generation": {},
    "gemma4_text": {"hidden_size_per_layer_input": GROUP},
    "olmo_hybrid": {"linear_num_key_heads": 8, "linear_num_value_heads": 8},
}
"""Types -> changes that make their sizes multiples of GROUP."""
EVERY_TIME = (
    ("olmo2", "awq"),
    ("phi", "gptq, staged"),
    ("youtu", "gptq, staged"),
    ("lfm2", "gptq, staged"),
    ("gemma4_text", "awq"),
)


@pytest.mark.filterwarnings("ignore")  # classes of transformers warn of what they are given
@pytest.mark.parametrize(
    ("model_type", "kind"), mostly_nightly(product(BY_LOOKING, ("gptq, staged", "awq")), EVERY_TIME)
)
def test_a_type_that_nobody_listed_is_quantized_and_reads_back(
    model_type: str, kind: str, tmp_path: Path
) -> None:
    small_model(model_type, **BY_LOOKING[model_type]).save_pretrained(tmp_path / "model")
    layer_pass, source = PASSES[kind], DirectorySource(tmp_path / "model")
    report = run_layers(source, family_batches(), layer_pass, tmp_path / "out", tmp_path / "scratch")
    check_artifact(model_type, layer_pass, tmp_path, None, report)


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_architecture_is_quantized_by_the_names_of_its_modules(name: str, tmp_path: Path) -> None:
    modules = save_family(name, tmp_path / "model")
    assert modules is not None
    parameters = {
        "layers_block_name": modules.layers_block_name,
        "inside_layer_modules": [list(names) for names in modules.inside_layer_modules],
        "outside_layer_modules": list(modules.outside_layer_modules) or None,
    }
    layer_pass = make_pass(gptq_pass(group_size=GROUP, true_sequential=True, **parameters))
    report = run_layers(
        DirectorySource(tmp_path / "model"),
        family_batches(),
        layer_pass,
        tmp_path / "out",
        tmp_path / "scratch",
        modules=modules,
    )
    check_artifact(name, layer_pass, tmp_path, modules, report)


def test_a_format_that_takes_every_linear_leaves_out_those_that_were_not_named(tmp_path: Path) -> None:
    modules = save_family("granite, scaled logits", tmp_path / "model")
    assert modules is not None
    parameters = {
        "layers_block_name": modules.layers_block_name,
        "inside_layer_modules": [list(names) for names in modules.inside_layer_modules],
    }
    layer_pass = make_pass(gptq_pass(group_size=GROUP, checkpoint_format="compressed-tensors", **parameters))
    source = DirectorySource(tmp_path / "model")
    run_layers(source, family_batches(), layer_pass, tmp_path / "out", tmp_path / "scratch", modules=modules)
    named = ("v_proj", "q_proj", "down_proj")
    stored = load_file(tmp_path / "model/model.safetensors")
    others = {
        key.removesuffix(".weight")
        for key in stored
        if "_proj." in key and not any(name in key for name in named)
    }
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert set(config["quantization_config"]["ignore"]) == {*others, "lm_head"}
    assert len(others) == 2 * 4


@pytest.mark.parametrize(
    ("name", "activation", "export", "expected"),
    [
        ("gpt_neox, parallel", "mlp.act", False, True),
        ("bloom", "mlp.gelu_impl", False, True),
        ("bloom", "mlp.gelu_impl", True, False),
        ("llama", "mlp.act_fn", False, False),
    ],
)
def test_awq_writes_the_scales_of_activations_where_readers_want_them(
    name: str, activation: str, export: bool, expected: bool, tmp_path: Path
) -> None:
    """Readers of these divide what the activation makes by a tensor; without one in the file, by anything."""
    save_family(name, tmp_path / "model")
    layer_pass = make_pass(awq_pass(q_group_size=GROUP, export_compatible=export))
    source = DirectorySource(tmp_path / "model")
    run_layers(source, family_batches(), layer_pass, tmp_path / "out", tmp_path / "scratch")
    stored = load_file(tmp_path / "out/model.safetensors")
    model = DecoderModel(DecoderLayout.open(source), CPU)
    names = {f"{model.layout.layer_prefix(index)}{activation}.scales" for index in range(model.layout.layers)}
    assert {key for key in stored if key.endswith(f"{activation}.scales")} == (names if expected else set())
    inputs = model.layout.linear_shapes(0)[model.layout.linears(0)[-1]][1]
    for key in names if expected else ():
        assert torch.equal(stored[key], torch.ones(inputs).half())
