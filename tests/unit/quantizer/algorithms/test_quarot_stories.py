"""QuaRot on a real small Llama: its function stays, eight bits cost nothing, rotation is what makes four bits work."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.support.engine import CALIBRATION, STORIES, VALIDATION, random_batches, save_tiny, story_batches
from tests.support.quarot import plant_outliers, run_in_place, save_artifact
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from quantizer.algorithms.quarot.parameters import QuarotParameters

pytestmark = pytest.mark.unit

ONLINE4: dict[str, Any] = {
    "a_bits": 4,
    "a_clip_ratio": 0.9,
    "k_bits": 4,
    "k_clip_ratio": 0.95,
    "v_bits": 4,
    "v_clip_ratio": 0.95,
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    return list(story_batches(VALIDATION, 24, tmp_path_factory.mktemp("tokens")).batches())


def stories(outliers: bool = False) -> LlamaForCausalLM:
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    if outliers:
        plant_outliers(model)
    return model


def log_probabilities(model: PreTrainedModel, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(batch, use_cache=False).logits.log_softmax(-1)  # type: ignore[no-any-return]


def loss(model: PreTrainedModel, batches: list[Tensor]) -> float:
    """Mean of -log p of the next token, in nats."""
    total, count = 0.0, 0
    for batch in batches:
        picked = log_probabilities(model, batch)[:, :-1].gather(-1, batch[:, 1:, None])
        total, count = total - float(picked.sum()), count + picked.numel()
    return total / count


def divergence(reference: PreTrainedModel, model: PreTrainedModel, batches: list[Tensor]) -> float:
    """Mean of KL(reference | model) over tokens, in nats."""
    total = sum(
        float(
            torch.nn.functional.kl_div(
                log_probabilities(model, batch),
                log_probabilities(reference, batch),
                log_target=True,
                reduction="sum",
            )
        )
        for batch in batches
    )
    return total / sum(batch.numel() for batch in batches)


def artifact(
    model: PreTrainedModel, target: Path, batches: list[Tensor] | None = None, **changes: Any
) -> Any:
    save_artifact(target, model, QuarotParameters(**changes), batches or [])
    return AutoModelForCausalLM.from_pretrained(target, trust_remote_code=True, dtype=torch.float32)


def exact_logits(model: Any, texts: list[Tensor]) -> Tensor:
    """Logits of float32 weights, computed in float64: products of outliers are off by 1e-4 on some processors."""
    logits: Tensor = copy.deepcopy(model).double()(texts[0][:2]).logits
    return logits


def test_rotation_alone_leaves_the_logits_as_they_are(texts: list[Tensor]) -> None:
    model = stories(outliers=True)
    with torch.inference_mode():
        expected = exact_logits(model, texts)
        run_in_place(model, QuarotParameters())
        assert float((exact_logits(model, texts) - expected).abs().max()) < 1e-4


@pytest.mark.nightly
def test_online_rotations_alone_leave_the_logits_as_they_are(texts: list[Tensor], tmp_path: Path) -> None:
    model = stories(outliers=True)
    with torch.inference_mode():
        expected = exact_logits(model, texts)
        artifact(model, tmp_path, a_bits=8, k_bits=8, v_bits=8)
        config = json.loads((tmp_path / "config.json").read_text())
        assert set(config["quarot"]["rotations"]) == {"keys", "heads", "down"}
        config["quarot"] |= {"a_bits": 16, "k_bits": 16, "v_bits": 16}  # nothing is rounded any more
        (tmp_path / "config.json").write_text(json.dumps(config))
        unrounded = AutoModelForCausalLM.from_pretrained(
            tmp_path, trust_remote_code=True, dtype=torch.float32
        )
        assert float((exact_logits(unrounded, texts) - expected).abs().max()) < 1e-4


@pytest.mark.nightly
def test_eight_bits_of_everything_cost_less_than_a_percent_of_perplexity(
    texts: list[Tensor], tmp_path: Path
) -> None:
    before = loss(stories(), texts)
    eight = artifact(stories(), tmp_path, w_rtn=True, w_bits=8, a_bits=8, k_bits=8, v_bits=8)
    assert loss(eight, texts) - before < 0.01  # log of a ratio of perplexities


@pytest.mark.nightly
def test_four_bits_of_everything_need_the_rotation_when_channels_stand_out(
    texts: list[Tensor], tmp_path: Path
) -> None:
    reference, few = stories(), [texts[0][:4]]
    rotated = artifact(stories(outliers=True), tmp_path / "rotated", w_rtn=True, w_bits=4, **ONLINE4)
    plain = artifact(
        stories(outliers=True), tmp_path / "plain", rotate=False, w_rtn=True, w_bits=4, **ONLINE4
    )
    with_rotation, without = divergence(reference, rotated, few), divergence(reference, plain, few)
    assert with_rotation < without / 2


@pytest.mark.nightly
def test_gptq_and_refitted_scales_each_lower_the_divergence(tmp_path: Path) -> None:
    calibration = list(story_batches(CALIBRATION, 8, tmp_path, length=128).batches())
    few = [story_batches(VALIDATION, 4, tmp_path).batches()[0]]
    reference, found = stories(), []
    for changes in (
        {"w_rtn": True},
        {"w_gptq": True},
        {"w_gptq": True, "gptq_opt_scales": True},
    ):
        model = stories()
        run_in_place(model, QuarotParameters(w_bits=4, **changes), calibration)  # type: ignore[arg-type]
        found.append(divergence(reference, model, few))
    assert found[1] < 0.8 * found[0]
    assert found[2] < found[1]


def test_two_runs_write_the_same_artifact_byte_for_byte(tmp_path: Path) -> None:
    batches = [torch.stack(random_batches(4, 16).sequences)]
    for name in ("one", "two"):
        model = save_tiny(tmp_path / "input")
        parameters = QuarotParameters(w_gptq=True, w_bits=4, **ONLINE4)
        save_artifact(tmp_path / name, model, parameters, batches)
    for file in ("model.safetensors", "config.json", "modeling_quarot.py"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
