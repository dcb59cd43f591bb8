"""What the streaming loop asks of the place where finished layers are kept."""

from collections.abc import Mapping
from typing import Protocol

import torch
from typing_extensions import override

from quantizer.algorithms.grid import Scheme
from quantizer.passes.interface import FinishedLayer


class Finished(Protocol):
    """Layers that an earlier attempt finished, and where this one's go; see run.finished_layers."""

    @property
    def calibration_dtype(self) -> torch.dtype | None:
        """What they were computed in; None where there are none."""
        ...

    def load(self, index: int) -> FinishedLayer | None:
        """Layer `index`, or None."""
        ...

    def save(self, index: int, layer: FinishedLayer) -> None:
        """Keeps a layer."""
        ...

    def load_schemes(self) -> dict[str, Scheme] | None:
        """Bits and groups that an earlier attempt chose, by the full names of the linears, or None."""
        ...

    def save_schemes(self, schemes: Mapping[str, Scheme]) -> None:
        """Keeps such a choice."""
        ...


class NothingFinished(Finished):
    """A run that keeps nothing."""

    @property
    @override
    def calibration_dtype(self) -> None:
        return None

    @override
    def load(self, index: int) -> FinishedLayer | None:
        return None

    @override
    def save(self, index: int, layer: FinishedLayer) -> None:
        pass

    @override
    def load_schemes(self) -> None:
        return None

    @override
    def save_schemes(self, schemes: Mapping[str, Scheme]) -> None:
        pass
