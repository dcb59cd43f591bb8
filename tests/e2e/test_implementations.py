"""auto-gptq and autoawq themselves, behind our contract; each repair is also left out, to see what it is for."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.engine import CPU, edit_tensors, ignore_progress, save_tiny
from tests.support.packages import run_requests
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from quantization_api.failures import QuantizationError
from quantization_api.passes import AutoAWQQuantizer
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.streamed import evaluate

pytestmark = [pytest.mark.e2e, pytest.mark.nightly]

SIZES = {"hidden_size": 96, "intermediate_size": 128, "num_key_value_heads": 4}
"""96 rows are no multiple of 64, like the 288 of the example model."""

GPTQ: dict[str, Any] = {"implementation": "auto-gptq", "group_size": 32}
AWQ: dict[str, Any] = {"implementation": "autoawq", "q_group_size": 32, "input_model_dtype": "fp32"}
CASES: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "gptq": ("GptqQuantizer", GPTQ, None),
    "gptq, every option": (
        "GptqQuantizer",
        GPTQ | {"bits": 8, "sym": True, "desc_act": True, "static_groups": True, "true_sequential": True},
        None,
    ),
    "gptq, 2 bits": ("GptqQuantizer", GPTQ | {"bits": 2}, None),
    "gptq, 3 bits": ("GptqQuantizer", GPTQ | {"bits": 3, "desc_act": True}, None),
    "gptq, named modules": (
        "GptqQuantizer",
        GPTQ | {"inside_layer_modules": [["mlp.down_proj"]], "layers_block_name": "layers"},
        None,
    ),
    "gptq, unknown module": ("GptqQuantizer", GPTQ | {"inside_layer_modules": [["mlp.no_proj"]]}, None),
    "gptq, odd group": ("GptqQuantizer", GPTQ | {"group_size": 36}, None),
    "awq": ("AutoAWQQuantizer", AWQ, None),
    "awq, some modules": ("AutoAWQQuantizer", AWQ | {"modules_to_not_convert": ["q_proj"]}, None),
    "awq, unpacked": ("AutoAWQQuantizer", AWQ | {"export_compatible": True}, None),
    "without layers_on_the_cpu": ("GptqQuantizer", GPTQ, "layers_on_the_cpu"),
    "without no_synchronization": ("GptqQuantizer", GPTQ, "no_synchronization"),
    "without zero points": ("GptqQuantizer", GPTQ, "zero_points_that_can_be_stored"),
    "without back-ups": ("AutoAWQQuantizer", AWQ, "CpuQuantizer"),
    "without padding": ("AutoAWQQuantizer", AWQ, "Quantizer._compute_best_clip"),
    "without all inputs": (
        "AutoAWQQuantizer",
        AWQ | {"modules_to_not_convert": ["q_proj"]},
        "Quantizer._get_input_feat",
    ),
}


class Runs:
    """What the packages made of one tiny model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, folder / "model"
        rope = {"rope_type": "default", "rope_theta": 500.0}
        self.model = save_tiny(self.source, rope_parameters=rope, initializer_range=0.06, **SIZES)
        with torch.no_grad():  # groups without a negative weight, for which the package computes zero point 0
            self.model.get_submodule("model.layers.0.mlp.up_proj").weight[::3, :32].abs_()
        self.model.save_pretrained(self.source)
        generator = torch.Generator().manual_seed(3)
        self.sequences = list(torch.randint(0, 96, (24, 32), generator=generator))
        requests = [
            {
                "model": str(self.source),
                "sequences": self.sequences,
                "type": kind,
                "parameters": parameters,
                "target": str(self.target(name)),
                "without": without,
            }
            for name, (kind, parameters, without) in CASES.items()
        ]
        uneven = [self.sequences[0], self.sequences[1][:20], self.sequences[2]]
        for kind, parameters in (("GptqQuantizer", GPTQ), ("AutoAWQQuantizer", AWQ)):
            target = str(self.target(f"{kind}, uneven"))
            requests.append({**requests[0], "type": kind, "parameters": parameters, "target": target})
            requests[-1]["sequences"] = uneven
        tiny = folder / "tiny"
        shutil.copytree(self.source, tiny)
        edit_tensors(tiny, lambda tensors: tensors["model.layers.0.mlp.up_proj.weight"].mul_(1e-8))
        for kind, parameters in (("GptqQuantizer", GPTQ), ("AutoAWQQuantizer", AWQ)):
            target = str(self.target(f"{kind}, tiny"))
            asked = {"type": kind, "parameters": parameters, "target": target, "model": str(tiny)}
            requests.append({**requests[0], **asked})
        kinds = [
            f"{kind}, {case}" for case in ("uneven", "tiny") for kind in ("GptqQuantizer", "AutoAWQQuantizer")
        ]
        names = [*CASES, *kinds]
        self.results = dict(zip(names, run_requests(requests, folder), strict=True))

    def target(self, name: str) -> Path:
        """Where a case's artifact is."""
        return self.folder / name.replace(" ", "-")

    def divergence(self, name: str, scratch: Path) -> float:
        """KL of a GPTQ artifact, read by our own reader, on the calibration sequences."""
        tokens = TokenBatches(tuple(self.sequences))
        artifact = DirectorySource(self.target(name))
        source = DirectorySource(self.source)
        return evaluate(
            DecoderLayout.open(source), artifact, tokens, CPU, ignore_progress, scratch
        ).kl_divergence

    def awq_divergence(self, name: str) -> float:
        """The same for an AWQ artifact, unpacked here."""
        tensors = load_file(self.target(name) / "model.safetensors")
        copy = LlamaForCausalLM(LlamaConfig.from_pretrained(self.source))
        copy.load_state_dict(unpacked(tensors), strict=True)
        copy.train(False)
        with torch.inference_mode():
            ours = copy(torch.stack(self.sequences)).logits.log_softmax(-1)
            theirs = self.model(torch.stack(self.sequences)).logits.log_softmax(-1)
        return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


def unpacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """An AWQ (gemm) checkpoint as plain weights: nibble i of word c is column 8c + (0 2 4 6 1 3 5 7)[i]."""
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])

    def nibbles(words: Tensor) -> Tensor:
        values = torch.empty((words.shape[0], words.shape[1], 8))
        for index, column in enumerate(order):
            values[:, :, column] = ((words >> (4 * index)) & 15).float()
        return values.flatten(1)

    plain = {name: value.float() for name, value in tensors.items() if name.endswith(".weight")}
    for name in [name for name in tensors if name.endswith(".qweight")]:
        linear = name.removesuffix(".qweight")
        scales = tensors[f"{linear}.scales"].float().repeat_interleave(32, 0)
        zeros = nibbles(tensors[f"{linear}.qzeros"]).repeat_interleave(32, 0)
        plain[f"{linear}.weight"] = ((nibbles(tensors[name]) - zeros) * scales).t().contiguous()
    return plain


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All cases, in one process of the packages' environment."""
    return Runs(tmp_path_factory.mktemp("implementations"))


def test_older_transformers_loads_the_model_that_the_newer_one_wrote(runs: Runs) -> None:
    with torch.inference_mode():
        expected = runs.model(runs.sequences[0].unsqueeze(0)).logits
    torch.testing.assert_close(runs.results["gptq"]["logits"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_the_package_gets_exactly_our_sequences(runs: Runs, name: str) -> None:
    seen = [tuple(row.tolist()) for row in runs.results[name]["seen"]]
    assert seen == [tuple(sequence.tolist()) for sequence in runs.sequences]


def test_auto_gptq_takes_sequences_of_any_length_without_padding(runs: Runs) -> None:
    result = runs.results["GptqQuantizer, uneven"]
    assert result["error"] is None
    assert [len(row) for row in result["seen"]] == [32, 20, 32]


@pytest.mark.parametrize("kind", ["GptqQuantizer", "AutoAWQQuantizer"])
def test_weights_too_small_for_their_scales_are_refused(runs: Runs, kind: str) -> None:
    name, category, message = runs.results[f"{kind}, tiny"]["error"]
    assert (name, category) == ("QuantizationError", "NumericalFailure")
    assert "the weights of model.layers.0.mlp.up_proj are too small" in message


def test_autoawq_refuses_sequences_that_it_would_cut_anew(runs: Runs) -> None:
    name, category, message = runs.results["AutoAWQQuantizer, uneven"]["error"]
    assert (name, category) == ("QuantizationError", "InvalidWorkflow")
    assert "20 to 32 tokens" in message


@pytest.mark.parametrize(
    ("name", "bound"),
    [("gptq", 0.1), ("gptq, every option", 0.001), ("gptq, 3 bits", 0.5), ("gptq, 2 bits", 3.0)],
)
def test_a_gptq_artifact_is_read_back_near_the_model(
    runs: Runs, name: str, bound: float, tmp_path: Path
) -> None:
    assert runs.results[name]["error"] is None
    assert 0 < runs.divergence(name, tmp_path) < bound


@pytest.mark.parametrize("name", ["awq", "awq, some modules", "awq, unpacked"])
def test_an_awq_artifact_is_near_the_model(runs: Runs, name: str) -> None:
    assert runs.results[name]["error"] is None
    assert 0 < runs.awq_divergence(name) < 0.1


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_progress_counts_the_layers(runs: Runs, name: str) -> None:
    assert runs.results[name]["progress"] == [("quantize", done, 2) for done in (0, 1, 2)]


@pytest.mark.parametrize("name", ["gptq", "gptq, every option", "awq"])
def test_every_linear_is_reported_beside_rtn(runs: Runs, name: str) -> None:
    modules = runs.results[name]["modules"]
    assert len({module[0] for module in modules}) == 14
    assert all(0 < error < 1 and 0 < plain < 1 for _, _, error, plain in modules)
    if name != "gptq, every option":  # sym: the package clips groups without a negative weight to half
        assert sum(module[2] for module in modules) < sum(module[3] for module in modules)


def test_what_was_not_converted_stays_a_weight(runs: Runs) -> None:
    names = set(load_file(runs.target("awq, some modules") / "model.safetensors"))
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert "model.layers.0.self_attn.k_proj.qweight" in names
    names = set(load_file(runs.target("gptq, named modules") / "model.safetensors"))
    assert "model.layers.0.mlp.down_proj.qweight" in names
    assert "model.layers.0.mlp.up_proj.weight" in names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gptq, unknown module", "no linear model.layers.0.mlp.no_proj"),
        ("gptq, odd group", "does not divide the 96 inputs"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(runs: Runs, name: str, words: str) -> None:
    _, category, message = runs.results[name]["error"]
    assert category == "InvalidWorkflow"
    assert words in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("without layers_on_the_cpu", "NVIDIA"),
        ("without no_synchronization", "NVIDIA"),
        ("without padding", ""),
        ("without all inputs", "self_attn.q_proj"),
    ],
)
def test_without_the_repair_the_package_stops(runs: Runs, name: str, words: str) -> None:
    error = runs.results[name]["error"]
    assert error is not None
    assert words in error[2]


def test_without_the_repair_zero_points_wrap_around(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="up_proj has a zero point that wrapped around"):
        runs.divergence("without zero points", tmp_path)


def test_without_the_repair_autoawq_destroys_the_weights(runs: Runs) -> None:
    assert runs.awq_divergence("without back-ups") > 1.4 * runs.awq_divergence("awq")  # measured: 1.7


def test_the_parameters_that_are_sent_are_those_of_the_contract() -> None:
    assert set(AWQ) <= set(AutoAWQQuantizer.model_fields)
