"""Sets up a run (request, device, scratch, progress) and runs the workflow."""

import argparse
import contextlib
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import torch
from pydantic import ValidationError
from rich.console import Console

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import PROGRESS_PORT, REQUEST_ENV, SCRATCH_PATH, RunRequest
from quantizer.boundary.reading import reading
from quantizer.cli.manifest_file import describe, load_request, reached_by
from quantizer.cli.screen import progress_bar
from quantizer.cli.termination import Terminated
from quantizer.machine import (
    choose_device,
    cpu_share,
    gpu_peak_memory,
    peak_memory,
    return_freed_memory,
    use_whole_vectors,
)
from quantizer.progress.metrics import RunCollector, registry_of
from quantizer.progress.server import ProgressServer
from quantizer.progress.tracker import Tracker
from quantizer.run.checks import Setting
from quantizer.run.scratch import make_scratch
from quantizer.run.workflow import Outcome, run
from quantizer.store.patience import Patience

logger = logging.getLogger(__name__)

POD_LISTEN = f"0.0.0.0:{PROGRESS_PORT}"  # inside the pod's own network namespace, where the operator polls
LISTEN_ENV = "QUANTIZATION_LISTEN"


def execute(
    options: argparse.Namespace, in_pod: bool, stopping: threading.Event, console: Console
) -> Outcome:
    """Runs what the options ask for; `stopping` ends the run at its next stop check."""
    request = _request(options, in_pod)
    logger.info("run of %s/%s", request.namespace, request.name)

    def stop_check() -> None:
        if stopping.is_set():
            raise Terminated

    return_freed_memory()
    use_whole_vectors()
    torch.set_num_threads(cpu_share())
    device = choose_device(options.device)
    tracker = Tracker()
    listen = options.listen or os.environ.get(LISTEN_ENV) or (POD_LISTEN if in_pod else None)
    with contextlib.ExitStack() as stack:
        if listen:
            stack.enter_context(_server(listen, tracker, request))
        if not in_pod:
            stack.enter_context(progress_bar(tracker, console))
        scratch = Path(stack.enter_context(make_scratch(scratch_parent(options.scratch))))
        patience = Patience(request.storage.patience_seconds, stop_check, tracker.storage_away)
        return run(
            request, Setting(scratch, device, tracker, stop_check, lambda: datetime.now(UTC), patience)
        )


def scratch_parent(asked: Path | None) -> Path:
    """Where temporary files go: as asked, else the pod's scratch volume, else the machine's temporary directory."""
    if asked is not None:
        return asked
    volume = Path(SCRATCH_PATH)
    return volume if volume.is_dir() else Path(os.environ.get("TMPDIR", "/tmp"))


def _request(options: argparse.Namespace, in_pod: bool) -> RunRequest:
    if not in_pod:
        request = load_request(options.filename, options.endpoint, options.region)
        return request.model_copy(update={"default_calibration": options.default_calibration})
    with reading(Category.INVALID_WORKFLOW, f"the request in {REQUEST_ENV}"):
        try:
            request = RunRequest.model_validate_json(os.fsencode(os.environ[REQUEST_ENV]))
        except ValidationError as error:
            raise ValueError(describe(error)) from error
    return reached_by(request, options.endpoint, options.region)


def _server(listen: str, tracker: Tracker, request: RunRequest) -> ProgressServer:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise QuantizationError(Category.INVALID_WORKFLOW, f"the listen address {listen} is not HOST:PORT")
    collector = RunCollector(tracker, request.name, request.namespace, peak_memory, gpu_peak_memory)
    return ProgressServer(host.strip("[]"), int(port), tracker, registry_of(collector))
