"""What a model has beside its decoder of text: towers for images or sound, and what leads from them to the decoder.

transformers' own mapping says which types have such a model, so none is listed here. The decoder inside it is found by
where the embedding of tokens lies. All that text alone never runs is carried through: it is not read, and costs no
memory.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from typing_extensions import override

WITH_MORE: Any = getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING", {})
CLASS_NAMES: Any = getattr(modeling_auto, "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", {})
"""Types whose models take more than text, with their classes; none in the transformers of the stock packages."""


def reads_more(model_type: str, named: object) -> bool:
    """Whether a config.json is of a model that takes more than text.

    named: its architectures; where it names none, the class for all that the type takes is meant.
    """
    return model_type in CLASS_NAMES and (not named or CLASS_NAMES[model_type] in _listed(named))


def loading_class(model_type: str, architecture: str) -> str:
    """The name of transformers' class that loads a model as what it is: with all that it takes, or as one of text.

    architecture: what its config.json names.
    """
    return "AutoModelForMultimodalLM" if reads_more(model_type, [architecture]) else "AutoModelForCausalLM"


def model_class(config: PretrainedConfig) -> Any:
    """transformers' class of a config with a head that continues text; None where it has none."""
    if reads_more(config.model_type, config.architectures) and type(config) in WITH_MORE:
        return WITH_MORE[type(config)]
    return modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a config that its decoder of text is made from; the whole one of a model of text."""
    if not reads_more(config.model_type, config.architectures):
        return config
    found: PretrainedConfig = config.get_text_config(decoder=True)
    return found


def nested_configs(config: PretrainedConfig) -> list[PretrainedConfig]:
    """A config, and those inside it."""
    inside = [one for one in vars(config).values() if isinstance(one, PretrainedConfig)]
    return [config, *(found for one in inside for found in nested_configs(one))]


def text_module(model: nn.Module, embedding: nn.Module) -> str:
    """The name of the smallest module that has the embedding of tokens and a list of modules: the decoder of text."""
    name: str = next(name for name, module in model.named_modules() if module is embedding)
    while name:
        name = name.rpartition(".")[0]
        if any(isinstance(one, nn.ModuleList) and len(one) for one in model.get_submodule(name).modules()):
            break
    return name


def find_beside(
    model: nn.Module, text: str, kept: Sequence[str], config: PretrainedConfig
) -> dict[str, nn.Module]:
    """The modules with tensors that text alone never runs, by name; none of them lies in another.

    Args:
        model: the whole.
        text: name of its decoder of text; what lies in there is beside the text if it is a model of another config.
        kept: names of the modules outside the decoder that text runs, such as the head.
        config: of the decoder of text.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = name == text or name.startswith(f"{text}.")
        around = any(other == name or other.startswith(f"{name}.") for other in (text, *kept)) or not name
        taken = any(name.startswith(f"{other}.") for other in (*found, *kept))
        if taken or (around and not inside) or not module.state_dict():
            continue
        if not inside or (isinstance(module, PreTrainedModel) and type(module.config) is not type(config)):
            found[name] = module
    return found


class NotOfText(nn.Module):
    """Stands in for a module that text alone never runs; what it is asked for beside its forward, that answers."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "_seen", module)  # not registered as a submodule

    @override
    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_seen"], name)

    @override
    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError(f"text runs {type(self.__dict__['_seen']).__name__}, which is not of its decoder")


def _listed(named: object) -> list[str]:
    return [str(name) for name in named] if isinstance(named, (list, tuple)) else []
