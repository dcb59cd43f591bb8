"""What evaluations of a search's points share: where the input model ended on a text, and the figures of RTN on it."""

from collections.abc import Hashable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.model import DecoderModel
from quantizer.evaluation.figures import Evaluation


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
        self._rtn: dict[tuple[str, tuple[Hashable, ...]], Evaluation] = {}
        self._stack = ExitStack()

    def store(self, text: str, shapes: Sequence[tuple[int, int]], model: DecoderModel) -> ActivationStore:
        """The store for a text, by its name; to be filled unless it `has` it already."""
        if text not in self._stores:
            path = self._folder / f"{len(self._stores)}.hidden"
            width = model.layout.stream.widest(shapes)
            store = ActivationStore(path, shapes, width, model.dtype, model.device)
            self._stores[text] = self._stack.enter_context(store)
        return self._stores[text]

    def has(self, text: str) -> bool:
        """Whether the store of a text is filled."""
        return text in self._whole

    def filled(self, text: str) -> None:
        """Says that it is."""
        self._whole.add(text)

    def rtn(self, text: str, rule: tuple[Hashable, ...]) -> Evaluation | None:
        """The figures of RTN by a rule (see RtnBaseline) on a text; None where they were not measured yet."""
        return self._rtn.get((text, rule))

    def keep_rtn(self, text: str, rule: tuple[Hashable, ...], found: Evaluation) -> None:
        """Keeps such figures."""
        self._rtn[text, rule] = found

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
