"""One point of a search, computed as a run of its own, and what is kept of it."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import TrialRecord
from quantization_api.spec import Output
from quantization_api.status import TrialState
from quantizer.evaluation.measurement import Measurement
from quantizer.evaluation.serving.child import ServerFailedError
from quantizer.evaluation.walked import Walked
from quantizer.progress.lines import Line, duration
from quantizer.progress.trial import TrialTracker
from quantizer.run.setting import OnLayer
from quantizer.run.workflow import Outcome, run
from quantizer.search.early import Judge, StoppedEarlyError
from quantizer.search.models import drop_model, drop_unwanted
from quantizer.search.plan import Chosen, candidates_of
from quantizer.search.session import Session, in_words
from quantizer.search.trials import Figure, Kept, LayerFigures

LOOKS, LOOK_SECONDS = 5, 1.0
"""At the record of a point whose artifact is there: it is written right after."""
ENDS_A_TRIAL: dict[Category, TrialState] = {
    Category.NUMERICAL_FAILURE: "Failed",
    Category.DATA_INSUFFICIENT: "Failed",
    Category.GPU_OUT_OF_MEMORY: "Failed",
    Category.INVALID_WORKFLOW: "Refused",
    Category.MODEL_UNSUPPORTED: "Refused",
}
"""Categories that are a point's own, and its state then. All others end the worker: another try may do better."""


class Computing:
    """Computes points for one worker, which opens the model and the texts, and runs the input model on them, once."""

    def __init__(self, session: Session, walked: Walked | None = None) -> None:
        self._session, self._walked = session, walked
        self._dropped: set[str] = set()

    def compute(self, chosen: Chosen, points: Sequence[Chosen]) -> None:
        """Computes a point and keeps how it ended; removes models that are no longer among the best.

        Raises:
            QuantizationError: ArtifactConflict when another worker has the point; what ends a worker.
        """
        session = self._session
        started, began = session.setting.now(), time.monotonic()
        kept = self._ended(chosen, points)
        if kept is None:
            return
        trial = kept.trial.model_copy(
            update={
                "number": chosen.number,
                "parameters": chosen.shown_parameters,
                "recipe": chosen.recipe,
                "seconds": round(time.monotonic() - began, 3),
                "started": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "worker": session.uid,
            }
        )
        kept = kept.model_copy(update={"trial": trial})
        told = session.trials.keep(chosen.recipe, kept)
        if trial.state != "Finished":
            drop_model(session, chosen.recipe)
        if told:
            self._say(trial)
        drop_unwanted(session, candidates_of([*points, replace(chosen, kept=kept)]), self._dropped)

    def _ended(self, chosen: Chosen, points: Sequence[Chosen]) -> Kept | None:
        """How a point ended; None where another worker made it and says so."""
        done = sum(point.has_ended for point in points)
        self._session.setting.tracker.say(Line(f"trial {chosen.number}: {chosen.name} begins"))
        judge, measured = self._judge(chosen, points), list[Measurement]()
        try:
            tracker = TrialTracker(self._session.setting.tracker, done, len(points))
            outcome = self.run(chosen, tracker, judge, measured.extend)
        except StoppedEarlyError as stopped:
            return Kept(trial=_trial("Stopped", str(stopped)))
        except QuantizationError as error:
            if (state := _end_by(error)) is None:
                raise
            return Kept(trial=_trial(state, error.message), category=error.category)
        if self._is_told_by_another(chosen.recipe, outcome):
            return None
        return _finished(outcome, judge, measured)

    def run(
        self,
        chosen: Chosen,
        tracker: TrialTracker,
        on_layer: OnLayer = lambda *_: None,
        on_measured: Callable[[Sequence[Measurement]], None] = lambda _: None,
    ) -> Outcome:
        """The run of a point."""
        session = self._session
        request = session.request.model_copy(
            update={
                "uid": session.uid,
                "workflow": chosen.workflow,
                "output": Output(uri=session.place_of(chosen.recipe)),
            }
        )
        scratch = session.setting.scratch / "trial"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        setting = replace(
            session.setting,
            scratch=scratch,
            tracker=tracker,
            has_ended=session.has_ended,
            on_layer=on_layer,
            on_measured=on_measured,
            walked=self._walked,
            reports=False,
        )
        return run(request, setting, session.opened, waits=False)

    def _is_told_by_another(self, recipe: str, outcome: Outcome) -> bool:
        """Whether another worker, which published a moment ago and let go, writes how the point ended."""
        if outcome.result.artifact is None or outcome.result.artifact.reused_from is None:
            return False
        for _ in range(LOOKS):
            if self._session.trials.records([recipe]):
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def _judge(self, chosen: Chosen, points: Sequence[Chosen]) -> Judge:
        kinds = _kinds(chosen)
        others: dict[str, Sequence[LayerFigures]] = {
            point.name: point.kept.layers
            for point in points
            if point.kept and point.kept.layers and _kinds(point) == kinds
        }
        layers = self._session.recipes.model.layout.layers
        return Judge(others if self._session.strategy.stop_early else {}, layers)

    def _say(self, trial: TrialRecord) -> None:
        took = duration(trial.seconds or 0.0)
        line = f"trial {trial.number}: {in_words(trial)} in {took}"
        self._session.setting.tracker.say(Line(line, notable=True))


def _kinds(point: Chosen) -> list[str]:
    return [item.type for item in point.workflow.passes]


def _end_by(error: QuantizationError) -> TrialState | None:
    """How an error ends its point; None where it ends the worker.

    A server that died took nothing of the worker with it. Of the input model, it would die at every point.
    """
    if isinstance(error, ServerFailedError):
        return "Failed" if error.of_result else None
    return ENDS_A_TRIAL.get(error.category)


def _trial(state: TrialState, said: str) -> TrialRecord:
    return TrialRecord(number=0, parameters={}, state=state, said=said)


def _finished(outcome: Outcome, judge: Judge, measured: Sequence[Measurement]) -> Kept:
    """What the search needs of a point's artifact.

    Where the artifact was found, with the worker that made it gone before it said so, nothing was measured here: the
    values are known, and goals are judged without intervals.
    """
    artifact, metrics = outcome.result.artifact, outcome.result.metrics
    if artifact is None:
        raise ValueError("a run that ended well has an artifact")
    trial = _trial("Finished", "").model_copy(
        update={
            "metrics": metrics,
            "size_bytes": artifact.size_bytes,
            "bits_per_weight": outcome.manifest.bits_per_weight,
        }
    )
    figures = [Figure.of(one) for one in measured] or [
        Figure(before=one.input, after=one.output) for one in metrics if one.output is not None
    ]
    return Kept(trial=trial, figures=figures, layers=judge.layers)
