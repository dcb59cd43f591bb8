"""transformers' own model of a config on the meta device: every module, no memory; and what is refused.

The skeleton answers what modules and tensors the model has and what they are called; its layers are the
patterns of which one at a time gets real weights.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from quantization_api.failures import Category, QuantizationError
from quantization_api.text import did_you_mean, shortened
from quantizer.boundary.reading import reading
from quantizer.checkpoint.older_transformers import OLDER_MODEL_TYPES, is_older
from quantizer.decoder.architecture import GIVEN, Architecture, ModuleNames
from quantizer.decoder.expert_finding import find_experts
from quantizer.decoder.families import ARCHITECTURES

CAUSAL_CLASSES = ("ForCausalLM", "LMHeadModel")  # how names of causal language models end
BESIDE_TEXT = ("vision_config", "audio_config", "text_config", "encoder", "decoder")


KNOWN_DTYPES = ("float16", "bfloat16", "float32", "float64", "half", "float", "double", "auto")
"""What config.json may say under torch_dtype or dtype; the tensors' own types are checked by themselves."""
OF_NO_USE = ("num_labels", "id2label", "label2id")
"""Fields about classes of a classifier: a language model has none, and transformers makes a table of them."""
COUNTS_OF_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
OF_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "experts_top_k")
"""Fields that say how many experts a token goes to, in the words of the types that have them."""
FUSED_AT_MOST = 1024


COPY_CONFIG = "Correct config.json, or copy it again from where the model comes from."
NOT_OF_ONE_MODEL = (
    "config.json and the weights are not of one model, or weights are missing: copy the whole model again."
)
TEXT_ALONE = "Save the language model alone, as a model of its own type (for gemma3: gemma3_text)."
CAUSAL_ALONE = (
    "Use a model that continues text (its class ends with ForCausalLM); no other kind is quantized."
)
ANOTHER_TYPE = "Use a model of a type that is exact in docs/models.md."


def unsupported(message: str, hint: str) -> QuantizationError:
    """A ModelUnsupported. The catalogue has no cure that fits all causes, so each gives its own."""
    return QuantizationError(Category.MODEL_UNSUPPORTED, message, hint)


def misnamed(message: str) -> QuantizationError:
    """An InvalidWorkflow: a name of a module in the manifest is not the model's."""
    return QuantizationError(Category.INVALID_WORKFLOW, message)


def find_architecture(config: Mapping[str, object]) -> Architecture | None:
    """The table's entry for a config.json; None for an unknown type that the generic path may take.

    Raises ModelUnsupported, with what was found, for a model that is no causal language model of text.
    """
    model_type = config.get("model_type")
    architectures = config.get("architectures") or []
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    found = f"config.json says model_type {model_type!r} (architectures {names})"
    if not isinstance(model_type, str):
        raise unsupported(
            found,
            "Point model_path at the folder of a language model, whose config.json names its model_type.",
        )
    beside = _beside_text(config)
    causal = CAUSAL_CLASSES if beside else (*CAUSAL_CLASSES, *_causal_classes(model_type))
    if names and not any(name.endswith(causal) for name in names):
        raise unsupported(
            f"config.json says architectures {names} (model_type {model_type!r}); only causal language models are "
            "supported",
            TEXT_ALONE if beside else CAUSAL_ALONE,
        )
    if is_older() and model_type not in OLDER_MODEL_TYPES:
        raise unsupported(
            f"{found}; the image of the stock packages, with transformers {transformers.__version__}, is for "
            f"model types {', '.join(sorted(OLDER_MODEL_TYPES))}",
            "Use implementation native, and its image.",
        )
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    if model_type not in CONFIG_MAPPING:
        raise unsupported(
            f"{found}, which transformers {transformers.__version__} does not know",
            ANOTHER_TYPE,
        )
    if beside or config.get("is_encoder_decoder"):
        what = f"it has {', '.join(beside)}" if beside else "it has an encoder"
        raise unsupported(
            f"{found}; {what}, and only decoders of text are supported",
            TEXT_ALONE if beside else CAUSAL_ALONE,
        )
    return None


def _causal_classes(model_type: str) -> tuple[str, ...]:
    """The classes that transformers has for a type that continues text, whatever they are called."""
    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, ())
    return (found,) if isinstance(found, str) else tuple(found)


def _beside_text(config: Mapping[str, object]) -> list[str]:
    return [name for name in BESIDE_TEXT if isinstance(config.get(name), dict)]


def make_config(raw: Mapping[str, Any], architecture: Architecture | None) -> PretrainedConfig:
    """transformers' config of a config.json; ModelUnsupported when a value cannot be used."""
    model_type = str(raw["model_type"])
    _check_dtype(raw)
    fields = {key: _decoded(value) for key, value in raw.items() if key not in ("model_type", *OF_NO_USE)}
    with reading(Category.MODEL_UNSUPPORTED, "config.json", COPY_CONFIG):
        config = AutoConfig.for_model(model_type, **fields)
    if architecture is not None:
        for feature in architecture.unsupported:
            found = getattr(config, feature.field, None)
            if found is not None if feature.value is GIVEN else found == feature.value:
                raise unsupported(
                    f"this {model_type} model is not supported: {feature.sentence}",
                    f"Use a model that was trained without it; to change {feature.field} alone would spoil this one.",
                )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise unsupported(
            f"config.json says model_type {model_type!r}, of which transformers {transformers.__version__} "
            "has no causal language model",
            CAUSAL_ALONE,
        )
    return config


def _decoded(value: Any) -> Any:
    """A value of config.json; JSON has no infinity, which transformers writes as {"__float__": "Infinity"}."""
    if isinstance(value, dict):
        named = value.get("__float__")
        known = named if set(value) == {"__float__"} and named in ("NaN", "Infinity", "-Infinity") else None
        return float(known) if known else {key: _decoded(one) for key, one in value.items()}
    return [_decoded(one) for one in value] if isinstance(value, list) else value


def _check_dtype(raw: Mapping[str, Any]) -> None:
    """Refuses a data type that is none: other software takes it from the artifact's config.json."""
    for field in ("torch_dtype", "dtype"):
        said = raw.get(field)
        if said is not None and said not in KNOWN_DTYPES:
            raise unsupported(
                f"config.json says {field} {shortened(repr(said), 100)}; known: {', '.join(KNOWN_DTYPES)}",
                f"Correct {field} in config.json, or leave it out: the tensors say what they are.",
            )


def check_counts(config: PretrainedConfig, tensors: int) -> None:
    """Compares counts of the config with the number of tensors that there are, before modules are made.

    Every layer and every expert has at least one tensor, but for experts in a fused one; those are so few that
    modules for them cost nothing.
    """
    layers = getattr(config, "num_hidden_layers", 0)
    if layers > tensors:
        raise unsupported(
            f"config.json says {layers} layers, but the checkpoint has only {tensors} tensors",
            NOT_OF_ONE_MODEL,
        )
    for field in COUNTS_OF_EXPERTS:
        count = getattr(config, field, None) or 0
        if count > max(tensors, FUSED_AT_MOST):
            raise unsupported(
                f"config.json says {field} {count}, but the checkpoint has only {tensors} tensors",
                NOT_OF_ONE_MODEL,
            )
    experts = max((_whole(config, field) for field in COUNTS_OF_EXPERTS), default=0)
    for field in OF_A_TOKEN:
        if experts and _whole(config, field) > experts:
            raise unsupported(
                f"config.json sends each token to {_whole(config, field)} experts ({field}, or what its type has by "
                f"default), but there are {experts}",
                COPY_CONFIG,
            )


def _whole(config: PretrainedConfig, field: str) -> int:
    """A field that is a whole number; 0 where it is not there, or something else."""
    value = getattr(config, field, None)
    return value if type(value) is int else 0


def _made(cls: Any, config: PretrainedConfig) -> Any:
    """A model of a class; classes that keep a row for padding stop at a pad_token_id that the embedding lacks."""
    try:
        return cls(config)
    except Exception as error:
        padding, vocabulary = getattr(config, "pad_token_id", None), config.vocab_size
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

    Attributes: causal (the whole model), layers (the pattern of each decoder layer),
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
        cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        # sdpa where the class says that it computes the same; soft caps and Bloom's alibi need eager
        config._attn_implementation = "sdpa" if cls._supports_sdpa else "eager"
        with reading(Category.MODEL_UNSUPPORTED, "config.json", COPY_CONFIG), torch.device("meta"):
            self.causal: Any = _made(cls, config)
        self.causal.requires_grad_(False).eval()
        self.config = config
        names = {id(module): name for name, module in self.causal.named_modules()}
        self.prefix = self._prefix()
        self.architecture = self._resolve(architecture, modules or ModuleNames())
        self.layers_name = self._full(self.architecture.layers)
        self.embedding_name = names[
            id(self._table(self.causal.get_input_embeddings(), "an embedding of tokens"))
        ]
        self.head_name = names[id(self._table(self.causal.get_output_embeddings(), "a linear head"))]
        self.layers: list[nn.Module] = list(self.causal.get_submodule(self.layers_name))
        if not self.layers:
            raise unsupported("config.json says that the model has no layers", COPY_CONFIG)
        found, odd = find_experts(() if self.architecture.blocks else self.layers)
        if odd:
            raise unsupported(f"{self.layers_name}.{odd}", ANOTHER_TYPE)
        self.experts = found or [{} for _ in self.layers]
        tables = (f"{self.embedding_name}.weight", f"{self.head_name}.weight")
        self.outside_shapes: dict[str, tuple[int, ...]] = {
            name: tuple(value.shape)
            for name, value in self.causal.named_parameters(remove_duplicate=False)
            if name not in tables and not name.startswith(f"{self.layers_name}.")
        }
        ties = self.causal._tied_weights_keys
        self.ties: dict[str, str] = dict(ties) if isinstance(ties, dict) else {}
        self.ties.pop(f"{self.head_name}.weight", None)
        self.embedding_shape = tuple(self.causal.get_input_embeddings().weight.shape)
        inner, outer = self.embedding_shape[1], int(config.hidden_size)
        if inner != outer and self.architecture.blocks:
            raise unsupported(
                f"the embeddings are {inner} wide and the layers {outer}: projections between them are not supported",
                "Use another size of this model: of OPT, for example, only opt-350m has such projections.",
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
                f"a {self.config.model_type} model has not {what}, one table for the vocabulary", ANOTHER_TYPE
            )
        return found

    def _prefix(self) -> str:
        """The name of the module that is the model without its head, whatever the class says that it is called."""
        said: str = self.causal.base_model_prefix
        children = dict(self.causal.named_children())
        if said in children:
            return said
        embedding = self.causal.get_input_embeddings()
        return next((name for name, child in children.items() if embedding in child.modules()), said)

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
                self.config.model_type, layers, "", "rms", (), listed_stages=modules.inside_layer_modules
            )
        self._check_listed(self._full(layers), modules.inside_layer_modules)
        return replace(generic, layers=layers)

    def _check_layers(self, name: str | None) -> None:
        if name is None:
            return
        found, lists = self._find(name), self._module_lists()
        if found is None:
            raise misnamed(
                f"layers_block_name names {name}, which a {self.config.model_type} model does not have (its lists "
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
                    f"outside_layer_modules names {name}, which a {self.config.model_type} model does not have"
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
        lists = self._module_lists()
        if not lists:
            raise unsupported(
                f"a {self.config.model_type} model has no list of layers", "Use a model of another type."
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
