"""What a checkpoint holds, known from its config.json and the headers of its safetensors alone.

Names, shapes, stages of linears and the places where scales fold away: everything that needs neither a weight nor a
device. It is made once, and whoever computes, counts or checks takes it from there.
"""

import sys
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from quantization_api.failures import Category
from quantizer.boundary.bounded_json import read_object
from quantizer.boundary.reading import reading
from quantizer.checkpoint.data_types import from_word, word
from quantizer.checkpoint.dequantized import open_checkpoint
from quantizer.checkpoint.older_transformers import is_older
from quantizer.checkpoint.pieces import PiecewiseReader, Wholes
from quantizer.checkpoint.reader import FLOAT_CHECKPOINT, SafetensorsReader, TensorInfo
from quantizer.checkpoint.side_files import with_dtype
from quantizer.checkpoint.source import Source, read_whole
from quantizer.decoder.architecture import FoundLayer, ModuleNames, Stage
from quantizer.decoder.extra import Extra, sort_extra
from quantizer.decoder.finding import look
from quantizer.decoder.folding import FoldPlace, fold_places
from quantizer.decoder.layer_facts import KnownFacts, LayerFacts, kind_of
from quantizer.decoder.missing import check_stored
from quantizer.decoder.model_config import check_counts, find_architecture, make_config
from quantizer.decoder.pattern import LayerPattern
from quantizer.decoder.skeleton import COPY_CONFIG, NOT_OF_ONE_MODEL, Skeleton, unsupported
from quantizer.decoder.stored_names import StoredNames, stored_beside, stored_names
from quantizer.decoder.stream import Stream

MAX_CONFIG_BYTES = 4_000_000
WEIGHT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FUSED_EXPERTS = (".experts.gate_up_proj", ".experts.down_proj")


def read_config(source: Source) -> dict[str, Any]:
    """config.json as it lies there; ModelNotFound without one, ModelUnsupported when it is no JSON object."""
    data = read_whole(source, "config.json", MAX_CONFIG_BYTES)
    return read_object(
        data, Category.MODEL_UNSUPPORTED, "config.json", limit=MAX_CONFIG_BYTES, hint=COPY_CONFIG
    )


class DecoderLayout:
    """The layout of a checkpoint's decoder.

    Args:
        reader: the checkpoint's tensors.
        raw_config: its config.json, without the quantization_config of a quantized one.
        modules: names of modules that the user gave, in place of those that are in the table or found.

    Attributes: wholes (the tensors that hold those of all experts, which `reader` has one by one), and others.

    Raises:
        QuantizationError: ModelUnsupported (with what was found and what is supported) for an unknown
            architecture.
    """

    def __init__(
        self, reader: SafetensorsReader, raw_config: dict[str, Any], modules: ModuleNames | None = None
    ) -> None:
        self.reader, self.raw_config = reader, raw_config
        known = find_architecture(raw_config)
        with reading(Category.MODEL_UNSUPPORTED, "config.json", COPY_CONFIG):
            config_of_model = make_config(self.raw_config, known)
            check_counts(config_of_model, len(reader.tensors))
            with torch.inference_mode(
                False
            ):  # what is followed by gradients may be asked for in the middle of a run
                self.skeleton = Skeleton(config_of_model, known, modules)
                self.config, self.architecture = self.skeleton.config, self.skeleton.architecture
                plain_stream = (), Stream(int(self.config.hidden_size))
                self._found, self.stream = plain_stream if self.architecture.blocks else look(self.skeleton)
            plain = self.architecture.blocks or is_older()  # transformers 4 converts no names
            self._names = StoredNames() if plain else stored_names(self.skeleton, reader.tensors)
            self.layers = len(self.skeleton.layers)
            self.vocabulary = int(self.config.vocab_size)
            self.width = int(self.config.hidden_size)
            positions = int(
                getattr(self.config, "max_position_embeddings", None) or 0
            )  # XLNet's is -1: no limit
            stated = positions if positions > 0 else self.raw_config.get("seq_length")
            self.max_positions = int(stated or sys.maxsize)
            self.max_positions -= self.skeleton.rows_before_positions(self.max_positions)
        # some checkpoints (gpt2's, bloom's) were saved without the head, so names lack the model's prefix
        prefixed = f"{self.skeleton.layers_name}.0."
        self._bare = not any(name.startswith(prefixed) for name in reader.tensors) and any(
            name.startswith(self.architecture.layers + ".0.") for name in reader.tensors
        )
        self.wholes = Wholes(self._names.pieces, reader.tensors)
        if self._names.pieces:
            self.reader = PiecewiseReader(reader, self._names.pieces)
        self._facts: dict[int, LayerFacts] = {}
        self._known_facts = KnownFacts()
        self._folds: dict[int, tuple[FoldPlace, ...]] = {}
        self._last_pattern: tuple[int, LayerPattern] | None = None
        self._extra: Extra | None = None

    @classmethod
    def open(cls, source: Source, modules: ModuleNames | None = None) -> Self:
        """The layout of a model, its tensors checked; one in FP8 or MXFP4 as the model that it stands for.

        Raises:
            QuantizationError: ModelNotFound without config.json; ModelUnsupported, also where the tensors do not
                fit it, and for a model that is quantized otherwise.
        """
        reader, config = open_checkpoint(source, read_config(source))
        layout = cls(reader, config, modules)
        layout.check_tensors()
        return layout

    @property
    def model_type(self) -> str:
        """The architecture in config.json's word."""
        return self.architecture.model_type

    @property
    def windowed(self) -> bool:
        """Whether layers attend to the last tokens only, within fewer than the model has positions."""
        window = self.number("sliding_window")
        return window is not None and window < self.max_positions

    def number(self, field: str) -> int | None:
        """A field of the config that is a whole number; None where it is not one.

        A class that does not have the field takes whatever a file says for it.
        """
        try:
            value = getattr(self.config, field, None)
        except Exception:  # noqa: BLE001 - a class whose layers differ has no one value, and an exception of its own
            return None
        return value if type(value) is int else None

    def with_every_linear(self) -> "DecoderLayout":
        """The same checkpoint with every linear, as the table knows or looking finds them, whichever were named."""
        return DecoderLayout(self.reader, self.raw_config) if self.architecture.listed_stages else self

    # names

    def stored_name(self, name: str) -> str:
        """The name in the checkpoint of a module or tensor of the model."""
        other, head = self.architecture.head_as, self.skeleton.head_name
        if other and f"{other}.weight" in self.reader.tensors and name.startswith(f"{head}."):
            return other + name.removeprefix(head)
        if name not in self.reader.tensors:
            name = self._names(self.skeleton.ties.get(name, name))
        return name.removeprefix(f"{self.skeleton.prefix}.") if self._bare else name

    @property
    def layers_name(self) -> str:
        """Dotted name of the list of layers in the checkpoint."""
        return self.stored_name(self._names.layers(self.skeleton.layers_name))

    def layer_prefix(self, index: int) -> str:
        """Dotted name of layer `index` in the checkpoint, with the closing dot."""
        return f"{self.layers_name}.{index}."

    def embedding_name(self) -> str:
        """The tensor that the token embedding is."""
        return self.stored_name(f"{self.skeleton.embedding_name}.weight")

    def own_head_name(self) -> str:
        """The tensor that a head of its own is, or would be."""
        return self.stored_name(f"{self.skeleton.head_name}.weight")

    def head_name(self) -> str:
        """The tensor that the head is: its own, or the embedding when they are tied."""
        own = self.own_head_name()
        return self.embedding_name() if self.tied or own not in self.reader.tensors else own

    @property
    def head_shape(self) -> tuple[int, int]:
        """(N, K) of the head: vocabulary, and the width that it reads."""
        head = self.skeleton.causal.get_output_embeddings()
        return self.vocabulary, int(head.weight.shape[1])

    def final_norm_name(self) -> str | None:
        """Dotted name of the norm before the head; None on the generic path, which does not know it."""
        name = self.architecture.final_norm
        return self.stored_name(f"{self.skeleton.prefix}.{name}") if name else None

    def outside_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters outside the layers, but for token embedding and head."""
        return {self.stored_name(name): shape for name, shape in self.skeleton.outside_shapes.items()}

    def needed_outside(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all that the checkpoint must have outside the layers; a tied head is not among it."""
        needed = self.outside_shapes()
        needed[self.embedding_name()] = self.skeleton.embedding_shape
        if not self.tied or self.own_head_name() in self.reader.tensors:
            needed[self.own_head_name()] = self.head_shape
        return needed

    # a head that is the embedding

    @cached_property
    def tied(self) -> bool:
        """Whether the head is the embedding.

        A config that ties them beside a head with other numbers, as merged adapters leave it, is read as transformers
        reads it: the head is used. The tables are compared the first time that this is asked.
        """
        own, embedding = self.own_head_name(), self.embedding_name()
        tensors = self.reader.tensors
        if not self._says_tied or own not in tensors or embedding not in tensors:
            return self._says_tied
        return self.reader.same(own, embedding)

    @property
    def _says_tied(self) -> bool:
        causal = self.skeleton.causal
        said = bool(getattr(causal.config, "tie_word_embeddings", False))
        return said or f"{self.skeleton.head_name}.weight" in getattr(causal, "all_tied_weights_keys", {})

    @property
    def unties(self) -> bool:
        """Whether config.json ties the head to the embedding, and the checkpoint has another head."""
        return self._says_tied and not self.tied

    def config_of_copy(self) -> dict[str, Any]:
        """config.json for a model made of this one: of head and type it says what is so, since readers trust it."""
        config = {**self.raw_config, "tie_word_embeddings": False} if self.unties else self.raw_config
        return with_dtype(config, self.reader.dtype) if self.wrong_dtype else config

    @property
    def wrong_dtype(self) -> torch.dtype | None:
        """The floating-point type that config.json names although no tensor has it; None otherwise.

        transformers converts to that type: weights in bfloat16 to float16, whose range activations may leave.
        """
        said = from_word(self.raw_config.get("dtype", self.raw_config.get("torch_dtype")))
        stored = {info.dtype for info in self.reader.tensors.values()}
        return said if said is not None and said.is_floating_point and said not in stored else None

    # layers

    def layer_shapes(self, index: int = 0) -> dict[str, tuple[int, ...]]:
        """Names (in the layer) and shapes, as the checkpoint has them, of the parameters of layer `index`."""
        return dict(self._layer_facts(index).shapes)

    def stages(self, index: int = 0) -> tuple[Stage, ...]:
        """The linears of layer `index`, stage by stage; layers may differ (experts in some)."""
        return self._layer_facts(index).stages

    def linears(self, index: int = 0) -> tuple[str, ...]:
        """All linears of layer `index` that a pass works on, in execution order."""
        return tuple(self._layer_facts(index).linear_shapes)

    def ignored_linears(self, index: int = 0) -> tuple[str, ...]:
        """Linears of layer `index` that no pass works on, since the names of modules that were given lack them."""
        return self._layer_facts(index).ignored

    def always_float(self, index: int = 0) -> tuple[str, ...]:
        """Linears of layer `index` that no format packs."""
        return self._layer_facts(index).always_float

    def linear_shapes(self, index: int = 0) -> dict[str, tuple[int, int]]:
        """(N, K) of each of them: outputs, inputs; whatever the checkpoint's orientation."""
        return dict(self._layer_facts(index).linear_shapes)

    def transposed(self, index: int, name: str, weight: Tensor) -> Tensor:
        """A parameter of layer `index` between the checkpoint's orientation and [N, K], either way."""
        return self.pattern(index).transposed(name, weight)

    def folds(self, index: int = 0) -> tuple[FoldPlace, ...]:
        """Where scales of input channels can be folded away in layer `index`; empty on the generic path."""
        first = self._layer_facts(index).first
        if first not in self._folds:
            pattern = self.pattern(first)
            folds = self.architecture.sparse_folds if pattern.sparse else self.architecture.folds
            self._folds[first] = fold_places(folds, pattern, self.config, self.architecture.norm)
        return self._folds[first]

    def found(self, index: int) -> FoundLayer:
        """What was found in layer `index` by looking; nothing where the table describes it."""
        if not self._found:
            return FoundLayer((), ())
        return self._layer_facts(index).names.of_found(self._found[index])

    def kind(self, index: int) -> Hashable:
        """Equal for layers that are built alike."""
        parts = map(
            type, self.skeleton.layers[index].modules()
        )  # of experts, each layer has a class of its own
        classes = tuple(f"{part.__module__}.{part.__qualname__}" for part in parts)
        found = self._found[index] if self._found else None
        return found, tuple(self._layer_facts(index).shapes.items()), classes

    def pattern(self, index: int) -> LayerPattern:
        """Of one layer at a time: it is asked for again and again, and a pattern of many experts is slow to make."""
        if self._last_pattern is None or self._last_pattern[0] != index:
            layer, found = self.skeleton.layers[index], self._found[index].stages if self._found else ()
            own, stored = self._prefixes(index)
            names = self._names.in_layer(own, stored)
            joined = self._names.joined_in_layer(own, stored)
            shape_of = self._stored_shapes(index)
            made = LayerPattern(layer, self.architecture, self.config, found, names, joined, shape_of)
            self._last_pattern = (index, made)
        return self._last_pattern[1]

    def _prefixes(self, index: int) -> tuple[str, str]:
        """How names of the tensors of layer `index` begin in the model, and in the checkpoint."""
        return f"{self.skeleton.layers_name}.{index}.", self.layer_prefix(index)

    def _stored_shapes(self, index: int) -> Callable[[str], tuple[int, ...]]:
        stored = self.layer_prefix(index)
        return lambda name: self.reader.tensors[stored + name].shape

    def _layer_facts(self, index: int) -> LayerFacts:
        if index not in self._facts:
            own, stored = self._prefixes(index)
            shape_of = self._stored_shapes(index)
            joined = tuple(
                (name, held, tuple(map(shape_of, held.parts)))
                for name, held in self._names.joined_in_layer(own, stored).items()
            )
            kind = (kind_of(self.skeleton.layers[index]), self._found[index] if self._found else None, joined)
            self._facts[index] = self._known_facts.get(
                kind,
                self._names.in_layer(own, stored),
                lambda: LayerFacts.of(index, self.pattern(index)),
            )
        return self._facts[index]

    # the checkpoint against the config

    def check_tensors(self) -> Extra:
        """Compares the checkpoint with the config, once; returns the tensors that the model does not use.

        Raises ModelUnsupported for a tensor that is missing, has another shape or dtype, or shows that config.json
        does not describe the weights.
        """
        if self._extra is None:
            self._extra = self._checked()
        return self._extra

    def _checked(self) -> Extra:
        fused = [name for name in self.reader.tensors if name.endswith(FUSED_EXPERTS)]
        if fused and self.architecture.experts:
            raise unsupported(
                f"the checkpoint holds the experts of a layer in one fused tensor ({fused[0]}); "
                "experts with a linear each are supported",
                "Save the model again with save_pretrained of transformers 5, which writes a linear for each expert.",
            )
        with reading(Category.MODEL_UNSUPPORTED, "config.json", COPY_CONFIG):
            expected = self.needed_outside()
            in_a_layer, whole = set[str](), set[str]()
            for index in range(self.layers):
                prefix, shapes = self.layer_prefix(index), self._layer_facts(index).shapes
                expected |= {prefix + name: shape for name, shape in shapes.items()}
                in_a_layer |= set(shapes)
                whole |= {prefix + name for name in self._layer_facts(index).whole_numbers}
        beside = {name: shape for held in self.beside.values() for name, shape in held.items()}
        for name, shape in (expected | beside).items():
            self._check_tensor(name, shape, self.reader.tensors.get(name), whole=name in whole | set(beside))
        extra = sorted(set(self.reader.tensors) - set(expected) - set(beside))
        computed = self.skeleton.causal._keys_to_ignore_on_load_unexpected or ()
        idle = self._names.idle
        found = sort_extra(extra, self.layers_name, self.layers, in_a_layer, computed, idle, self._is_zero)
        return replace(found, beside=tuple(beside))

    @cached_property
    def beside(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """By module beside the decoder of text, such as a tower for images: names and shapes of its tensors."""
        return stored_beside(self.skeleton, self.reader.tensors)

    @property
    def bytes_beside(self) -> dict[str, int]:
        """By module beside the decoder of text, how large it is."""
        tensors = self.reader.tensors
        return {module: sum(tensors[name].length for name in held) for module, held in self.beside.items()}

    def _is_zero(self, name: str) -> bool:
        return not bool(self.reader.tensor(name).float().any())

    def _cure_of_lack(self, name: str) -> str:
        """What to do about a tensor that is not there."""
        own, embedding = self.own_head_name(), self.embedding_name()
        if name == own and embedding in self.reader.tensors:
            return (
                "If the head is the embedding, write tie_word_embeddings: true in config.json; else save the model "
                "again with its head."
            )
        if name == embedding and self._says_tied and own in self.reader.tensors:
            return f"The head is there, and config.json ties them: store {own} under the name {embedding}."
        return NOT_OF_ONE_MODEL

    def _check_tensor(
        self, name: str, shape: tuple[int, ...], found: TensorInfo | None, *, whole: bool
    ) -> None:
        if found is None:
            check_stored(self.skeleton, name)
            raise unsupported(f"the checkpoint lacks the tensor {name}", self._cure_of_lack(name))
        if found.shape != shape:
            raise unsupported(
                f"{name} has shape {list(found.shape)}, config.json makes it {list(shape)}", NOT_OF_ONE_MODEL
            )
        if found.dtype not in WEIGHT_DTYPES and not whole:
            supported = ", ".join(map(word, WEIGHT_DTYPES))
            raise unsupported(
                f"{name} has dtype {word(found.dtype)}; supported: {supported}", FLOAT_CHECKPOINT
            )
