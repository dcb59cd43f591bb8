"""Where and how a run computes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import torch

from quantizer.evaluation.measurement import Measurement
from quantizer.evaluation.serving.software import Pythons
from quantizer.evaluation.walked import Walked
from quantizer.passes.interface import FinishedLayer
from quantizer.progress.tracker import Tracker
from quantizer.run import serving
from quantizer.run.local_identity import has_ended
from quantizer.store.interface import StopCheck
from quantizer.store.patience import Patience

OnLayer = Callable[[int, FinishedLayer], None]
"""Called with a decoder layer's number and what it became."""


@dataclass(frozen=True)
class Setting:
    """Where and how a run computes; nothing here changes the result."""

    scratch: Path
    """Directory of this run."""
    device: torch.device
    tracker: Tracker
    stop_check: StopCheck
    """Called often; what it raises ends the run."""
    now: Callable[[], datetime]
    patience: Patience = field(default_factory=Patience)
    """With a storage that cannot be reached, shared by all stores of the run."""
    pythons: Pythons = field(default_factory=Pythons)
    """Of the software in which speed is measured."""
    has_ended: Callable[[str], bool] = has_ended
    """Whether the process that claimed an output is known to be gone."""
    on_layer: OnLayer = lambda *_: None
    """Called after each layer that was computed; what it raises ends the run."""
    on_measured: Callable[[Sequence[Measurement]], None] = lambda _: None
    """Called with what was measured, by metric of the workflow."""
    walked: Walked | None = None
    """Where the input model ended on texts, for a search's points; None: it is run for each evaluation."""
    reports: bool = True
    """Whether the artifact has a model card and a report; nobody reads those of a search's points."""

    @property
    def machine(self) -> serving.Machine:
        """What a server gets."""
        return serving.Machine(self.device, self.pythons, self.scratch, self.stop_check)
