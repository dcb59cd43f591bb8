"""Sets up a run (device, scratch, progress server) and runs the workflow."""

import contextlib
import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from quantization_api.failures import Category, QuantizationError
from quantization_api.pod import SCRATCH_PATH, RunRequest
from quantizer.evaluation.serving.software import Pythons
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
from quantizer.run.scratch import make_scratch
from quantizer.run.setting import Setting
from quantizer.run.workflow import Outcome, run
from quantizer.store.interface import StopCheck
from quantizer.store.patience import Patience

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Here:
    """What a run has of this machine."""

    device: str = "auto"
    scratch: Path | None = None
    """Directory for temporary files; None: see scratch_parent."""
    listen: str | None = None
    """HOST:PORT of the progress server."""
    may_be_deaf: bool = False
    """Nobody asked for the server by name: where its port is taken, the run goes on without one."""


def execute(request: RunRequest, here: Here, tracker: Tracker, stop_check: StopCheck) -> Outcome:
    """Runs a request; what `stop_check` raises ends it."""
    logger.info("run of %s/%s", request.namespace, request.name)
    return_freed_memory()
    use_whole_vectors()
    torch.set_num_threads(cpu_share())
    device = choose_device(here.device)
    with contextlib.ExitStack() as stack:
        if server := progress_server(here, tracker, request):
            stack.enter_context(server)
        scratch = Path(stack.enter_context(make_scratch(scratch_parent(here.scratch))))
        patience = Patience(request.storage.patience_seconds, stop_check, tracker.storage_away)
        setting = Setting(
            scratch,
            device,
            tracker,
            stop_check,
            lambda: datetime.now(UTC),
            patience,
            Pythons.from_environment(),
        )
        if request.workflow.search_strategy is not None:
            from quantizer.search.worker import search

            return search(request, setting)
        return run(request, setting)


def scratch_parent(asked: Path | None) -> Path:
    """Where temporary files go: as asked, else the pod's scratch volume, else the machine's temporary directory."""
    if asked is not None:
        return asked
    volume = Path(SCRATCH_PATH)
    return volume if volume.is_dir() else Path(os.environ.get("TMPDIR", "/tmp"))


def progress_server(here: Here, tracker: Tracker, request: RunRequest) -> ProgressServer | None:
    """What says how far the run is; None without one.

    Raises:
        QuantizationError: the address is none, or it is taken and was asked for by name.
    """
    if not here.listen:
        return None
    host, _, port = here.listen.rpartition(":")
    if not host or not port.isdigit():
        raise QuantizationError(
            Category.INVALID_WORKFLOW, f"the listen address {here.listen} is not HOST:PORT"
        )
    collector = RunCollector(tracker, request.name, request.namespace, peak_memory, gpu_peak_memory)
    try:
        return ProgressServer(host.strip("[]"), int(port), tracker, registry_of(collector))
    except QuantizationError as error:  # another container of the pod has the port
        if not here.may_be_deaf:
            raise
        logger.warning("%s; the run goes on, and nobody can ask it how far it is", error.message)
        return None
