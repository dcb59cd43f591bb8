"""How far a run is, over all of its stages, and when it will end.

Every stage has a weight: an estimate of its work in one unit (see workload). The share that is done is
the weight of finished stages plus the finished part of the current one. The time to the end is estimated
from what stages have taken (see time_left), so a wrong unit cancels out and wrong proportions are corrected
as soon as a stage moves.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from quantization_api.pod import RunProgress
from quantization_api.status import Trials
from quantization_api.text import clean
from quantizer.progress.lines import Errors, Line, going_on_line, layer_line, stage_line, still_line
from quantizer.progress.time_left import Current, Finished, seconds_left

MIN_SHARE = 0.02
TOLD_AFTER = 3.0
"""Seconds after which a storage that does not answer is part of what is shown."""
MIN_SECONDS = 2.0
NOTICE_LIMIT = 1024
SILENT_SECONDS = 30.0
"""After which a stage that moves says how far it is."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a run."""

    name: str
    weight: float
    """Its estimated work."""
    fixed: float = 0.0
    """Seconds that it takes beside its work, however small that is."""


class Tracker:
    """Collects progress from the run and counts for the metrics; safe to read from other threads.

    Args:
        say: called in the run's thread with each line that says how it goes.
    """

    whole = "run"
    """What the lines call that which is tracked."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, say: Callable[[Line], None] = lambda _: None
    ) -> None:
        self._clock, self._say_line = clock, say
        self._lock = threading.Lock()
        self._started = clock()
        self._planned_at = self._started
        self._stages: list[PlannedStage] = []
        self._current = ""
        self._fraction = 0.0
        self._advanced = 0.0
        self._done: set[str] = set()
        self._layer = 0
        self._layers = 0
        self._kept = 0
        self._notice: str | None = None
        self._trials: Trials | None = None
        self._layer_at = self._said_at = self._started
        self._layer_seconds = 0.0
        self._percent = 0
        self._seconds: dict[str, float] = {}
        self._stage_started = self._started
        self._finished = False
        self._bytes: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._away_since: float | None = None

    def plan(self, stages: Sequence[PlannedStage]) -> None:
        """The stages that are to come, once the size of the work is known."""
        with self._lock:
            self._stages = list(stages)
            self._planned_at = self._clock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Everything inside belongs to the stage; its time is counted even if it fails."""
        with self._lock:
            self._current, self._fraction, self._stage_started = name, 0.0, self._clock()
            self._advanced = 0.0
            self._layer_at = self._stage_started
        self.say(stage_line(name))
        try:
            yield
        finally:
            with self._lock:
                spent = self._clock() - self._stage_started
                self._seconds[name] = self._seconds.get(name, 0.0) + spent
                self._done.add(name)
                self._fraction = 0.0

    def advance(self, done: float, total: float) -> None:
        """The current stage is done / total of its way."""
        with self._lock:
            self._fraction = min(1.0, done / total) if total else 0.0
            self._advanced = self._clock() - self._stage_started
            silent = self._clock() - self._said_at >= SILENT_SECONDS
        if silent:
            self.say(still_line(self.snapshot(), self.whole))

    def layers(self, layer: int, layers: int) -> None:
        """Decoder layers that are finished, and how many there are."""
        with self._lock:
            self._layer, self._layers = layer, layers
            now = self._clock()
            self._layer_seconds, self._layer_at = now - self._layer_at, now

    def layer_done(self, errors: Errors | None = None) -> None:
        """Says that the layer that `layers` named last was computed, in the time since the one before."""
        self.say(layer_line(self.snapshot(), self._layer_seconds, errors, self.whole))

    def notice(self, sentence: str) -> None:
        """Says what a person should know now and not at the end; it stays in the snapshots."""
        with self._lock:
            known, self._notice = self._notice, clean(sentence, NOTICE_LIMIT)
        if self._notice == known:
            return
        self.say(Line(sentence, notable=True))

    def searched(self, done: int, total: int, best: str | None) -> None:
        """How far a search has come, all its workers together."""
        with self._lock:
            self._trials = Trials(done=done, total=total, best=best)

    def going_on(self) -> None:
        """Says that the layers that are kept are not computed again."""
        self.say(going_on_line(self.kept, self._layers))

    def keep(self, layers: int) -> None:
        """Layers that are stored, and with which another run can go on."""
        with self._lock:
            self._kept = layers

    @property
    def kept(self) -> int:
        """Layers that are stored."""
        with self._lock:
            return self._kept

    def finish(self) -> None:
        """The run has succeeded."""
        with self._lock:
            self._finished = True

    def count_bytes(self, what: str, count: int) -> None:
        """Bytes that were read or written, by direction and kind, for the metrics."""
        with self._lock:
            self._bytes[what] = self._bytes.get(what, 0) + count

    def count_tokens(self, stage: str, count: int) -> None:
        """Tokens that a stage works on, for the metrics."""
        with self._lock:
            self._tokens[stage] = self._tokens.get(stage, 0) + count

    def storage_away(self, away: bool) -> None:
        """The storage is found to be away, or answers again."""
        with self._lock:
            self._away_since = self._clock() if away else None

    def share(self) -> float:
        """Share of the planned work that is done, 0 .. 1."""
        with self._lock:
            return self._share()

    def snapshot(self) -> RunProgress:
        """The progress as the operator and the user see it; percent never goes back, 100 is only the end."""
        with self._lock:
            share = self._share()
            self._percent = max(self._percent, 100 if self._finished else min(99, int(100 * share)))
            elapsed = self._clock() - self._planned_at
            eta: int | None = None
            if self._finished:
                eta = 0
            elif share >= MIN_SHARE and elapsed >= MIN_SECONDS:
                left = self._seconds_left()
                eta = None if left is None else max(1, round(left))
            return RunProgress(
                percent=self._percent,
                stage="done" if self._finished else self._shown_stage(),
                layer=self._layer,
                layers=self._layers,
                eta_seconds=eta,
                notice=self._notice,
                search=self._trials,
            )

    def seconds(self) -> dict[str, float]:
        """Seconds by stage, the current one as far as it is."""
        with self._lock:
            seconds = dict(self._seconds)
            if self._current and self._current not in self._done:
                spent = self._clock() - self._stage_started
                seconds[self._current] = seconds.get(self._current, 0.0) + spent
            return seconds

    def bytes(self) -> dict[str, int]:
        """Bytes by kind."""
        with self._lock:
            return dict(self._bytes)

    def tokens(self) -> dict[str, int]:
        """Tokens by stage."""
        with self._lock:
            return dict(self._tokens)

    def say(self, line: Line) -> None:
        """Says a line now."""
        with self._lock:
            self._said_at = self._clock()
        self._say_line(line)

    def _shown_stage(self) -> str:
        away = 0.0 if self._away_since is None else self._clock() - self._away_since
        if away < TOLD_AFTER:
            return self._current
        return f"{self._current}: storage unreachable for {away:.0f} s".removeprefix(": ")

    def _seconds_left(self) -> float | None:
        current, to_come, fixed, finished = None, 0.0, 0.0, []
        for stage in self._stages:
            if stage.name in self._done:
                finished.append(Finished(stage.weight, self._seconds[stage.name]))
            elif stage.name == self._current:
                elapsed = self._clock() - self._stage_started
                current = Current(stage.weight, self._fraction, self._advanced, elapsed, stage.fixed)
            else:
                to_come, fixed = to_come + stage.weight, fixed + stage.fixed
        return seconds_left(finished, current, to_come, fixed)

    def _share(self) -> float:
        total = sum(stage.weight for stage in self._stages)
        if total <= 0:
            return 0.0
        done = sum(stage.weight for stage in self._stages if stage.name in self._done)
        current = sum(
            stage.weight
            for stage in self._stages
            if stage.name == self._current and stage.name not in self._done
        )
        return (done + current * self._fraction) / total
