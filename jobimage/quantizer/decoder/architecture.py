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


@dataclass(frozen=True)
class Stage:
    """Inputs that exist at the same time, once all stages before have run."""

    shared_inputs: tuple[SharedInput, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All linears of the stage."""
        return tuple(name for shared in self.shared_inputs for name in shared.names)


@dataclass(frozen=True)
class Block:
    """One residual block of a decoder layer.

    norm, post_norm: names in the layer. module: name in the layer; "" where the linears lie in the layer
    itself and `activation` is all that is between them. inputs, output: linears, relative to module.
    residual_argument: the module's forward wants the residual and adds it itself (Bloom).
    """

    kind: Literal["attention", "mlp", "experts"]
    norm: str
    module: str
    inputs: tuple[str, ...]
    output: str
    post_norm: str | None = None
    activation: str = "activation_fn"
    residual_argument: bool = False

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
    """A sparse MLP as checkpoints have it: one linear for each expert, beside a router.

    found_as: the module that transformers has in its place. count, inner: fields of the config.
    normalized: the config's field that says whether the chosen experts' weights are divided by their sum;
    None: they always are. cast: the weights are rounded to the computation dtype before they are used.
    """

    found_as: str
    router: str
    gate: str
    up: str
    down: str
    count: str
    inner: str
    normalized: str | None
    cast: bool


@dataclass(frozen=True)
class Fold:
    """A place where scales of input channels can be folded away: source(x) / s, then reader.weight * s.

    source, readers: names in the layer; readers are all that read what source makes (a router too).
    activation: the config's field that names the activation between; only ReLU lets a positive scale pass.
    obstacle: why the place can never be used.
    """

    kind: Literal["norm", "linear"]
    source: str
    readers: tuple[str, ...]
    rows: RowRule = "same"
    activation: str | None = None
    obstacle: str | None = None


@dataclass(frozen=True)
class UnsupportedFeature:
    """A value in config.json of a feature that the decoder does not have, and the sentence for it."""

    field: str
    value: object
    sentence: str


@dataclass(frozen=True)
class Architecture:
    """Where the parts of a model are.

    layers, final_norm: names in the model's base class ("layers": model.layers of the checkpoint).
    blocks: of a layer; in a layer with experts `sparse_block` takes the place of the last one.
    parallel: the config's field that says whether every block reads the layer's input.
    returns_tuple: whether a layer's forward returns a tuple.
    head_as: what checkpoints call the head, where transformers 5 gave it another name.
    scaled_activation: name in the layer of the activation before the last linear, where readers of AWQ files
        divide what it makes by a stored tensor, `NAME.scales`.
    listed_stages: for a model without blocks (generic path), the linears as the user listed them.
    """

    model_type: str
    layers: str
    final_norm: str
    norm: NormKind
    blocks: tuple[Block, ...]
    folds: tuple[Fold, ...] = ()
    experts: Experts | None = None
    sparse_block: Block | None = None
    sparse_folds: tuple[Fold, ...] = ()
    parallel: str | None = None
    returns_tuple: bool = False
    unsupported: tuple[UnsupportedFeature, ...] = ()
    head_as: str | None = None
    scaled_activation: str | None = None
    listed_stages: tuple[tuple[str, ...], ...] = ()

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The linears of a dense layer in execution order, those that share an input together."""
        from_blocks = tuple(
            names for block in self.blocks for names in (block.input_names, (block.output_name,))
        )
        return from_blocks or self.listed_stages

    @property
    def linears(self) -> tuple[str, ...]:
        """All linears of a dense layer, in execution order; DecoderModel.linears knows every layer."""
        return tuple(name for stage in self.stages for name in stage)


@dataclass(frozen=True)
class ModuleNames:
    """The modules of an architecture that is not in the table, as Olive's GptqQuantizer takes them.

    layers_block_name: dotted name of the list of decoder layers, as in the checkpoint.
    inside_layer_modules: linears of a layer, those that share an input together, in execution order.
    outside_layer_modules: modules beside the layers. All of them are loaded whether named or not; a name
        that the model does not have is refused.
    """

    layers_block_name: str | None = None
    inside_layer_modules: tuple[tuple[str, ...], ...] = ()
    outside_layer_modules: tuple[str, ...] = ()
