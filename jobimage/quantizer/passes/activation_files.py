"""The activations of a run on scratch: a store for each use, removed when the run ends."""

from collections.abc import Sequence
from pathlib import Path

import torch

from quantizer.decoder.activations import ActivationStore

KEPT_BYTES = 64_000_000
"""Smaller activations of a stage stay on scratch until the run ends, and the next layer overwrites them."""


class ActivationFiles:
    """Makes stores.

    Args:
        scratch: their directory.
        shapes: (sequences, tokens) of each batch of the calibration set. width: of the rows between layers.
        dtype, device: what they are computed in, and where.
    """

    def __init__(
        self,
        scratch: Path,
        shapes: Sequence[tuple[int, int]],
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._scratch, self._shapes, self._width = scratch, shapes, width
        self._dtype, self._device = dtype, device
        self._kept: set[Path] = set()

    def store(
        self, name: str, shapes: Sequence[tuple[int, int]], width: int, *, measured: bool = False
    ) -> ActivationStore:
        """A store of any shapes; see ActivationStore."""
        path = self._scratch / f"calibration.{name}"
        self._kept.add(path)
        return ActivationStore(path, shapes, width, self._dtype, self._device, KEPT_BYTES, measured=measured)

    def of_float(self, name: str, shapes: Sequence[tuple[int, int]], width: int) -> ActivationStore:
        """The same beside it, for the float model."""
        return self.store(f"float-{name}", shapes, width)

    def hidden(self) -> ActivationStore:
        """What lies between the layers; its largest value is known."""
        return self.store("hidden", self._shapes, self._width, measured=True)

    def copied(self, hidden: ActivationStore, name: str) -> ActivationStore:
        """A store of its own with the same activations."""
        copy = self.store(name, self._shapes, self._width)
        for number in range(len(hidden)):
            copy.write(number, hidden.read(number))
        return copy

    def clear(self) -> None:
        """Removes what is still there."""
        for path in self._kept:
            path.unlink(missing_ok=True)
