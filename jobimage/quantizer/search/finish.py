"""The end of a search: the best point becomes the artifact, with the records of all points.

Every worker comes here; one of them publishes, the others find the artifact at the output. The model is copied from
the trials by the storage itself, and read back.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version

from quantization_api.failures import Category, QuantizationError
from quantization_api.manifest import (
    MANIFEST_NAME,
    MODEL_PREFIX,
    ONNX_PREFIX,
    TRIALS_PREFIX,
    Manifest,
    TrialRecord,
)
from quantization_api.search import SearchStrategy
from quantization_api.status import Trial, Trials
from quantizer.evaluation.advice import what_to_try
from quantizer.progress.trial import TrialTracker
from quantizer.report.differing import points_apart
from quantizer.run.publishing import make_result
from quantizer.run.workflow import Outcome, describe
from quantizer.search.computing import Computing
from quantizer.search.front import Candidate, front, missed, ranked
from quantizer.search.models import drop_model, wanted
from quantizer.search.plan import Chosen, candidates_of
from quantizer.search.session import SHOWN, Session, in_words
from quantizer.search.space import shown
from quantizer.store.artifact import ArtifactWriter
from quantizer.store.copying import copier
from quantizer.store.interface import OUTPUT
from quantizer.store.location import Location
from quantizer.store.manifests import parse_manifest
from quantizer.store.mark import look
from quantizer.store.obtaining import Asked, Obtained, already_there, obtain
from quantizer.store.small_objects import read_small

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
OPTUNA = "optuna"
NAMED = 3
MOST_SHOWN = 16


class Finish:
    """Publishes the result of a search, or finds it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._store = session.store(session.request.output.uri)
        self._asked = Asked(
            session.uid,
            session.name,
            session.recipes.whole,
            session.request.reuse == "Allowed",
            session.has_ended,
            waits=False,
        )

    def published(self) -> Obtained | None:
        """The artifact of this search, if it is there and may be reused, or is this job's own.

        Raises:
            QuantizationError: ArtifactConflict when something else is there.
        """
        found = already_there(self._store, replace(self._asked, reuse=True))
        if found is None:
            return None
        found = self._as_the_jobs(found)
        return found if self._asked.reuse or not found.found else None

    def publish(self, points: Sequence[Chosen]) -> Obtained:
        """Publishes the best point, unless another worker does.

        Raises:
            QuantizationError: QualityGoalMissed when no point meets all goals.
        """
        records = self._judged(points)
        if apart := points_apart(records):
            self._session.setting.tracker.notice(" ".join(apart))
        self._make_sure(points, records)
        while True:
            if (found := self.published()) is not None:
                return found
            try:
                made = obtain(
                    self._store, self._asked, lambda writer: self._write(writer, records), self._stop_check
                )
            except QuantizationError as error:
                if error.category is not Category.ARTIFACT_CONFLICT or not self._is_being_published():
                    raise
                time.sleep(LOOK_SECONDS)
            else:
                self._tidy(records)
                return self._as_the_jobs(made)

    def outcome(self, obtained: Obtained) -> Outcome:
        """The result of the run."""
        request, manifest = self._session.request, obtained.manifest
        result = make_result(request, manifest, obtained.data, obtained.found)
        trials = [_trial(record) for record in _best_first(manifest.trials)][:MOST_SHOWN]
        count = len(manifest.trials)
        best = next((in_words(record)[:SHOWN] for record in manifest.trials if record.best), None)
        search = Trials(done=count, total=count, best=best)
        return Outcome(result.model_copy(update={"trials": trials, "search": search}), manifest)

    def _as_the_jobs(self, obtained: Obtained) -> Obtained:
        """What one worker of this job made is not found, but made, for all of them."""
        return replace(obtained, found=obtained.manifest.owner != self._session.request.uid)

    def _judged(self, points: Sequence[Chosen]) -> list[TrialRecord]:
        """The records of all points, with the front and the choice."""
        session = self._session
        candidates = candidates_of(points)
        best = session.best(candidates)
        if best is None:
            raise _nothing_good(candidates, session)
        models = {one.record.number for one in wanted(session, candidates)}
        on_front = {one.record.number for one in front(candidates, session.metrics)}
        return [
            one.record.model_copy(
                update={
                    "on_front": one.record.number in on_front,
                    "best": one is best,
                    "model": _folder(one, best) if one.record.number in models else None,
                }
            )
            for one in candidates
        ]

    def _make_sure(self, points: Sequence[Chosen], records: Sequence[TrialRecord]) -> None:
        """Computes again what is to be published and is not there: another search did not want it."""
        by_number = {point.number: point for point in points}
        for record in records:
            if record.model is not None and record.recipe is not None:
                self._make_sure_of(by_number[record.number], record.recipe)

    def _make_sure_of(self, chosen: Chosen, recipe: str) -> None:
        while not self._session.trials.has_model(recipe) and self.published() is None:
            logger.info("computing %s again: its model was not kept", chosen.name)
            try:
                Computing(self._session).run(chosen, TrialTracker(self._session.setting.tracker, 0, 1))
            except QuantizationError as error:
                if error.category is not Category.ARTIFACT_CONFLICT:
                    raise
                time.sleep(LOOK_SECONDS)  # another worker does

    def _write(self, writer: ArtifactWriter, records: Sequence[TrialRecord]) -> tuple[Manifest, bytes]:
        session = self._session
        manifest: Manifest | None = None
        for record in records:
            if record.model is None or record.recipe is None:
                continue
            found = self._copy(
                writer, record.recipe, "" if record.best else f"{TRIALS_PREFIX}{record.number}/"
            )
            manifest = found if record.best else manifest
        if manifest is None:
            raise ValueError("no point was chosen")
        workflow = {**manifest.workflow, "evaluators": _dumped(session)["evaluators"]}
        manifest = manifest.model_copy(
            update={
                "recipe": session.recipes.whole,
                "owner": session.request.uid,
                "created": session.setting.now().strftime("%Y-%m-%dT%H:%M:%SZ"),
                "workflow": workflow,
                "searched": _dumped(session),
                "versions": manifest.versions | _sampled_with(session.strategy),
                "trials": list(records),
            }
        )
        describe(manifest, session.request.output.uri, writer)
        return writer.finish(manifest)

    def _copy(self, writer: ArtifactWriter, recipe: str, prefix: str) -> Manifest:
        """Copies the model of a point, and returns its manifest."""
        session = self._session
        place = session.place_of(recipe)
        store = session.store(place)
        small = read_small(store, MANIFEST_NAME)
        if small is None:
            raise OUTPUT.change(f"{place}/{MANIFEST_NAME}", "is gone")
        manifest = parse_manifest(store, small.data, Category.ARTIFACT_CORRUPT)
        setting = session.setting
        copy = copier(
            Location.parse(place),
            Location.parse(session.request.output.uri),
            session.request.storage,
            setting.patience,
            setting.scratch,
            writer.check,
        )
        for item in manifest.objects:
            if item.key.startswith((MODEL_PREFIX, ONNX_PREFIX)):
                writer.take(f"{prefix}{item.key}", item, partial(copy, item.key))
        return manifest

    def _tidy(self, records: Sequence[TrialRecord]) -> None:
        """Removes models from the trials that are at the output now; a shared place of trials keeps them."""
        if self._session.request.output.trials_uri is not None:
            return
        for record in records:
            if record.model is not None and record.recipe is not None:
                drop_model(self._session, record.recipe)

    def _is_being_published(self) -> bool:
        """Whether another worker holds the output, or has just published there."""
        seen = look(self._store)
        if seen is None:
            return self.published() is not None
        if seen.mark.recipe != self._asked.recipe:
            return False
        self._session.watch.is_alive(self._asked.recipe, seen.version, seen.mark.uid)
        return True

    def _stop_check(self) -> None:
        self._session.setting.stop_check()


def _folder(one: Candidate, best: Candidate) -> str:
    return MODEL_PREFIX if one is best else f"{TRIALS_PREFIX}{one.record.number}/{MODEL_PREFIX}"


def _dumped(session: Session) -> dict[str, object]:
    return session.request.workflow.model_dump(mode="json", by_alias=True, exclude_none=True)


def _sampled_with(strategy: SearchStrategy) -> dict[str, str]:
    """The package that chose the points, with its version, where one did."""
    return {OPTUNA: version(OPTUNA)} if strategy.sampler == "tpe" else {}


def _best_first(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The chosen point, the rest of the front, the other finished ones, and then those that did not finish."""
    return sorted(
        records, key=lambda one: (not one.best, not one.on_front, one.state != "Finished", one.number)
    )


def _trial(record: TrialRecord) -> Trial:
    return Trial(
        parameters=",".join(f"{key}={shown(value)}" for key, value in record.parameters.items())[:1024],
        state=record.state,
        metrics=record.metrics,
        size_bytes=record.size_bytes,
        on_front=record.on_front,
        best=record.best,
    )


def _nothing_good(candidates: Sequence[Candidate], session: Session) -> QuantizationError:
    """The error when no point can be chosen: the nearest ones and by how much they miss, or why none finished."""
    order, count = ranked(candidates, session.metrics), len(candidates)
    if not order:
        said = list(dict.fromkeys(one.record.said for one in candidates))[:NAMED]
        failed = any(one.record.state == "Failed" for one in candidates)
        return QuantizationError(
            Category.NUMERICAL_FAILURE if failed else Category.INVALID_WORKFLOW,
            f"none of the {count} points of the search could be computed: {'; '.join(said)}",
            "Change the values in search_space, or the passes.",
        )
    misses = {one.record.number: missed(one, session.metrics) for one in order[:NAMED]}
    nearest = [
        f"{_trial(one.record).parameters} ({'; '.join(miss.said for miss in misses[one.record.number])})"
        for one in order[:NAMED]
    ]
    point = session.request.workflow.model_copy(update={"search_strategy": None})
    return QuantizationError(
        Category.QUALITY_GOAL_MISSED,
        f"none of the {count} points of the search meets all goals; nearest: {'; '.join(nearest)}",
        what_to_try(point, misses[order[0].record.number]),
    )
