"""The manifest of an artifact: written last, so that what has a manifest is whole.

It lists every object with size and sha256, and says what the artifact was made from and how well it does.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from quantization_api import ENGINE_VERSION
from quantization_api.bounded import Digest
from quantization_api.status import MetricResult, TrialState
from quantization_api.text import clean

MANIFEST_NAME = "manifest.json"
MODEL_PREFIX = "model/"
ONNX_PREFIX = "onnx/"
REPORT_PREFIX = "report/"
TRIALS_PREFIX = "trials/"
"""Models of further points of a search."""
STATE_PREFIX = ".state/"
LOGS_PREFIX = ".logs/"
"""The last words of pods; they are no part of the artifact."""
MODEL_CARD_NAME = "README.md"


LINE_LIMIT = 4096
Line = Annotated[str, AfterValidator(lambda text: clean(text, LINE_LIMIT))]
"""Text that people are shown: whoever may write to the output may have put an escape sequence into it."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoredObject(_Document):
    """One object of the artifact; key is relative to the output URI."""

    key: str
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Licence(_Document):
    """What the input model's own card says of its licence."""

    names: list[Line]
    """Ids of model hubs, such as apache-2.0, or "other"."""
    custom_name: Line | None = None
    """Of a licence that hubs have no id for."""
    link: Line | None = None
    """Its text: a URL, or an object of the artifact."""


class InputRecord(_Document):
    """What was quantized. revision is the digest over its files; model_type: the architecture in config.json's word;
    dtype: the types of its numbers, as in "float16" or "float16 and float32".
    remarks: sentences about what of its folder was not taken.
    """

    model_path: Line
    revision: Line
    architecture: Line
    model_type: Line | None = None
    dtype: Line | None = None
    size_bytes: int
    remarks: list[Line] = []
    licence: Licence | None = None
    """None where its card says nothing."""


class LinearReport(_Document):
    """How well one linear [N, K] was quantized."""

    name: Line
    """Its full name in the checkpoint."""
    shape: tuple[int, int]
    """(N, K): outputs and inputs."""
    error: float
    """tr(E H E') / tr(W H W') with the Hessian H of its inputs, without damping; E is what a reader sees changed."""
    error_rtn: float
    """The same of rounding to nearest."""
    damping: float = 0.0
    """Share of the mean diagonal of H that was added to it; 0 where the pass adds none."""
    tokens: int | None = None
    """Calibration tokens that it read (an expert reads those that its router sends it); None where unknown."""
    routed: int | None = None
    """Of these, those that its router sends it, where an expert read all of them."""
    nearest: bool = False
    """Whether it was rounded to nearest since it read few; errors then are relative squares of the weight's change."""
    bits: int | None = None
    """Of a weight; None: those of its pass."""
    group_size: int | None = None
    """Input channels that share a scale, -1: a row; None: those of its pass."""


class Spread(_Document):
    """How far the largest of some numbers stands out."""

    name: Line
    """The linear whose inputs or weights they are: of the layer's, the one where the ratio is largest."""
    largest: Annotated[float, Field(ge=0)]
    """Absolute value."""
    rms: Annotated[float, Field(ge=0)]
    """Root of the mean square."""


class LayerRanges(_Document):
    """Inputs and weights of the linears of one decoder layer that read the rotated stream, before and after the
    rotation. Inputs before it are those of the rotated layer, turned back; None where no text was read.
    """

    layer: Annotated[int, Field(ge=0)]
    weights_before: Spread
    weights_after: Spread
    inputs_before: Spread | None = None
    inputs_after: Spread | None = None


class ExportRecord(_Document):
    """The ONNX graph beside the checkpoint, and how close it is to it on some calibration tokens."""

    precision: Line
    execution_provider: Line
    accuracy_level: int
    size_bytes: int
    kl_divergence: float
    top1_agreement: float
    tokens: int


class TrialRecord(_Document):
    """One point of a search, as it ended."""

    number: int
    """In the order of the search, from 0."""
    parameters: dict[Line, int | float | bool | Line | None]
    """By PASS.PARAMETER; where passes were searched, their names joined by + under "passes"."""
    state: TrialState
    recipe: Digest | None = None
    """Of the workflow that the point is; None where it was refused."""
    metrics: list[MetricResult] = []
    """Those of the workflow, in its order; empty where it did not finish."""
    size_bytes: int | None = None
    bits_per_weight: float | None = None
    seconds: float | None = None
    """Time that a worker spent on it."""
    started: Line | None = None
    """RFC 3339."""
    worker: Line | None = None
    said: Line = ""
    """Why it did not finish."""
    on_front: bool = False
    best: bool = False
    model: Line | None = None
    """Where its model is, relative to the output; None where it was not kept."""


SCHEMA_VERSION: Literal[1] = 1
"""Of manifests. It changes when a release that does not know a new field would use the artifact wrongly."""


class OtherSchemaError(ValueError):
    """The manifest has a schema of another release; the message says which."""


class _Header(BaseModel):
    """What the manifests of all releases have."""

    schema_version: int = SCHEMA_VERSION
    engine_version: Line = ""


class Manifest(_Document):
    """The table of contents and the birth certificate of an artifact."""

    schema_version: Literal[1] = SCHEMA_VERSION
    recipe: Digest
    owner: Line = Field(
        "",
        description='uid of the QuantizationJob that made it, or identity of the process; "": not recorded.',
    )
    engine_version: Line
    created: Line
    input: InputRecord
    workflow: dict[str, Any]
    passes: list[Line]
    checkpoint_format: Line
    bits_per_weight: float
    compression_ratio: float
    dtype: Line | None = Field(
        None, description="What unquantized tensors are stored in; absent: each in its own."
    )
    largest_activation: float | None = Field(
        None,
        description="Largest absolute value between decoder layers that calibration saw; absent: not seen.",
    )
    own_head_bytes: int = 0
    """Of the head's weights, where the head had none of its own in the input: it shared the embedding's."""
    readers: list[Line]
    tensor_parallel: list[int] = Field(
        [],
        description="Numbers of devices over which shapes and groups let a server split it; empty: not recorded.",
    )
    metrics: list[MetricResult]
    modules: list[LinearReport]
    ranges: list[LayerRanges] = []
    """Of each decoder layer, where a pass rotated it; empty otherwise."""
    seconds: dict[Line, Annotated[float, Field(ge=0)]] = {}
    """Time by stage until it was published, parts of a stage as "STAGE: PART"; empty: not recorded."""
    export: ExportRecord | None = None
    trials: list[TrialRecord] = []
    """Every point of the search that chose this model, in its order; empty without a search."""
    searched: dict[str, Any] | None = None
    """The workflow with the search, as it was written; `workflow` is the point that was chosen. None without one."""
    versions: dict[Line, Line]
    objects: list[StoredObject]

    @classmethod
    def read(cls, data: bytes) -> "Manifest":
        """The manifest in these bytes, which any release may have written.

        Fields that this release does not know are left out, as long as the schema's version is the same.

        Raises:
            OtherSchemaError: it is another one.
            ValidationError: it is not a manifest.
        """
        seen = _Header.model_validate_json(data)
        if seen.schema_version != SCHEMA_VERSION:
            raise OtherSchemaError(
                f"has schema version {seen.schema_version}, as quantizer {seen.engine_version or 'of another release'} "
                f"writes it; this is quantizer {ENGINE_VERSION}, which reads version {SCHEMA_VERSION}"
            )
        return cls.model_validate_json(data, extra="ignore")

    def model_bytes(self) -> int:
        """Size of the safetensors of the artifact's model, in bytes."""
        return sum(
            item.size
            for item in self.objects
            if item.key.startswith(MODEL_PREFIX) and item.key.endswith(".safetensors")
        )
