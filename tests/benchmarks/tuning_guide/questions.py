"""What the guide asks, as searches. Another question, or another setting, is another entry."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LENGTH, HELD_OUT = 256, 16
"""Tokens of a sequence; sequences to measure on."""
CALIBRATION = {"calibration": 32, "few": 8, "some": 16, "more": 64, "many": 128}
"""Sequences of each data config; the first is that of all questions but one."""
GROUPS = (32, 64, 96, 128)
SMALL_GROUP = 32
METRICS = ("kl_divergence", "perplexity", "top1_agreement")
"""Of each point, in the order in which they decide."""

Pass = dict[str, Any]
Config = Mapping[str, Any]


def gptq(name: str = "gptq", **parameters: Any) -> Pass:
    """GPTQ of 4 bits in small groups, and what differs from that."""
    fixed = {"data_config": "calibration", "bits": 4, "group_size": SMALL_GROUP}
    return {"name": name, "type": "GptqQuantizer", **fixed, **parameters}


@dataclass(frozen=True)
class Question:
    """One search of each model.

    passes: all of them have a name. space: values by PASS.PARAMETER. groups: the parameter that takes every group size
    that fits the model. labels: how the tables write a chain (names joined by +) or a value; others are written as
    in a manifest. The advice of docs/tuning.md names settings by these words.
    """

    name: str
    title: str
    passes: Sequence[Pass]
    chains: Sequence[Sequence[str]] = ()
    space: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    groups: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    def strategy(self, config: Config) -> dict[str, Any]:
        """search_strategy of the manifest. No point is given up early: the tables are to be complete."""
        space = {**self.space, **({self.groups: fitting_groups(config)} if self.groups else {})}
        axes = [
            dict(zip(("pass", "parameter"), name.split("."), strict=True)) | {"values": list(values)}
            for name, values in space.items()
        ]
        return {"chains": [list(chain) for chain in self.chains], "search_space": axes, "stop_early": False}


def fitting_groups(config: Config) -> list[int]:
    """The group sizes that divide the inputs of every linear, and -1: one group per row.

    Where config.json has other words for its sizes, all are tried; the search refuses those that do not fit.
    """
    attention = config.get("num_attention_heads", 0) * (config.get("head_dim") or 0)
    inputs = math.gcd(config.get("hidden_size", 0), config.get("intermediate_size", 0), attention)
    return [size for size in GROUPS if inputs % size == 0] + [-1]


def written(parameters: Mapping[str, Any]) -> str:
    """Parameters as a manifest writes them, in Markdown."""
    return ", ".join(f"`{name}: {json.dumps(value)}`" for name, value in parameters.items())


OPTIONS: Mapping[str, Pass] = {
    "plain": {},
    "sym": {"sym": True},
    "desc-act": {"desc_act": True},
    "desc-act-static": {"desc_act": True, "static_groups": True},
    "sequential": {"true_sequential": True},
    "damp": {"damp_percent": 0.1},
    "all": {"desc_act": True, "static_groups": True, "true_sequential": True},
}
"""GPTQ of 3 bits, where an option shows most, with one thing changed at a time, and with what may add up."""

QUESTIONS = (
    Question(
        "bits",
        "Bits and group size",
        [gptq()],
        space={"gptq.bits": [2, 3, 4, 8]},
        groups="gptq.group_size",
    ),
    Question(
        "method",
        "Method",
        [
            gptq(),
            {
                "name": "awq",
                "type": "AutoAWQQuantizer",
                "data_config": "calibration",
                "q_group_size": SMALL_GROUP,
            },
            {"name": "quarot", "type": "QuaRot"},
        ],
        chains=[["gptq"], ["awq"], ["quarot", "gptq"]],
        labels={
            "gptq": "`GptqQuantizer`",
            "awq": "`AutoAWQQuantizer`",
            "quarot+gptq": "`QuaRot`, `GptqQuantizer`",
        },
        space={"gptq.bits": [3, 4]},
    ),
    Question(
        "options",
        "Options of GPTQ",
        [gptq(name, bits=3, **changed) for name, changed in OPTIONS.items()],
        chains=[[name] for name in OPTIONS],
        labels={name: written(parameters) or "none" for name, parameters in OPTIONS.items()},
    ),
    Question(
        "calibration",
        "Calibration size",
        [gptq(bits=3)],
        space={"gptq.data_config": sorted(CALIBRATION, key=lambda name: CALIBRATION[name])},
        labels={name: written({"max_samples": count}) for name, count in CALIBRATION.items()},
    ),
)


def manifest(
    question: Question, model: Path, config: Config, texts: tuple[Path, Path], folder: Path
) -> dict[str, Any]:
    """The manifest of a question for a model. All questions of a model share their points.

    Args:
        texts: to calibrate on, and to measure on.
        folder: of the model's results; the artifact is FOLDER/NAME.
    """
    calibration, held_out = texts
    metrics = [{"name": name, "type": name, "data_config": "held_out"} for name in METRICS]
    workflow = {
        "input_model": {"type": "HfModel", "model_path": str(model)},
        "data_configs": [
            *(_data(name, calibration, count) for name, count in CALIBRATION.items()),
            _data("held_out", held_out, HELD_OUT),
        ],
        "passes": list(question.passes),
        "search_strategy": question.strategy(config),
        "evaluators": [{"name": "quality", "metrics": metrics}],
        "evaluator": "quality",
    }
    return {
        "apiVersion": "quantization.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": f"tuning-{question.name}"},
        "spec": {
            "workflow": workflow,
            "output": {"uri": (folder / question.name).as_uri(), "trialsUri": (folder / "trials").as_uri()},
        },
    }


def _data(name: str, text: Path, count: int) -> dict[str, Any]:
    cut = {"strategy": "join", "max_seq_len": LENGTH, "max_samples": count}
    load = {"data_name": str(text)}
    return {
        "name": name,
        "type": "HuggingfaceContainer",
        "load_dataset_config": load,
        "pre_process_data_config": cut,
    }
