"""The tasks of a metric of type accuracy: their files, fetched, and what they ask of a model."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from quantization_api.failures import Category, QuantizationError
from quantization_api.metrics import Metric
from quantization_api.pod import RunRequest
from quantizer.boundary.packages import brings
from quantizer.calibration.tokens import copy_tokenizer
from quantizer.checkpoint.source import Source, read_whole
from quantizer.checkpoint.writer import scratch_errors
from quantizer.decoder.whole import require_room
from quantizer.evaluation.tasks.definitions import DATA_SUFFIXES, TASK_SUFFIXES
from quantizer.evaluation.tasks.requests import Reader, Requests, Suite
from quantizer.run.inputs import Model
from quantizer.run.setting import Setting
from quantizer.store.interface import DATA
from quantizer.store.location import Location, open_store
from quantizer.store.source import StoreSource

MOST_FILES, MOST_BYTES = 2000, 512_000_000
SMALLER = "Copy the tasks that are asked, with their data files, into a folder of their own."


@dataclass(frozen=True)
class AskedTasks:
    """The tasks of one metric, read and found to be of use."""

    suite: Suite
    reader: Reader
    requests: Requests
    revision: str
    """sha256 over the names and bytes of the files."""


def ask_tasks(
    metric: Metric, request: RunRequest, setting: Setting, model: Model, readable: Source
) -> AskedTasks:
    """Fetches the files of a metric's tasks and asks lm-eval what they want of the model.

    readable: the model, as the transformers of this image understands it.

    Raises:
        QuantizationError: DataNotFound for tasks that are not there or cannot be used; HostOutOfMemory for those that
            let a model write that does not fit; AccessDenied, StorageUnavailable.
    """
    with brings(
        "lm_eval", "metric type accuracy", "Leave it out, or write implementation: native in the pass."
    ):
        from quantizer.evaluation.tasks.harness import ask

    setting.stop_check()
    folder = setting.scratch / f"tasks-{metric.name}"
    size, revision = _fetch(metric.tasks_from or "", folder, request, setting)
    suite = Suite(
        folder,
        size,
        tuple(dict.fromkeys(metric.tasks or ())),
        metric.metric or "acc",
        metric.num_fewshot,
        metric.limit,
    )
    tokenizer, _ = copy_tokenizer(readable, setting.scratch)
    reader = Reader(tokenizer, model.layout.config, setting.scratch)
    try:
        requests = ask(suite, reader)
        if requests.prompts:  # better refused now than when everything is computed
            require_room(model.layout, torch.float32, setting.device)
        return AskedTasks(suite, reader, requests, revision)
    except QuantizationError as error:
        message = f"metric {metric.name}: {error.message}"
        raise QuantizationError(error.category, message, error.hint) from error


def _fetch(uri: str, folder: Path, request: RunRequest, setting: Setting) -> tuple[int, str]:
    """Copies task files and data files to scratch; returns their size and revision."""
    store = open_store(Location.of_input(uri), DATA, request.storage, setting.patience)
    source = StoreSource(store, DATA, lambda count: setting.tracker.count_bytes("read data", count))
    names = sorted(name for name in source.list() if name.endswith((*TASK_SUFFIXES, *DATA_SUFFIXES)))
    size = sum(source.list()[name] for name in names)
    if not any(name.endswith(TASK_SUFFIXES) for name in names):
        raise QuantizationError(
            Category.DATA_NOT_FOUND,
            f"tasks: {store.uri} has no YAML file",
            "Write in tasks_from the folder that the YAML files of the tasks lie in.",
        )
    if len(names) > MOST_FILES or size > MOST_BYTES:
        raise QuantizationError(
            Category.DATA_NOT_FOUND,
            f"tasks: {store.uri} has {len(names):,} files of {size:,} bytes; at most {MOST_FILES:,} files of "
            f"{MOST_BYTES:,} bytes are read",
            SMALLER,
        )
    digest = hashlib.sha256()
    for name in names:
        setting.stop_check()
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise QuantizationError(
                Category.DATA_NOT_FOUND, f"tasks: {name!a} is not a name of a file", SMALLER
            )
        data = read_whole(source, name, MOST_BYTES)
        digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\0".encode())
        with scratch_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return size, digest.hexdigest()
