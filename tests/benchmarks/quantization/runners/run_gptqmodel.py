"""gptqmodel, GPTQ and AWQ."""

from typing import Any

import torch
from gptqmodel import BACKEND, GPTQModel
from gptqmodel.looper.awq_processor import AWQProcessor
from gptqmodel.quantization.config import AWQConfig, BaseQuantizeConfig, GPTQConfig
from runner_protocol import Clock, batch_size, dtype, sequences, serve

CLIP_ROWS = 64
"""Its clip search asserts that rows are a multiple of this; rows are independent, so padding changes nothing."""

stock_clip = AWQProcessor._compute_best_clip


def padded_clip(self: AWQProcessor, w: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
    """The package's search on any number of rows; without it the example model, 288 wide, cannot be measured."""
    missing = -w.shape[0] % CLIP_ROWS
    padded = torch.cat([w, w[:1].expand(missing, -1)]) if missing else w
    clip: torch.Tensor = stock_clip(self, padded, *given, **options)
    return clip[: w.shape[0]]


def configuration(request: dict[str, Any]) -> BaseQuantizeConfig:
    """act_group_aware is the package's own default order of columns; off, as in the other engines here."""
    shared = {"bits": request["bits"], "group_size": request["group_size"], "sym": request["sym"]}
    if request["method"] == "awq":
        return AWQConfig(**shared)
    return GPTQConfig(
        **shared,
        desc_act=False,
        act_group_aware=False,
        damp_percent=request["damp_percent"],
        true_sequential=request["true_sequential"],
    )


def run(request: dict[str, Any], clock: Clock) -> None:
    """One request; AWQ on a CPU: what the package would choose needs a GPU, and its one packer takes no float32."""
    awq_on_cpu = request["method"] == "awq" and request["device"] == "cpu"
    with clock.stage("load"):
        model = GPTQModel.load(
            request["model"],
            configuration(request),
            device="cuda:0" if request["device"] == "cuda" else "cpu",
            dtype=torch.bfloat16 if awq_on_cpu else dtype(request),
        )
    backend = BACKEND.AWQ_TORCH if awq_on_cpu else BACKEND.AUTO
    with clock.stage("quantize"):
        model.quantize(sequences(request), batch_size=batch_size(request), backend=backend)
    with clock.stage("save"):
        model.save(request["output"])


AWQProcessor._compute_best_clip = padded_clip
serve("gptqmodel", run)
