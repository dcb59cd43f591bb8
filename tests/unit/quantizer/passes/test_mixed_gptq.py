"""Bits that are chosen under a budget: by what an error does to the output, the same for linears that servers fuse."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.engine import (
    CPU,
    edit_tensors,
    files,
    gptq_pass,
    make_pass,
    random_batches,
    run_layers,
    run_pass,
    save_tiny,
)
from tests.support.quantized_models import GROUP as GROUP_OF_FAMILIES
from tests.support.quantized_models import (
    as_float,
    family_batches,
    save_family,
    transformers_logits,
    view_logits,
)
from torch import Tensor
from transformers import LlamaForCausalLM

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.grid import Scheme
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.layout import DecoderLayout
from quantizer.decoder.model import DecoderModel
from quantizer.evaluation.views import RtnBaseline, open_view
from quantizer.passes.finished import NothingFinished
from quantizer.passes.interface import FloatModel
from quantizer.passes.sensitivity import measure, walking
from quantizer.passes.sizes import check_sizes
from quantizer.passes.written import schemes_of

pytestmark = pytest.mark.unit

FORMATS = ("gptq", "gptq_v2", "compressed-tensors")
GROUP = 32
TOKENS = random_batches()
TIED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama."""
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder, initializer_range=0.2)
    return folder


def quantized(model: Path, folder: Path, **parameters: Any) -> dict[str, Scheme]:
    """Quantizes under a budget; the schemes that were chosen."""
    settings = {"candidate_group_sizes": [GROUP], **parameters}
    report = run_pass(DirectorySource(model), TOKENS, folder / "out", folder / "scratch", **settings)
    return schemes_of(report.linears)


@pytest.mark.parametrize("checkpoint_format", FORMATS)
def test_what_was_chosen_is_read_back_as_the_plain_model_computes_it(
    checkpoint_format: str, tiny: Path, tmp_path: Path
) -> None:
    schemes = quantized(tiny, tmp_path, target_bits=5, checkpoint_format=checkpoint_format)
    assert len({scheme.bits for scheme in schemes.values()}) > 1
    as_float(tmp_path / "out", tmp_path / "float")
    tokens = torch.stack(TOKENS.sequences[:2])
    ours = view_logits(open_view(DirectorySource(tmp_path / "out"), CPU), tokens)
    assert torch.allclose(ours, transformers_logits(tmp_path / "float", tokens), atol=1e-4)


@pytest.mark.parametrize("target", [3.0, 3.7, 4.6, 6.0])
def test_the_average_is_within_the_target_and_close_to_it(target: float, tiny: Path, tmp_path: Path) -> None:
    report = run_pass(
        DirectorySource(tiny),
        TOKENS,
        tmp_path / "out",
        tmp_path / "scratch",
        target_bits=target,
        candidate_group_sizes=[GROUP],
        checkpoint_format="compressed-tensors",
    )
    assert target - 0.5 <= report.bits_per_weight <= target


def test_the_files_are_within_the_target_size(tiny: Path, tmp_path: Path) -> None:
    target = 88_000
    report = run_pass(
        DirectorySource(tiny),
        TOKENS,
        tmp_path / "out",
        tmp_path / "scratch",
        target_size=target,
        candidate_group_sizes=[GROUP],
        checkpoint_format="compressed-tensors",
    )
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert size == report.output_bytes
    assert 0.9 * target <= size <= target


@pytest.mark.parametrize(
    ("target", "said"),
    [({"target_bits": 2.1}, "target_bits 2.1 is too small"), ({"target_size": 50_000}, "target_size 50,000")],
    ids=["bits", "size"],
)
def test_a_target_that_no_choice_meets_is_refused_with_the_least(
    target: dict[str, Any], said: str, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(QuantizationError, match=said) as caught:
        quantized(tiny, tmp_path, **target)
    assert caught.value.category is Category.INVALID_WORKFLOW
    least = caught.value.hint.split()[4].rstrip(",")
    value = {name: float(least) if name == "target_bits" else least.replace(",", "") for name in target}
    assert {scheme.bits for scheme in quantized(tiny, tmp_path, **value).values()} == {2}


def test_linears_that_servers_fuse_have_the_same_scheme(tiny: Path, tmp_path: Path) -> None:
    schemes = quantized(tiny, tmp_path, target_bits=4.5, candidate_group_sizes=[16, 32, 64])
    for layer in range(2):
        for names in TIED:
            found = {s for n, s in schemes.items() if f"layers.{layer}." in n and n.endswith(names)}
            assert len(found) == 1, names


def test_the_experts_of_a_layer_have_the_same_scheme(tmp_path: Path) -> None:
    save_family("mixtral", tmp_path / "model")
    tokens = random_batches(vocabulary=64)
    report = run_pass(
        DirectorySource(tmp_path / "model"),
        tokens,
        tmp_path / "out",
        tmp_path / "scratch",
        target_bits=6,
        candidate_group_sizes=[16],
    )
    for layer in (0, 1):
        experts = {
            (one.bits, one.group_size)
            for one in report.linears
            if f"layers.{layer}." in one.name and ".experts." in one.name
        }
        assert len(experts) == 1


def whole_model(folder: Path, scratch: Path) -> FloatModel:
    """A model as the streaming loop hands it to a pass."""
    layout = DecoderLayout.open(DirectorySource(folder))
    model = DecoderModel(layout, CPU)

    def layers() -> Iterator[dict[str, Tensor]]:
        for index in range(layout.layers):
            prefix = layout.layer_prefix(index)
            yield {name: layout.reader.tensor(prefix + name) for name in layout.layer_shapes(index)}

    def store(name: str, shapes: Any, width: int) -> ActivationStore:
        return ActivationStore(scratch / name, shapes, width, torch.float32, CPU)

    @contextmanager
    def timed(_: str) -> Iterator[None]:
        yield

    return FloatModel(model, TOKENS, layers, store, timed, lambda: None, lambda: 0)


def test_the_divergence_is_that_of_the_whole_model_with_this_part_alone_rounded(
    tiny: Path, tmp_path: Path
) -> None:
    layer_pass = make_pass(gptq_pass(target_bits=4, candidate_bits=[3, 4], candidate_group_sizes=[GROUP]))
    whole = whole_model(tiny, tmp_path)
    with torch.inference_mode():
        ties = measure(whole, layer_pass.candidates(whole.model.layout), 0)  # type: ignore[arg-type]
    assert [len(tie.names) for tie in ties] == [3, 1, 2, 1] * 2
    run_pass(DirectorySource(tiny), TOKENS, tmp_path / "out", tmp_path / "scratch", bits=3, group_size=GROUP)
    as_float(tmp_path / "out", tmp_path / "float")
    rounded = load_file(tmp_path / "float/model.safetensors")
    tie = ties[0]  # its inputs are those of the float model in the run too
    model = LlamaForCausalLM.from_pretrained(tiny)
    tokens = torch.stack(walking(TOKENS).sequences)
    with torch.inference_mode():
        before = model(tokens).logits[:, 3::4].log_softmax(-1)
        for name in tie.names:
            model.get_parameter(f"{name}.weight").copy_(rounded[f"{name}.weight"])
        after = model(tokens).logits[:, 3::4].log_softmax(-1)
    expected = float((before.exp() * (before - after)).sum(-1).mean())
    assert tie.divergence == pytest.approx(expected, rel=0.02)


def test_where_an_error_hardly_moves_the_output_there_are_few_bits(tmp_path: Path) -> None:
    """What a linear adds to the rest is made small; its error beside its own output stays what it was."""
    save_tiny(tmp_path / "model", initializer_range=0.2)

    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.o_proj.weight"] *= 0.01

    edit_tensors(tmp_path / "model", edit)
    schemes = quantized(tmp_path / "model", tmp_path, target_bits=4.6)
    first, second = (schemes[f"model.layers.{layer}.self_attn.o_proj"].bits for layer in (0, 1))
    assert first < second


def test_errors_that_are_large_in_a_layer_alone_change_nothing(tmp_path: Path) -> None:
    """Values are made 64 times as large and taken back behind the attention: the output is what it was."""

    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.v_proj.weight"] *= 64
        tensors["model.layers.0.self_attn.o_proj.weight"] /= 64

    found = []
    for name in ("plain", "scaled"):
        save_tiny(tmp_path / name, initializer_range=0.2)
        if name == "scaled":
            edit_tensors(tmp_path / name, edit)
        found.append(quantized(tmp_path / name, tmp_path / f"of-{name}", target_bits=4.6))
    assert found[0] == found[1]


def test_a_choice_that_was_kept_is_taken_and_another_model_s_is_not(tiny: Path, tmp_path: Path) -> None:
    saved: list[dict[str, Scheme]] = []

    class Kept(NothingFinished):
        def __init__(self, schemes: dict[str, Scheme] | None) -> None:
            self.schemes = schemes

        def load_schemes(self) -> Any:
            return self.schemes

        def save_schemes(self, schemes: Any) -> None:
            saved.append(dict(schemes))

    def run(kept: Kept, folder: str) -> dict[str, Scheme]:
        layer_pass = make_pass(gptq_pass(target_bits=4.5, candidate_group_sizes=[GROUP]))
        report = run_layers(
            DirectorySource(tiny), TOKENS, layer_pass, tmp_path / folder, tmp_path / "scratch", finished=kept
        )
        return schemes_of(report.linears)

    first = run(Kept(None), "a")
    assert saved == [first]
    kept = {name: Scheme(8, GROUP) for name in first}
    assert run(Kept(kept), "b") == kept
    assert run(Kept({"another.linear": Scheme(8, GROUP)}), "c") == first
    assert files(tmp_path / "a") == files(tmp_path / "c")


def test_rtn_beside_it_has_the_same_bits_in_every_linear() -> None:
    layer_pass = make_pass(gptq_pass(target_bits=4, candidate_group_sizes=[GROUP]))
    settled = layer_pass.with_schemes({"a.b": Scheme(2, 16), "a.c": Scheme(8, GROUP)})
    baseline = RtnBaseline.of(settled)
    assert baseline is not None
    weight = torch.randn(8, 64)
    assert baseline.round("a.b", weight).scales.shape == (8, 4)
    assert int(baseline.round("a.b", weight).integers.max()) == 3
    assert baseline.round("a.c", weight).scales.shape == (8, 2)


def test_bits_that_do_not_fill_words_are_left_out_unless_they_were_asked_for(tmp_path: Path) -> None:
    save_tiny(tmp_path, hidden_size=48, num_attention_heads=4, num_key_value_heads=4, intermediate_size=96)
    layout = DecoderLayout.open(DirectorySource(tmp_path))
    unsaid = make_pass(gptq_pass(target_bits=4, candidate_group_sizes=[16]))
    assert [one.grid.rule.bits for one in unsaid.candidates(layout)] == [2, 4, 8]
    check_sizes(layout, unsaid)
    asked = make_pass(gptq_pass(target_bits=4, candidate_bits=[3, 4], candidate_group_sizes=[16]))
    with pytest.raises(QuantizationError, match="packs 3-bit weights in multiples of 32 only"):
        check_sizes(layout, asked)


def test_groups_that_do_not_divide_are_refused_by_the_parameter_that_has_them(tiny: Path) -> None:
    layout = DecoderLayout.open(DirectorySource(tiny))
    layer_pass = make_pass(gptq_pass(target_bits=4, candidate_group_sizes=[GROUP, 48]))
    with pytest.raises(QuantizationError, match="candidate_group_sizes 48 does not divide the 64 inputs"):
        check_sizes(layout, layer_pass)


def test_config_json_has_a_config_group_for_each_scheme(tiny: Path, tmp_path: Path) -> None:
    schemes = quantized(tiny, tmp_path, target_bits=5, checkpoint_format="compressed-tensors")
    said = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    found = {
        name: Scheme(group["weights"]["num_bits"], group["weights"]["group_size"])
        for group in said["config_groups"].values()
        for name in group["targets"]
    }
    assert found == schemes


def test_few_tokens_walk_the_whole_model() -> None:
    long = TokenBatches(tuple(torch.zeros(3000, dtype=torch.int64) for _ in range(4)))
    assert [len(one) for one in walking(long).sequences] == [2048]
    short = TokenBatches(tuple(torch.zeros(100, dtype=torch.int64) for _ in range(4)))
    assert len(walking(short).sequences) == 4


@pytest.mark.parametrize(
    "name", ["gpt2, scaled by layer", "gpt_neox, parallel", "gemma2", "qwen3_moe", "stablelm"]
)
def test_other_architectures_are_quantized_and_read_back(name: str, tmp_path: Path) -> None:
    modules = save_family(name, tmp_path / "model")
    layer_pass = make_pass(
        gptq_pass(
            target_bits=7,
            candidate_bits=[2, 4, 8],
            candidate_group_sizes=[GROUP_OF_FAMILIES],
            checkpoint_format="compressed-tensors",
        )
    )
    tokens = family_batches()
    report = run_layers(
        DirectorySource(tmp_path / "model"),
        tokens,
        layer_pass,
        tmp_path / "out",
        tmp_path / "scratch",
        modules=modules,
    )
    assert len({one.bits for one in report.linears}) > 1
    assert 6 < report.bits_per_weight <= 7
    as_float(tmp_path / "out", tmp_path / "float", by_inputs=name.startswith("gpt2"))
    ours = view_logits(open_view(DirectorySource(tmp_path / "out"), CPU, modules), tokens.batches()[0])
    theirs = transformers_logits(tmp_path / "float", tokens.batches()[0])
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-3
    assert list((tmp_path / "scratch").iterdir()) == []
