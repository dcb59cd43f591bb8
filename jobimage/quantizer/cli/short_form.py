"""The manifest that a one-line command stands for. Pure: what it needs of the model is given to it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from quantization_api import API_VERSION, KIND
from quantization_api.failures import Category, QuantizationError
from quantization_api.text import did_you_mean

Manifest = dict[str, Any]

METHODS = ("gptq", "awq", "quarot", "rtn")
NEED_TEXT = ("gptq", "awq")
USUAL_GROUP = 128
CALIBRATION_TOKENS, CALIBRATION_SAMPLES = 512, 128
"""Length and number of sequences to calibrate with: enough for any model, and minutes at most for a small one."""
BYTES_PER_TOKEN = 8
"""More than a token of any usual text has, so that a short text is taken whole and not refused."""


@dataclass(frozen=True)
class ShortForm:
    """What a person says in one line. Places are URIs or paths of this machine."""

    model: str
    output: str
    method: str | None = None
    """One of METHODS; None: gptq where there is a text, else rtn."""
    bits: int = 4
    group_size: int | None = None
    """None: the largest up to USUAL_GROUP that fits the model."""
    data: str | None = None
    """Text to calibrate with."""
    evaluate: str | None = None
    """Held-out text."""
    endpoint: str | None = None
    region: str | None = None
    patience: int | None = None
    """With a storage that does not answer, in seconds; None: the contract's default."""


@dataclass(frozen=True)
class Shape:
    """What has to be known of the model."""

    group_sizes: Sequence[int]
    """Those that divide every linear; -1 is one group for each row."""
    max_positions: int


def manifest_of(form: ShortForm, shape: Shape) -> Manifest:
    """The manifest that a short form stands for.

    Raises:
        QuantizationError: InvalidWorkflow for a pass that needs a text and has none, or has one without effect.
    """
    length = min(CALIBRATION_TOKENS, shape.max_positions)
    workflow: Manifest = {"input_model": {"type": "HfModel", "model_path": absolute_input(form.model)}}
    texts = {"calibration": form.data, "held_out": form.evaluate}
    configs = [_data_config(name, absolute_input(uri), length) for name, uri in texts.items() if uri]
    if configs:
        workflow["data_configs"] = configs
    workflow["passes"] = [_pass(form, group_size(form, shape), length)]
    if form.evaluate:
        workflow |= {"evaluators": [{"name": "quality", "metrics": _metrics()}], "evaluator": "quality"}
    spec: Manifest = {"workflow": workflow, "output": {"uri": absolute(form.output)}}
    storage = {
        "endpoint": form.endpoint or None,
        "region": form.region or None,
        "patienceSeconds": form.patience,
    }
    if given := {name: value for name, value in storage.items() if value is not None}:
        spec["storage"] = given
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": _name(form)}, "spec": spec}


def render(manifest: Manifest) -> str:
    """The manifest as YAML."""
    import yaml  # not for the command line alone, which reads METHODS

    return yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=110)


def absolute(place: str) -> str:
    """A place as a manifest may name it: relative paths are relative to where the command is typed."""
    return place if "://" in place else f"file://{Path(place).absolute()}"


def absolute_input(place: str) -> str:
    """The same of a model or a text, in whose URI %20 and the like stand for what they encode."""
    return place if "://" in place else absolute(place).replace("%", "%25")


def group_size(form: ShortForm, shape: Shape) -> int:
    """The group size that was asked for, or the largest usual one that fits."""
    if form.group_size is not None:
        return form.group_size
    return max((size for size in shape.group_sizes if size <= USUAL_GROUP), default=-1)


def _pass(form: ShortForm, group: int, length: int) -> Manifest:
    method = form.method or ("gptq" if form.data else "rtn")
    if method not in METHODS:  # from Python; the command line has choices
        raise _invalid(
            f"method {method} is none of {', '.join(METHODS)}{did_you_mean(method, METHODS)}",
            "Write one of them.",
        )
    if method in NEED_TEXT and not form.data:
        raise _invalid(
            f"--pass {method} needs a text to calibrate with", "Add --data TEXT, or write --pass rtn."
        )
    if method == "rtn" and form.data:
        raise _invalid("--data has no effect with --pass rtn", "Leave one of them out.")
    if method == "gptq":  # symmetric: vLLM and SGLang read nothing else in this format
        calibrated: Manifest = {"type": "GptqQuantizer", "data_config": "calibration"}
        return calibrated | {"bits": form.bits, "group_size": group, "sym": True}
    if method == "awq":
        return {
            "type": "AutoAWQQuantizer",
            "data_config": "calibration",
            "w_bit": form.bits,
            "q_group_size": group,
        }
    rounding = {"w_bits": form.bits, "w_groupsize": group}
    if form.data:
        quarot: Manifest = {"type": "QuaRot", "w_gptq": True, "calibration_data_config": "calibration"}
        if (bytes_here := _bytes_here(absolute_input(form.data))) is not None:
            sequences = max(1, bytes_here // (length * BYTES_PER_TOKEN))  # it has at least so many
            if sequences < CALIBRATION_SAMPLES:
                quarot["calibration_nsamples"] = sequences
        return quarot | rounding
    return {"type": "QuaRot", "rotate": method == "quarot", "w_rtn": True} | rounding


def _data_config(name: str, uri: str, length: int) -> Manifest:
    sequences: Manifest = {"strategy": "join", "max_seq_len": length}
    if not _is_short(uri, length):
        sequences["max_samples"] = CALIBRATION_SAMPLES
    return {
        "name": name,
        "type": "HuggingfaceContainer",
        "load_dataset_config": {"data_name": uri},
        "pre_process_data_config": sequences,
    }


def _is_short(uri: str, length: int) -> bool:
    """Whether a text of this machine may have fewer than CALIBRATION_SAMPLES sequences."""
    size = _bytes_here(uri)
    return size is not None and size < CALIBRATION_SAMPLES * length * BYTES_PER_TOKEN


def _bytes_here(uri: str) -> int | None:
    """The size of a file of this machine."""
    path = Path(unquote(uri.removeprefix("file://"), errors="surrogateescape"))
    return path.stat().st_size if path.is_file() else None


def _metrics() -> list[Manifest]:
    return [
        {"name": "perplexity", "type": "perplexity", "data_config": "held_out"},
        {"name": "kl_divergence", "type": "kl_divergence", "data_config": "held_out"},
        {"name": "size_on_disk", "type": "size_on_disk"},
    ]


def _name(form: ShortForm) -> str:
    """A name for the job, made from that of the output."""
    last = form.output.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:63].rstrip("-") or "quantized"


def _invalid(message: str, hint: str) -> QuantizationError:
    return QuantizationError(Category.INVALID_WORKFLOW, message, hint)
