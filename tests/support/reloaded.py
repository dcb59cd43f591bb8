"""A tiny model of any type, quantized to 8 bits by a whole run, as transformers loads what was published."""

import json
import logging
import multiprocessing
import tempfile
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.support.causal_types import VOCABULARY, small_model
from tests.support.decoder_families import relative
from tests.support.engine import CPU
from tests.support.quantized_models import as_float, transformers_logits, unpacked, view_logits
from tests.support.quantizer_requests import Request, run_here
from tests.support.tokens import save_byte_tokenizer
from transformers import AutoModelForCausalLM

from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.layout import DecoderLayout
from quantizer.evaluation.views import open_view

SHARDS = 3
SAME = "same"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZĠ.,'\"!"
WEIGHTED_BEFORE = ("llama4", "llama4_text")
"""Types whose class weighs tokens before it sends them to an expert, which then cannot read all of them."""
SECONDS = 300
TOLERANCE = 1e-5
"""How far logits of transformers and of the engine may be apart, by the largest."""
NEAR = 0.1
"""How far those of the artifact and of the model may be apart, in the middle: random layers add to an error of 1 %."""

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["tests.support.reloaded", "quantizer.report.document", "quantizer.report.gallery"]
)


def save_whole(whole: Any, folder: Path) -> Any:
    """Writes a model in a few files, with a tokenizer; returns it."""
    total = sum(parameter.nbytes for parameter in whole.parameters())
    whole.save_pretrained(folder, max_shard_size=total // SHARDS)
    assert save_byte_tokenizer(folder, LETTERS) <= VOCABULARY
    return whole


def has_experts(layout: DecoderLayout) -> bool:
    """Whether any layer of a model has experts."""
    stages = (stage for index in range(layout.layers) for stage in layout.stages(index))
    return any(shared.expert for stage in stages for shared in stage.shared_inputs)


def experts_of(model: Path) -> dict[str, Any]:
    """What a pass says of experts: all of them are calibrated where the model has any, and lets them be."""
    layout = DecoderLayout.open(DirectorySource(model))
    policy = "rtn" if layout.model_type in WEIGHTED_BEFORE else "all"
    return {"experts": {"few_tokens": policy}} if has_experts(layout) else {}


def request_for(model: Path, out: Path, **options: Any) -> Request:
    """The job: 8 bits, one scale for each output, of experts as well."""
    eight = {"bits": 8, "group_size": -1, "sym": True, "checkpoint_format": "compressed-tensors"}
    pass_options = {**eight, **experts_of(model), **options}
    return Request(f"file://{out}", f"file://{model}", pass_options=pass_options, metrics=[], length=32)


def dequantized(artifact: Path, model: Path, target: Path) -> None:
    """Writes what an artifact stores as it lay in the model: by inputs there, experts in fused tensors there."""
    as_float(artifact, target)
    layout, packed = DecoderLayout.open(DirectorySource(model)), unpacked(artifact)
    tensors = load_file(target / "model.safetensors")
    for index in range(layout.layers):
        prefix = layout.layer_prefix(index)
        for linear in layout.linears(index):
            name = f"{linear}.weight"
            if prefix + linear in packed:
                tensors[prefix + name] = layout.transposed(index, name, tensors[prefix + name]).contiguous()
    layout.wholes.join(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True)
class Reloaded:
    """What was seen of a type.

    linears: how many are packed. same: largest difference of transformers' logits and the engine's, by the largest.
    near: the middle difference of transformers' logits on the artifact and on the model, by the largest. said: why
    there are no such figures.
    """

    linears: int = 0
    same: float = 0.0
    near: float = 0.0
    said: str = ""

    @property
    def right(self) -> bool:
        """Whether transformers computes with what is stored what the engine does, and nearly what the model does."""
        return not self.said and self.linears > 0 and self.same < TOLERANCE and 0 < self.near < NEAR

    @property
    def cell(self) -> str:
        """What the page of models says: nothing where there are no figures."""
        if self.said:
            return ""
        return SAME if self.right else f"off by {self.same:.0e}, {self.near:.0e} from the model"


def reloaded(model_type: str, folder: Path, auto: Any = AutoModelForCausalLM) -> Reloaded:
    """Quantizes a model of the type in an empty folder, publishes it and loads it as a float model."""
    model, out = folder / "model", folder / "out"
    whole = save_whole(small_model(model_type, auto=auto), model)
    ended = run_here(request_for(model, out), folder / "scratch")
    if ended.code:
        failure = ended.result.failure
        return Reloaded(said=failure.message if failure else f"exit code {ended.code}")
    return judged(whole, model, out / "model", auto)


def judged(whole: Any, model: Path, artifact: Path, auto: Any = AutoModelForCausalLM) -> Reloaded:
    """What transformers computes with what an artifact of the model `whole`, which lies in `model`, stores."""
    tokens = torch.randint(3, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        before = whole(input_ids=tokens, use_cache=False).logits
    plain = artifact.with_name("float")
    dequantized(artifact, model, plain)
    after = transformers_logits(plain, tokens, auto)
    ours = view_logits(open_view(DirectorySource(artifact), CPU), tokens)
    near = float((after - before).abs().median() / before.abs().max())
    return Reloaded(len(unpacked(artifact)), relative(ours, after), near)


def alone(model_type: str, auto: Any = AutoModelForCausalLM) -> Reloaded:
    """The same from a process of its own, which may end in any way, and has its time."""
    with tempfile.TemporaryDirectory() as folder:
        process = _forks.Process(target=_tell, args=(model_type, Path(folder), auto))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            return Reloaded(said=f"not done in {SECONDS} s")
        told = Path(folder, "told.json")
        if not told.exists():
            return Reloaded(said=f"its process ended with exit code {process.exitcode}")
        return Reloaded(**json.loads(told.read_text()))


def _tell(model_type: str, folder: Path, auto: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.disable_progress_bar()
    (folder / "work").mkdir()
    try:
        found = reloaded(model_type, folder / "work", auto)
    except Exception as error:  # noqa: BLE001 - what goes wrong is what is looked for
        at = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})"
        found = Reloaded(said=" ".join(said.split()))
    (folder / "told.json").write_text(json.dumps(asdict(found)))
