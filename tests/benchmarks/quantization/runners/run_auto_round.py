"""AutoRound with its own defaults (200 steps), on the benchmark's sequences; it packs while it saves."""

from typing import Any

import torch
from auto_round import AutoRound
from runner_protocol import Clock, dtype, serve
from transformers import AutoModelForCausalLM, AutoTokenizer

SEQUENCES = 8
"""Of a step: its default."""


def run(request: dict[str, Any], clock: Clock) -> None:
    """One request."""
    with clock.stage("load"):
        model = AutoModelForCausalLM.from_pretrained(
            request["model"], dtype=dtype(request), local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(request["model"], local_files_only=True)
    tokens = torch.load(request["tokens"], weights_only=True)
    batches = [
        {"input_ids": part, "attention_mask": torch.ones_like(part)} for part in tokens.split(SEQUENCES)
    ]
    with clock.stage("quantize"):
        rounding = AutoRound(
            model,
            tokenizer,
            bits=request["bits"],
            group_size=request["group_size"],
            sym=request["sym"],
            dataset=batches,
            seqlen=tokens.shape[1],
            nsamples=len(tokens),
            batch_size=SEQUENCES,
            iters=200,
            device_map=request["device"],
        )
        rounding.quantize()
    with clock.stage("save"):
        rounding.save_quantized(request["output"], format="auto_gptq")


serve("auto-round", run)
