"""Where the input model ended on a text, kept on scratch for further evaluations: it is the same for all of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.model import DecoderModel


class Walked:
    """The hidden states after the last layer, by text. Use as a context manager, which removes them at its end.

    Of a model of width W, they take 4 W bytes for each token of each text.

    Args:
        folder: directory on scratch of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stores: dict[str, ActivationStore] = {}
        self._whole: set[str] = set()
        self._stack = ExitStack()

    def store(self, text: str, shapes: Sequence[tuple[int, int]], model: DecoderModel) -> ActivationStore:
        """The store for a text, by its name; to be filled unless it `has` it already."""
        if text not in self._stores:
            path = self._folder / f"{len(self._stores)}.hidden"
            store = ActivationStore(path, shapes, model.layout.width, model.dtype, model.device)
            self._stores[text] = self._stack.enter_context(store)
        return self._stores[text]

    def has(self, text: str) -> bool:
        """Whether the store of a text is filled."""
        return text in self._whole

    def filled(self, text: str) -> None:
        """Says that it is."""
        self._whole.add(text)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
