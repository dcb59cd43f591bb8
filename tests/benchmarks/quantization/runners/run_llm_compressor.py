"""llm-compressor, GPTQ and AWQ; it packs while it saves, so that is counted apart."""

from typing import Any

from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from runner_protocol import Clock, batch_size, dtype, sequences, serve
from transformers import AutoModelForCausalLM, AutoTokenizer


def recipe(request: dict[str, Any]) -> list[Modifier]:
    """Weights of all linears but the head, in groups; without its default act-order, as in the other engines."""
    weights = QuantizationArgs(
        num_bits=request["bits"],
        type="int",
        symmetric=request["sym"],
        strategy="group",
        group_size=request["group_size"],
    )
    chosen = {
        "config_groups": {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
        "ignore": ["lm_head"],
    }
    if request["method"] == "awq":
        return [AWQModifier(), QuantizationModifier(**chosen)]
    return [GPTQModifier(**chosen, dampening_frac=request["damp_percent"], actorder=None)]


def run(request: dict[str, Any], clock: Clock) -> None:
    """One request."""
    with clock.stage("load"):
        model = AutoModelForCausalLM.from_pretrained(
            request["model"], dtype=dtype(request), local_files_only=True
        ).to(request["device"])
        tokenizer = AutoTokenizer.from_pretrained(request["model"], local_files_only=True)
    rows = sequences(request)
    with clock.stage("quantize"):
        oneshot(
            model=model,
            tokenizer=tokenizer,
            dataset=Dataset.from_list(rows),
            recipe=recipe(request),
            batch_size=batch_size(request),
            max_seq_length=len(rows[0]["input_ids"]),
            num_calibration_samples=len(rows),
            shuffle_calibration_samples=False,
        )
    with clock.stage("save"):
        model.save_pretrained(request["output"], save_compressed=True)


serve("llmcompressor", run)
