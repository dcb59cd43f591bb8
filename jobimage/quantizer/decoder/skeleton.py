"""transformers' own model of a config on the meta device: every module, no memory; and what is refused.

The skeleton answers what modules and tensors the model has and what they are called; its layers are the
patterns of which one at a time gets real weights.
"""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import did_you_mean
from quantizer.boundary.reading import reading
from quantizer.decoder.architecture import Architecture, ModuleNames
from quantizer.decoder.beside import (
    find_beside,
    model_class,
    reads_more,
    text_config,
    text_module,
)
from quantizer.decoder.expert_finding import find_experts

COPY_CONFIG = "Correct config.json, or copy it again from where the model comes from."
NOT_OF_ONE_MODEL = (
    "config.json and the weights are not of one model, or weights are missing: copy the whole model again."
)
EMBEDDING = "an embedding of tokens"
ANOTHER_TYPE = "Use a model of a type that is exact in docs/models.md."


def unsupported(message: str, hint: str) -> QuantizationError:
    """A ModelUnsupported. The catalogue has no cure that fits all causes, so each gives its own."""
    return QuantizationError(Category.MODEL_UNSUPPORTED, message, hint)


def misnamed(message: str) -> QuantizationError:
    """An InvalidWorkflow: a name of a module in the manifest is not the model's."""
    return QuantizationError(Category.INVALID_WORKFLOW, message)


def _with_attention(cls: Any, config: PretrainedConfig) -> Any:
    """A model with the attention of its config; towers may have no other than the plain one."""
    try:
        return cls(config)
    except ValueError as error:
        if config._attn_implementation == "eager" or "attention" not in str(error):
            raise
        config._attn_implementation = "eager"
        return cls(config)


def _made(cls: Any, config: PretrainedConfig) -> Any:
    """A model of a class; classes that keep a row for padding stop at a pad_token_id that the embedding lacks."""
    try:
        return _with_attention(cls, config)
    except Exception as error:
        padding, vocabulary = getattr(config, "pad_token_id", None), text_config(config).vocab_size
        if not isinstance(padding, int) or -vocabulary <= padding < vocabulary:
            raise
        raise unsupported(
            f"config.json says pad_token_id {padding}, but the vocabulary has tokens 0 to {vocabulary - 1} only",
            "Set pad_token_id in config.json to null, or to a token of the vocabulary.",
        ) from error


class Skeleton:
    """The model on the meta device.

    Args:
        config: of the model; it is copied.
        architecture: the table's entry, or None for an unknown type.
        modules: names of modules that the user gave, in place of those that are in the table or found. With
            inside_layer_modules a known type takes the generic path as well.

    Attributes: causal (the whole model), model_type (in config.json's word), config (of its decoder of text), layers
    (the pattern of each decoder layer), beside (modules that text alone never runs, by name),
    layers_name, embedding_name, head_name (dotted names in the model, without ".weight"), experts (of each layer, in
    fused tensors, by the module's name there; one expert with linears stands for all of them), outside_shapes
    (of the other parameters outside the layers), embedding_shape, ties (parameters that are others, but for the head).

    Raises ModelUnsupported for a model without layers or with fused experts, InvalidWorkflow, with what was found,
    for names that are not there.
    """

    def __init__(
        self, config: PretrainedConfig, architecture: Architecture | None, modules: ModuleNames | None
    ) -> None:
        config = copy.deepcopy(config)
        cls = model_class(config)
        # sdpa where the class says that it computes the same; soft caps and Bloom's alibi need eager
        config._attn_implementation = "sdpa" if cls._supports_sdpa else "eager"
        with reading(Category.MODEL_UNSUPPORTED, "config.json", COPY_CONFIG), torch.device("meta"):
            self.causal: Any = _made(cls, config)
        self.causal.requires_grad_(False).eval()
        self.model_type, self.config = config.model_type, text_config(config)
        names = {id(module): name for name, module in self.causal.named_modules()}
        self.prefix = self._prefix()
        more = reads_more(self.model_type, config.architectures)
        embedding = self._embedding()
        self._text = text_module(self.causal, embedding) if more and embedding is not None else ""
        self.beside = self._find_beside()
        self.architecture = self._resolve(architecture, modules or ModuleNames())
        self.layers_name = self._full(self.architecture.layers)
        self.embedding_name = names[id(self._table(self._embedding(), EMBEDDING))]
        self.head_name = names[id(self._table(self.causal.get_output_embeddings(), "a linear head"))]
        self.layers: list[nn.Module] = list(self.causal.get_submodule(self.layers_name))
        if not self.layers:
            raise unsupported("config.json says that the model has no layers", COPY_CONFIG)
        found, odd = find_experts(() if self.architecture.blocks else self.layers)
        if odd:
            raise unsupported(f"{self.layers_name}.{odd}", ANOTHER_TYPE)
        self.experts = found or [{} for _ in self.layers]
        tables = (f"{self.embedding_name}.weight", f"{self.head_name}.weight")
        not_outside = tuple(f"{name}." for name in (self.layers_name, *self.beside))
        self.outside_shapes: dict[str, tuple[int, ...]] = {
            name: tuple(value.shape)
            for name, value in self.causal.named_parameters(remove_duplicate=False)
            if name not in tables and not name.startswith(not_outside)
        }
        ties = self.causal._tied_weights_keys
        self.ties: dict[str, str] = dict(ties) if isinstance(ties, dict) else {}
        self.ties.pop(f"{self.head_name}.weight", None)
        self.embedding_shape = tuple(self.causal.get_input_embeddings().weight.shape)
        inner, outer = self.embedding_shape[1], self._width()
        if inner != outer and self.architecture.blocks:
            raise unsupported(
                f"the embeddings are {inner} wide and the layers {outer}: projections between them are not supported",
                "Use another size of this model: of OPT, for example, only opt-350m has such projections.",
            )

    def _width(self) -> int:
        """Of what goes through the layers; a config of several models may have none that is for all of them."""
        width = getattr(self.config, "hidden_size", None)
        parts = [name for name, one in vars(self.config).items() if isinstance(one, PretrainedConfig)]
        if width is None and parts:
            raise unsupported(
                f"a {self.model_type} model is several models in one ({', '.join(parts)}), and only one "
                "decoder of text is supported",
                ANOTHER_TYPE,
            )
        return int(self.config.hidden_size)

    def _embedding(self) -> nn.Module | None:
        """The embedding of tokens; a class of several models in one does not know which it is."""
        try:
            found: nn.Module | None = self.causal.get_input_embeddings()
        except NotImplementedError:
            return self._table(None, EMBEDDING)
        return found

    def _find_beside(self) -> dict[str, nn.Module]:
        head = self.causal.get_output_embeddings()
        if not self._text or head is None:
            return {}
        names = {id(module): name for name, module in self.causal.named_modules()}
        return find_beside(self.causal, self._text, (names[id(head)],), self.config)

    def linears_outside(self, *, head: bool) -> tuple[str, ...]:
        """Names of the linears outside the decoder layers; of the head too, if it is asked for."""
        layers = f"{self.layers_name}."
        return tuple(
            name
            for name, module in self.causal.named_modules()
            if isinstance(module, (nn.Linear, Conv1D))
            and not name.startswith(layers)
            and (head or name != self.head_name)
        )

    def rows_before_positions(self, positions: int) -> int:
        """Rows of a table of positions that no token has: those up to padding's own, where padding has one."""
        tables = (part for part in self.causal.modules() if isinstance(part, nn.Embedding))
        found = (one for one in tables if one.num_embeddings == positions and one.padding_idx is not None)
        token = self.causal.get_input_embeddings()
        return next((int(one.padding_idx or 0) + 1 for one in found if one is not token), 0)

    def _table(self, found: nn.Module | None, what: str) -> nn.Module:
        if found is None or getattr(found, "weight", None) is None:
            raise unsupported(
                f"a {self.model_type} model has not {what}, one table for the vocabulary", ANOTHER_TYPE
            )
        return found

    def _prefix(self) -> str:
        """The name of the module that is the model without its head, whatever the class says that it is called."""
        said: str = self.causal.base_model_prefix
        children = dict(self.causal.named_children())
        embedding, head = self._embedding(), self.causal.get_output_embeddings()
        within = (name for name, child in children.items() if embedding in child.modules())
        name = said if said in children else next(within, said)
        while name in children and embedding is not head and head in children[name].modules():
            inner = {f"{name}.{leaf}": child for leaf, child in children[name].named_children()}
            children = {leaf: child for leaf, child in inner.items() if embedding in child.modules()}
            name = next(iter(children), name)
        return name

    def _full(self, name: str) -> str:
        return f"{self.prefix}.{name}"

    def _resolve(self, known: Architecture | None, modules: ModuleNames) -> Architecture:
        self._check_outside(modules.outside_layer_modules)
        self._check_layers(modules.layers_block_name)
        if known is not None and not modules.inside_layer_modules:
            if (
                modules.layers_block_name is not None
                and self._strip(modules.layers_block_name) != known.layers
            ):
                raise misnamed(
                    f"layers_block_name {modules.layers_block_name} is not the list of decoder layers of a "
                    f"{known.model_type} model, which is {self._full(known.layers)}"
                )
            return known
        if known is not None and known.experts is None:
            layers = self._strip(modules.layers_block_name or known.layers)
            generic = replace(known, blocks=(), folds=(), listed_stages=modules.inside_layer_modules)
        else:
            layers = self._strip(modules.layers_block_name or self._longest_list())
            generic = Architecture(
                self.model_type, layers, "", "rms", (), listed_stages=modules.inside_layer_modules
            )
        self._check_listed(self._full(layers), modules.inside_layer_modules)
        return replace(generic, layers=layers)

    def _check_layers(self, name: str | None) -> None:
        if name is None:
            return
        found, lists = self._find(name), self._module_lists()
        if found is None:
            raise misnamed(
                f"layers_block_name names {name}, which a {self.model_type} model does not have (its lists "
                f"of modules: {self._lists()}){did_you_mean(name, lists)}"
            )
        if not isinstance(found, nn.ModuleList):
            raise misnamed(
                f"layers_block_name {name} is a {type(found).__name__}, not a list of layers; its lists of modules: "
                f"{self._lists()}"
            )

    def _check_outside(self, names: tuple[str, ...]) -> None:
        for name in names:
            if self._find(name) is None:
                outside = {parameter.rpartition(".")[0] for parameter, _ in self.causal.named_parameters()}
                raise misnamed(
                    f"outside_layer_modules names {name}, which a {self.model_type} model does not have"
                    f"{did_you_mean(name, sorted(outside))}"
                )

    def _check_listed(self, layers: str, stages: tuple[tuple[str, ...], ...]) -> None:
        listed = [name for stage in stages for name in stage]
        for name in listed:
            if listed.count(name) > 1:
                raise misnamed(f"inside_layer_modules names {name} more than once")
        for index, layer in enumerate(self.causal.get_submodule(layers)):
            modules = dict(layer.named_modules())
            linears = [key for key, module in modules.items() if isinstance(module, (nn.Linear, Conv1D))]
            for name in listed:
                if name not in linears:
                    raise misnamed(
                        f"inside_layer_modules names {name}, which is no linear of {layers}.{index} (its linears: "
                        f"{', '.join(linears)}){did_you_mean(name, linears)}"
                    )

    def _strip(self, name: str) -> str:
        return name.removeprefix(f"{self.prefix}.")

    def _find(self, name: str) -> nn.Module | None:
        modules: dict[str, nn.Module] = dict(self.causal.named_modules())
        return modules.get(name) or modules.get(self._full(name))

    def _longest_list(self) -> str:
        """The name of the list of modules that most of the model's weights are in: its decoder layers."""
        beside = tuple(f"{name}." for name in self.beside)
        lists = {name: found for name, found in self._module_lists().items() if not name.startswith(beside)}
        if not lists:
            raise unsupported(
                f"a {self.model_type} model has no list of layers", "Use a model of another type."
            )
        sizes = {name: sum(map(torch.Tensor.numel, found.parameters())) for name, found in lists.items()}
        return max(sizes, key=lambda name: sizes[name])

    def _module_lists(self) -> dict[str, nn.ModuleList]:
        """The lists of modules that the model has, but for empty ones."""
        modules = self.causal.named_modules()
        return {name: found for name, found in modules if isinstance(found, nn.ModuleList) and len(found)}

    def _lists(self) -> str:
        """The same for a message."""
        found = [
            f"{name} ({len(module)} {type(module[0]).__name__})"
            for name, module in self._module_lists().items()
        ]
        return ", ".join(found[:8]) or "none"
