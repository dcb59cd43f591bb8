"""auto-gptq, on a model in memory (its own from_pretrained asks for a GPU)."""

from typing import Any

import stock_repairs
import torch
from auto_gptq import BaseQuantizeConfig
from auto_gptq.modeling.auto import GPTQ_CAUSAL_LM_MODEL_MAP
from runner_protocol import Clock, batch_size, dtype, sequences, serve
from transformers import AutoModelForCausalLM


def run(request: dict[str, Any], clock: Clock) -> None:
    """One request."""
    config = BaseQuantizeConfig(
        bits=request["bits"],
        group_size=request["group_size"],
        damp_percent=request["damp_percent"],
        desc_act=False,
        sym=request["sym"],
        true_sequential=request["true_sequential"],
    )
    with clock.stage("load"):
        model = AutoModelForCausalLM.from_pretrained(
            request["model"], torch_dtype=dtype(request), local_files_only=True
        ).eval()
        wrapper = GPTQ_CAUSAL_LM_MODEL_MAP[model.config.model_type](model, False, config)
    layers: Any = model.get_submodule(wrapper.layers_block_name)
    with clock.stage("quantize"), stock_repairs.load().auto_gptq(torch.device(request["device"]), layers):
        wrapper.quantize(sequences(request), batch_size=batch_size(request), use_triton=False)
    with clock.stage("save"):
        wrapper.save_quantized(request["output"], use_safetensors=True)


serve("auto-gptq", run)
