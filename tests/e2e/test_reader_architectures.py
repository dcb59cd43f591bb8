"""Every architecture in every layout, as the readers load it: the list of readers claims what is seen here, no more.

gptq and gptq_v2 differ in their zero points only, and transformers and gptqmodel's own loader take both, so that one
of the two is enough for each.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.support.choice import chosen as cases_chosen
from tests.support.choice import mostly_nightly
from tests.support.decoder_families import UNKNOWN
from tests.support.engine import CPU, awq_pass, gptq_pass, quarot_pass, run_layers
from tests.support.quantized_models import (
    CASE_OF,
    family_batches,
    save_wide,
    transformers_logits,
    unpacked,
    view_logits,
)
from tests.support.reference import interpreter_from, run_reference
from torch import Tensor

from quantization_api.passes import GptqQuantizer
from quantizer.checkpoint.source import DirectorySource
from quantizer.decoder.families import ARCHITECTURES
from quantizer.evaluation.views import open_view
from quantizer.passes.making import weight_pass
from quantizer.passes.weight_pass import WeightPass
from quantizer.report.readers import COMPRESSED, DEQUANTIZED, NAMED_TYPES, OPTIMUM, readers, written_by

pytestmark = pytest.mark.e2e

GROUP = 32
ROTATION = quarot_pass(w_gptq=False, w_bits=16, calibration_data_config=None)


@dataclass(frozen=True)
class Way:
    """A layout, made by a pass with these parameters, and one reader of it; `rotated`: QuaRot goes before it."""

    awq: bool
    parameters: dict[str, Any]
    reader: str
    loader: str
    rotated: bool = False

    def chosen(self, model_type: str) -> WeightPass[Any]:
        """The pass."""
        if self.awq:
            return weight_pass(awq_pass(q_group_size=GROUP, **self.parameters))
        gptq = self._gptq(model_type)
        return weight_pass(ROTATION, gptq) if self.rotated else weight_pass(gptq)

    def _gptq(self, model_type: str) -> GptqQuantizer:
        names = UNKNOWN[CASE_OF.get(model_type, model_type)][2] if model_type in NAMED_TYPES else None
        modules: dict[str, Any] = {}
        if names is not None:
            modules["layers_block_name"] = names.layers_block_name
            modules["inside_layer_modules"] = [list(group) for group in names.inside_layer_modules]
        return gptq_pass(group_size=GROUP, **self.parameters, **modules)


CHECKPOINT = {"checkpoint_format": "compressed-tensors"}
WAYS = {
    "gptq": Way(False, {}, OPTIMUM, "transformers"),
    "gptq_v2": Way(False, {"checkpoint_format": "gptq_v2"}, "gptqmodel", "gptqmodel"),
    "compressed-tensors": Way(False, {**CHECKPOINT, "sym": True}, COMPRESSED, "transformers"),
    "compressed-tensors, zero points": Way(False, CHECKPOINT, DEQUANTIZED, "dequantized"),
    "awq": Way(True, {}, "transformers (with gptqmodel)", "transformers"),
    "awq, own loader": Way(True, {}, "gptqmodel", "gptqmodel"),
    "gptq, rotated": Way(False, {}, OPTIMUM, "transformers", rotated=True),
    "gptq_v2, rotated": Way(False, {"checkpoint_format": "gptq_v2"}, "gptqmodel", "gptqmodel", rotated=True),
    "compressed-tensors, rotated": Way(
        False, {**CHECKPOINT, "sym": True}, COMPRESSED, "transformers", rotated=True
    ),
}
NOT_ROTATED = {"gemma2", "gemma3_text", "bloom"}
"""Their norms let no rotation through."""
TRIED = [
    (model_type, way)
    for model_type in (*ARCHITECTURES, *sorted(NAMED_TYPES))
    for way, how in WAYS.items()
    # an architecture that is named by its modules is GPTQ's only, and what is named may be a part
    if model_type not in NAMED_TYPES or not (how.awq or how.rotated or how.reader == "gptqmodel")
    if not (how.rotated and model_type in NOT_ROTATED)
]
EVERY_TIME = [
    case for case in TRIED if case[0] == "llama" or case in (("bloom", "gptq"), ("qwen3_moe", "gptq"))
]


@dataclass(frozen=True, repr=False)
class Reading:
    """theirs: what the reader makes of an artifact, or says; ours and plain: logits of the artifact and the model."""

    theirs: dict[str, Any] | str
    ours: Tensor
    plain: Tensor
    linears: dict[str, tuple[Tensor, Tensor]]

    @property
    def said(self) -> str:
        """What a person would look at."""
        if isinstance(self.theirs, str):
            return self.theirs
        difference = float((self.theirs["logits"] - self.ours).abs().max())
        return f"max |difference of logits| = {difference:.2e}, the same integers: {self.same_integers}"

    @property
    def right(self) -> bool:
        """Whether the reader computes what we do, from the same integers."""
        if isinstance(self.theirs, str):
            return False
        difference = (self.theirs["logits"] - self.ours).abs().max()
        return bool(difference <= 1e-3) and self.same_integers

    @property
    def same_integers(self) -> bool:
        """Whether integers and zero points are ours, where the reader keeps them."""
        assert isinstance(self.theirs, dict)
        found = self.theirs["linears"]
        if not found:
            return True
        return found.keys() == self.linears.keys() and all(
            torch.equal(found[name]["integers"], integers) and torch.equal(found[name]["zeros"], zeros)
            for name, (integers, zeros) in self.linears.items()
        )


@pytest.fixture(scope="module")
def readings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Reading]:
    """Each artifact, as one process of the readers' environment reads all of them."""
    folder = tmp_path_factory.mktemp("architectures")
    tokens = family_batches(2, length=19, seed=4).batches()[0]
    plain: dict[str, Tensor] = {}
    ours: list[tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]] = []
    checkpoints = []
    tried = cases_chosen(request, "model_type", "way")
    for model_type, way in tried:
        source = folder / model_type / "model"
        if model_type not in plain:
            save_wide(CASE_OF.get(model_type, model_type), source)
            plain[model_type] = transformers_logits(source, tokens)
        chosen = WAYS[way].chosen(model_type)
        target = folder / model_type / chosen.written.layout.replace(" ", "-")
        target = target.with_name(
            f"{target.name}-{'symmetric' if WAYS[way].parameters.get('sym') else 'zeros'}-{len(chosen.methods)}"
        )
        modules = chosen.modules
        if not target.exists():
            run_layers(
                DirectorySource(source), family_batches(), chosen.layer_pass, target, folder / "scratch",
                modules=modules,
            )  # fmt: skip
        artifact = DirectorySource(target)
        ours.append((view_logits(open_view(artifact, CPU, modules), tokens), unpacked(target)))
        checkpoints.append({"directory": str(target), "loader": WAYS[way].loader})
    asked = {"checkpoints": checkpoints, "tokens": tokens, "plain": True}
    theirs = run_reference(interpreter_from("QUANTIZATION_READER_PYTHON"), "format_reader.py", asked, folder)
    return {
        case: Reading(read, logits, plain[case[0]], linears)
        for case, read, (logits, linears) in zip(tried, theirs, ours, strict=True)
    }


@pytest.mark.parametrize(("model_type", "way"), mostly_nightly(TRIED, EVERY_TIME))
def test_a_reader_is_listed_exactly_where_it_computes_what_we_do(
    model_type: str, way: str, readings: dict[tuple[str, str], Reading]
) -> None:
    reading = readings[model_type, way]
    assert float((reading.plain - reading.ours).abs().max()) > 0.1  # or rounding could not be seen
    listed = WAYS[way].reader in readers(written_by(WAYS[way].chosen(model_type), model_type))
    print(reading.said)
    assert listed is reading.right, reading.said
