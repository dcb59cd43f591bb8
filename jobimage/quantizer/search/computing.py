"""One point of a search, computed as a run of its own, and what is kept of it."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import TrialRecord
from quantization_api.spec import Output
from quantization_api.status import TrialState
from quantizer.progress.lines import Line, duration
from quantizer.progress.trial import TrialTracker
from quantizer.run.checks import Setting
from quantizer.run.workflow import Outcome, run
from quantizer.search.early import Judge, StoppedEarlyError
from quantizer.search.models import drop_model, drop_unwanted
from quantizer.search.session import Session, in_words
from quantizer.search.trials import Kept, LayerFigures

if TYPE_CHECKING:
    from quantizer.search.plan import Chosen

ENDS_A_TRIAL: dict[Category, TrialState] = {
    Category.NUMERICAL_FAILURE: "Failed",
    Category.DATA_INSUFFICIENT: "Failed",
    Category.INVALID_WORKFLOW: "Refused",
    Category.MODEL_UNSUPPORTED: "Refused",
}
"""Categories that are a point's own, and its state then. All others end the worker: another try may do better."""


class Computing:
    """Computes points for one worker, which opens the model and the texts once."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def compute(self, chosen: "Chosen", points: Sequence["Chosen"]) -> None:
        """Computes a point and keeps how it ended; removes models that are no longer among the best.

        Raises:
            QuantizationError: ArtifactConflict when another worker has the point; what ends a worker.
        """
        session = self._session
        done = sum(point.has_ended for point in points)
        judge = self._judge(chosen, points)
        started, began = session.setting.now(), time.monotonic()
        kept: Kept
        try:
            outcome = self.run(chosen, TrialTracker(session.setting.tracker, done, len(points)), judge)
            kept = Kept(trial=_finished(outcome), layers=judge.layers if judge else [])
        except StoppedEarlyError as stopped:
            kept = Kept(trial=TrialRecord(number=0, parameters={}, state="Stopped", said=str(stopped)))
        except QuantizationError as error:
            if error.category not in ENDS_A_TRIAL:
                raise
            state = ENDS_A_TRIAL[error.category]
            kept = Kept(
                trial=TrialRecord(number=0, parameters={}, state=state, said=error.message),
                category=error.category,
            )
        trial = kept.trial.model_copy(
            update={
                "number": chosen.number,
                "parameters": dict(chosen.point.parameters),
                "recipe": chosen.recipe,
                "seconds": round(time.monotonic() - began, 3),
                "started": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "worker": session.uid,
            }
        )
        session.trials.keep(chosen.recipe, kept.model_copy(update={"trial": trial}))
        if trial.state != "Finished":
            drop_model(session, chosen.recipe)
        self._say(trial)
        drop_unwanted(session, points, trial)

    def run(self, chosen: "Chosen", tracker: TrialTracker, judge: Judge | None) -> Outcome:
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
        setting: Setting = replace(
            session.setting, scratch=scratch, tracker=tracker, has_ended=session.has_ended
        )
        if judge is not None:
            setting = replace(setting, on_layer=judge)
        return run(request, setting, session.opened, waits=False)

    def _judge(self, chosen: "Chosen", points: Sequence["Chosen"]) -> Judge:
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
        words = in_words(trial, self._session.metrics)
        self._session.setting.tracker.say(Line(f"trial {trial.number + 1}: {words} in {took}", notable=True))


def _kinds(point: "Chosen") -> list[str]:
    return [item.type for item in point.workflow.passes]


def _finished(outcome: Outcome) -> TrialRecord:
    """What the search needs of a point's artifact."""
    artifact = outcome.result.artifact
    if artifact is None:
        raise ValueError("a run that ended well has an artifact")
    return TrialRecord(
        number=0,
        parameters={},
        state="Finished",
        metrics=outcome.result.metrics,
        size_bytes=artifact.size_bytes,
        bits_per_weight=outcome.manifest.bits_per_weight,
    )
