"""Where and how a run computes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import torch

from quantizer.evaluation.serving.software import Pythons
from quantizer.progress.tracker import Tracker
from quantizer.run import serving
from quantizer.store.interface import StopCheck
from quantizer.store.patience import Patience


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

    @property
    def machine(self) -> serving.Machine:
        """What a server gets."""
        return serving.Machine(self.device, self.pythons, self.scratch, self.stop_check)
