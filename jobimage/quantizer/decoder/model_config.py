"""The config.json of a model: which kind it is, and what is refused before modules are made."""

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from quantization_api.failures import Category
from quantization_api.text import shortened
from quantizer.boundary.reading import reading
from quantizer.checkpoint.older_transformers import OLDER_MODEL_TYPES, is_older
from quantizer.decoder.architecture import GIVEN, Architecture
from quantizer.decoder.beside import model_class, nested_configs, reads_more
from quantizer.decoder.families import ARCHITECTURES
from quantizer.decoder.skeleton import ANOTHER_TYPE, COPY_CONFIG, NOT_OF_ONE_MODEL, unsupported

CAUSAL_CLASSES = ("ForCausalLM", "LMHeadModel")  # how names of causal language models end
BESIDE_TEXT = ("vision_config", "audio_config", "text_config", "encoder", "decoder")

KNOWN_DTYPES = ("float16", "bfloat16", "float32", "float64", "half", "float", "double", "auto")
"""What config.json may say under torch_dtype or dtype; the tensors' own types are checked by themselves."""
OF_NO_USE = ("num_labels", "id2label", "label2id")
"""Fields about classes of a classifier: a language model has none, and transformers makes a table of them."""
COUNTS_OF_LAYERS = ("num_hidden_layers", "depth", "encoder_layers", "num_layers")
COUNTS_OF_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
OF_A_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "experts_top_k")
"""Fields that say how many experts a token goes to, in the words of the types that have them."""
FUSED_AT_MOST = 1024
TEXT_ALONE = "Save the language model alone, as a model of its own type (for gemma3: gemma3_text)."
CAUSAL_ALONE = (
    "Use a model that continues text (its class ends with ForCausalLM); no other kind is quantized."
)


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
    more = reads_more(model_type, names)
    beside = [] if more else _beside_text(config)
    causal = CAUSAL_CLASSES if beside else (*CAUSAL_CLASSES, *_causal_classes(model_type))
    if names and not more and not any(name.endswith(causal) for name in names):
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
    if model_class(config) is None:
        raise unsupported(
            f"config.json says model_type {model_type!r}, of which transformers {transformers.__version__} "
            "has no causal language model",
            CAUSAL_ALONE,
        )
    if reads_more(model_type, config.architectures) and config.is_encoder_decoder:
        raise unsupported(
            f"a {model_type} model has an encoder, and only decoders of text are supported", CAUSAL_ALONE
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
    for one in nested_configs(config):
        _check_counts(one, tensors)


def _check_counts(config: PretrainedConfig, tensors: int) -> None:
    layers = max(_whole(config, field) for field in COUNTS_OF_LAYERS)
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
