"""The progress of one point of a search, within that of the search."""

from quantizer.progress.tracker import Tracker


class TrialTracker(Tracker):
    """Tracks one point; what it counts, the search counts too.

    Args:
        search: the tracker of the search. done: points that have ended. total: points in all.
    """

    whole = "trial"

    def __init__(self, search: Tracker, done: int, total: int) -> None:
        super().__init__(say=search.say)
        self._search, self._before, self._total = search, done, total

    def advance(self, done: float, total: float) -> None:
        """As a tracker's, and the search's with it."""
        super().advance(done, total)
        self._search.advance(self._before + self.share(), self._total)

    def layers(self, layer: int, layers: int) -> None:
        """As a tracker's, and the search's with it."""
        super().layers(layer, layers)
        self._search.layers(layer, layers)

    def count_bytes(self, what: str, count: int) -> None:
        """As a tracker's, and the search's with it."""
        super().count_bytes(what, count)
        self._search.count_bytes(what, count)

    def count_tokens(self, stage: str, count: int) -> None:
        """As a tracker's, and the search's with it."""
        super().count_tokens(stage, count)
        self._search.count_tokens(stage, count)

    def notice(self, sentence: str) -> None:
        """As a tracker's; said once for all points."""
        self._search.notice(sentence)
