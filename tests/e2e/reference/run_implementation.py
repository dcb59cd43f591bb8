"""Runs auto-gptq and autoawq through quantizer.implementations; run in the environment that has the packages.

Usage: python run_implementation.py REQUESTS.pt RESULTS.pt

REQUESTS.pt holds a list of {model (directory), sequences, type, parameters, target (directory), without, evaluated};
RESULTS.pt gets for each {error: [class, category, message] or None, seen (sequences that the model was run on),
progress, modules, bits_per_weight, files, logits (of the float model as loaded), kl_divergence (as a run in this
environment evaluates the artifact, where `evaluated` is set)}. `without` names a repair to leave out.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer
from quantizer.calibration.tokens import TokenBatches
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.streamed import evaluate
from quantizer.implementations import local_model, package, repairs
from quantizer.run.checks import readable

PASSES = {"GptqQuantizer": GptqQuantizer, "AutoAWQQuantizer": AutoAWQQuantizer}


@contextlib.contextmanager
def left_out(repair: str | None) -> Iterator[None]:
    """Has a repair do nothing."""
    kind, _, method = (repair or "").partition(".")
    if repair is None:
        yield
    elif method:
        with patch.object(getattr(repairs, kind), method, getattr(repairs.Quantizer.__mro__[1], method)):
            yield
    elif isinstance(getattr(repairs, kind), type):
        with patch.object(repairs, kind, repairs.Quantizer):
            yield
    else:
        with patch.object(repairs, kind, contextlib.nullcontext):
            yield


def run(request: dict[str, Any]) -> dict[str, Any]:
    """One request."""
    kind = PASSES[request["type"]]
    defaults = {name: item.get_default(call_default_factory=True) for name, item in kind.model_fields.items()}
    values = {**defaults, "type": request["type"], "data_config": "text", **request["parameters"]}
    parameters = kind.model_construct(**values)
    result: dict[str, Any] = {"error": None, "seen": [], "progress": []}

    def load(directory: Path, dtype: torch.dtype) -> Any:
        model = local_model.load(directory, dtype)
        with torch.inference_mode():
            result["logits"] = model(request["sequences"][0].unsqueeze(0)).logits.float()
        model.get_input_embeddings().register_forward_pre_hook(
            lambda _, given: result["seen"].extend(given[0])
        )
        return model

    with left_out(request["without"]), patch.object(package, "load", load):
        try:
            report = package.quantize(
                Path(request["model"]),
                TokenBatches(tuple(request["sequences"])),
                parameters,
                Path(request["target"]),
                lambda *event: result["progress"].append(event),
                torch.device("cpu"),
            )
            if request.get("evaluated"):
                result["kl_divergence"] = divergence(request)
        except Exception as error:  # noqa: BLE001 - what went wrong is the result
            category = str(getattr(error, "category", ""))
            return {**result, "error": [type(error).__name__, category, str(error)]}
    modules = [(m.name, m.shape, m.error, m.error_rtn) for m in report.linears]
    return {**result, "modules": modules, "bits_per_weight": report.bits_per_weight, "files": report.files}


def divergence(request: dict[str, Any]) -> float:
    """KL of what was written, as the evaluate step of a run measures it."""
    model, artifact = (readable(DirectorySource(Path(request[key]))) for key in ("model", "target"))
    tokens = TokenBatches(tuple(request["sequences"]))
    with tempfile.TemporaryDirectory() as scratch:
        cpu = torch.device("cpu")
        return evaluate(
            DecoderLayout.open(model), artifact, tokens, cpu, lambda *_: None, Path(scratch)
        ).kl_divergence


def main() -> None:
    """Reads the requests, writes the results."""
    torch.set_num_threads(1)
    requests = torch.load(sys.argv[1], weights_only=True)
    torch.save([run(request) for request in requests], sys.argv[2])


main()
