"""autoawq, on a model in memory; on a CPU its untouched form destroys the weights (see the repairs).

It runs all sequences at once, its default: parts of them would get the attention mask of all.
"""

from typing import Any

import stock_repairs
import torch
from awq.models.auto import AWQ_CAUSAL_LM_MODEL_MAP
from runner_protocol import Clock, dtype, sequences, serve
from transformers import AutoModelForCausalLM


def run(request: dict[str, Any], clock: Clock) -> None:
    """One request."""
    with clock.stage("load"):
        model = AutoModelForCausalLM.from_pretrained(
            request["model"], torch_dtype=dtype(request), local_files_only=True, use_cache=False
        ).eval()
        kind = AWQ_CAUSAL_LM_MODEL_MAP[model.config.model_type]
        wrapper = kind(model, model.config.model_type, False, model.config, None, None)
    samples = [sample["input_ids"] for sample in sequences(request)]
    config = {
        "w_bit": request["bits"],
        "q_group_size": request["group_size"],
        "zero_point": not request["sym"],
        "version": "gemm",
    }
    layers: Any = kind.get_model_layers(model)
    repairs = stock_repairs.load().autoawq(torch.device(request["device"]), layers)
    with clock.stage("quantize"), repairs as repaired:
        wrapper.quantize(
            tokenizer=None,
            quant_config=config,
            calib_data=samples,
            max_calib_samples=len(samples),
            max_calib_seq_len=len(samples[0]),
            quantizer_cls=repaired,
        )
    with clock.stage("save"):
        wrapper.save_quantized(request["output"])


serve("autoawq", run)
