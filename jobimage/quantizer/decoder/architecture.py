"""What is known of an architecture, as data: modules of a decoder layer, their order, what shares an input.

A decoder layer is a chain of residual blocks. Each block is

    h  <-  h + post_norm(output(core(norm(x))))          x = h, or the layer's input (parallel residual)

where `core` is the block's module (attention, MLP, experts) without its closing linear. That sentence gives
everything a pass needs: the linears named in `inputs` all read norm(x), so they share one Gram matrix;
`output` reads what the core makes of it; and a block can be run in two halves, with the rounded weights of
the first half in place before the statistics of the second are gathered.

The table itself is in families.py.
"""

from dataclasses import dataclass
from typing import Literal

NormKind = Literal["rms", "rms_plus_one", "layer_norm"]
"""What a norm's weight w does: x * w; x * (1 + w) (Gemma); x * w + b."""

RowRule = Literal["same", "values", "stacked_values", "interleaved_values", "second_half"]
"""Which row of a fold's source makes input channel k of its readers.

same: row k. values: row of v_proj, repeated for grouped-query attention. stacked_values: the same behind
the rows of q and k in one linear. interleaved_values: q, k and v of a head lie together, head after head.
second_half: row I + k of 2 I (gate above up).
"""


@dataclass(frozen=True)
class SharedInput:
    """An input that several linears read, by their names in the layer; each expert has its own."""

    names: tuple[str, ...]
    expert: bool = False
    """Whether it is one expert's of a mixture, which reads the tokens that its router sends it."""


@dataclass(frozen=True)
class Stage:
    """Inputs that exist at the same time, once all stages before have run."""

    shared_inputs: tuple[SharedInput, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All linears of the stage."""
        return tuple(name for shared in self.shared_inputs for name in shared.names)


@dataclass(frozen=True)
class Candidate:
    """A module that may make what linears read, so that scales may fold from these into it."""

    kind: Literal["norm", "linear"]
    source: str
    """Name in the layer."""
    readers: tuple[str, ...]
    """Names in the layer of the linears that read the input."""


@dataclass(frozen=True)
class StreamRead:
    """What reads the residual stream, through a norm or as it is."""

    norm: str | None
    """Name in the layer; None where no module with a weight for each channel lies between."""
    readers: tuple[str, ...]
    """Names in the layer: linears, and modules with a matrix that choose experts."""


@dataclass(frozen=True)
class FoundLayer:
    """What was found in a layer by looking (finding.py)."""

    stages: tuple[Stage, ...]
    candidates: tuple[Candidate, ...]
    reads: tuple[StreamRead, ...] = ()
    """What reads the residual stream: what comes into the layer, and what `writers` have added to it."""
    writers: tuple[str, ...] = ()
    """Linears that the layer's output is made from, with no other linear between."""


@dataclass(frozen=True)
class Block:
    """One residual block of a decoder layer."""

    kind: Literal["attention", "mlp", "experts"]
    norm: str
    """Name in the layer."""
    module: str
    """Name in the layer; "" where the linears lie in the layer itself, with only `activation` between them."""
    inputs: tuple[str, ...]
    """The linears that read norm(x), relative to `module`."""
    output: str
    """The closing linear, relative to `module`."""
    post_norm: str | None = None
    """Name in the layer."""
    activation: str = "activation_fn"
    """Name in the layer; used without a `module` only."""
    residual_argument: bool = False
    """Whether the module's forward takes the residual and adds it itself (Bloom)."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the linears that share the block's input, relative to the layer."""
        return tuple(self._in_layer(name) for name in self.inputs)

    @property
    def output_name(self) -> str:
        """Name of the linear that closes the block, relative to the layer."""
        return self._in_layer(self.output)

    def _in_layer(self, name: str) -> str:
        return f"{self.module}.{name}" if self.module else name


@dataclass(frozen=True)
class Experts:
    """A sparse MLP as checkpoints have it: a router, and gate, up and down of each expert as linears."""

    found_as: str
    """The module that transformers has in its place."""
    router: str
    gate: str
    up: str
    down: str
    count: str
    """The config's field with the number of experts."""
    inner: str
    """The config's field with the inner width of an expert."""
    normalized: str | None
    """The config's field that says whether the chosen experts' weights are divided by their sum; None: they are."""
    cast: bool
    """Whether these weights are rounded to the computation dtype before they are used."""
    shared: "SharedExpert | None" = None
    """What every token is sent to beside them."""


@dataclass(frozen=True)
class SharedExpert:
    """An expert that every token is sent to, with linears like those of the others."""

    module: str
    """Beside the router."""
    gate: str
    """A linear with one output beside it: sigmoid(gate(x)) is its share."""
    inner: str
    """The config's field with its inner width."""


@dataclass(frozen=True)
class Fold:
    """A place where scales of input channels can be folded away: source(x) / s, then reader.weight * s."""

    kind: Literal["norm", "linear"]
    """Of the source."""
    source: str
    """Name in the layer."""
    readers: tuple[str, ...]
    """Names in the layer of all that read what the source makes (a router too)."""
    rows: RowRule = "same"
    activation: str | None = None
    """The config's field that names the activation between; only ReLU lets a positive scale pass."""
    obstacle: str | None = None
    """Why the place can never be used."""


GIVEN = object()


@dataclass(frozen=True)
class UnsupportedFeature:
    """A value in config.json of a feature that the decoder does not have, and the sentence for it."""

    field: str
    value: object
    """GIVEN: anything but null."""
    sentence: str


@dataclass(frozen=True)
class Architecture:
    """Where the parts of a model are."""

    model_type: str
    layers: str
    """Name in the model's base class ("layers": model.layers of the checkpoint)."""
    final_norm: str
    """Name in the model's base class; "" on the generic path."""
    norm: NormKind
    blocks: tuple[Block, ...]
    """Of a dense layer; empty on the generic path."""
    folds: tuple[Fold, ...] = ()
    """Of a dense layer."""
    experts: Experts | None = None
    sparse_block: Block | None = None
    """Takes the place of the last block in a layer with experts."""
    sparse_folds: tuple[Fold, ...] = ()
    """Of a layer with experts."""
    parallel: str | None = None
    """The config's field that says whether every block reads the layer's input."""
    returns_tuple: bool = False
    """Whether a layer's forward returns a tuple."""
    unsupported: tuple[UnsupportedFeature, ...] = ()
    head_as: str | None = None
    """What checkpoints call the head, where transformers 5 gave it another name."""
    scaled_activation: str | None = None
    """Name in the layer of the activation before the last linear, where readers of AWQ files divide what it makes by
    a stored tensor, `NAME.scales`."""
    listed_stages: tuple[tuple[str, ...], ...] = ()
    """On the generic path: the linears as the user listed them; empty where they are found (finding.py)."""


@dataclass(frozen=True)
class ModuleNames:
    """The modules as the user names them, in Olive's GptqQuantizer's way; what is not named is found."""

    layers_block_name: str | None = None
    """Dotted name of the list of decoder layers, as in the checkpoint."""
    inside_layer_modules: tuple[tuple[str, ...], ...] = ()
    """Linears of a layer, those that share an input together, in execution order."""
    outside_layer_modules: tuple[str, ...] = ()
    """Modules beside the layers. All of them are loaded, named or not; a name that the model lacks is refused."""
