"""The points of a search as one worker knows them: which there are, and how those ended that have."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from quantization_api.manifest import TrialRecord
from quantization_api.workflow import Workflow
from quantizer.boundary.packages import brings
from quantizer.search.front import Candidate, best, figures
from quantizer.search.known import Known
from quantizer.search.sampler import Stage, first_points, most_points, shuffled, stages
from quantizer.search.session import Session
from quantizer.search.space import Parameters, Point, shown
from quantizer.search.trials import Kept

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """A point that is tried."""

    number: int
    """In the order of the search, from 0."""
    point: Point
    recipe: str
    """"" where the contract refuses the point."""
    kept: Kept | None
    """How it ended; None while it has not."""

    @property
    def name(self) -> str:
        """What it chose."""
        return self.point.name

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to compute."""
        return self.record is not None

    @property
    def workflow(self) -> Workflow:
        """Of a point that can be computed."""
        if self.point.workflow is None:
            raise ValueError(self.point.refused)
        return self.point.workflow

    @property
    def shown_parameters(self) -> dict[str, bool | int | float | str | None]:
        """What it chose, as records have it."""
        return {
            name: shown(value) if isinstance(value, list) else value
            for name, value in self.point.parameters.items()
        }

    @property
    def record(self) -> TrialRecord | None:
        """How it ended, in the words of this search."""
        parameters = self.shown_parameters
        if self.point.workflow is None:
            return TrialRecord(
                number=self.number, parameters=parameters, state="Refused", said=self.point.refused
            )
        if self.kept is None:
            return None
        return self.kept.trial.model_copy(update={"number": self.number, "parameters": parameters})

    @property
    def candidate(self) -> Candidate | None:
        """The same, with what was measured."""
        record = self.record
        if record is None:
            return None
        figures_of = self.kept.figures if self.kept else []
        return Candidate(record, [one.measurement() for one in figures_of])


def candidates_of(points: Sequence[Chosen]) -> list[Candidate]:
    """Those points that have ended."""
    return [found for point in points if (found := point.candidate) is not None]


class Plan:
    """Which points are tried; every worker derives the same from the store of trials."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._strategy, self._space = session.strategy, session.space
        self._points: dict[str, Point] = {}
        self.most = most_points(self._space, self._strategy)
        """Points that are tried at most."""

    def points(self) -> list[Chosen]:
        """The points that were chosen so far, each once, in order."""
        slots = self._session.trials.slots() if self._strategy.sampler == "tpe" else []
        found: list[Parameters] = []
        for stage in self._stages(slots):
            found += self._tried(stage, slots)
        return self._chosen(found)

    def choose(self) -> bool:
        """Lets the sampler choose one more point; False when there is none to choose now."""
        if self._strategy.sampler != "tpe":
            return False
        slots = self._session.trials.slots()
        *_, stage = self._stages(slots)
        if len(slots) >= stage.before + stage.most:
            return False
        number = len(slots)
        parameters = self._suggested(stage, slots)
        if self._session.trials.choose(number, parameters):
            logger.info("point %d is %s", number, self._point(parameters).name)
        return True

    def _stages(self, slots: Sequence[Parameters]) -> list[Stage]:
        return list(stages(self._space, self._strategy, lambda stage: self._tried(stage, slots), self._best))

    def _tried(self, stage: Stage, slots: Sequence[Parameters]) -> list[Parameters]:
        if self._strategy.sampler == "tpe":
            return list(slots[stage.before : stage.before + stage.most])
        return first_points(stage.space, self._strategy.sampler, stage.most, self._strategy.seed)

    def _best(self, tried: Sequence[Parameters]) -> Parameters | None:
        """What the best of these chose; None while one has not ended, or none finished."""
        chosen = self._chosen(tried)
        found = candidates_of(chosen)
        if len(found) < len(chosen):
            return None
        first = best(found, self._session.metrics, whatever_goals=True)
        if first is None:
            return None
        return next(one.point.parameters for one in chosen if one.number == first.record.number)

    def _suggested(self, stage: Stage, slots: Sequence[Parameters]) -> Parameters:
        """One that none of the slots has, also where several mean the same point."""
        known = [self._known(point) for point in self._all(slots)]
        seed = self._strategy.seed + len(slots)
        with brings("optuna", "sampler tpe", "Write sampler: random."):
            from quantizer.search.optuna_sampler import suggest
        suggested = suggest(stage.space, known, 2, seed)
        if suggested is not None:
            return suggested
        order = shuffled(stage.space.size, min(stage.space.size, len(slots) + 1), seed)
        candidates = (stage.space.parameters(index) for index in order)
        return next(one for one in candidates if one not in slots)

    def _known(self, point: Chosen) -> Known:
        """What TPE is told of a point: its first metric and its size are minimized."""
        candidate = point.candidate
        if candidate is None:
            return Known(point.point.parameters)
        found = figures(candidate, self._session.metrics)
        values = None if found is None else (found[0], found[-1])
        return Known(point.point.parameters, values, ended=True)

    def _chosen(self, parameters: Sequence[Parameters]) -> list[Chosen]:
        """The points, each once."""
        found: dict[str, Chosen] = {}
        for one in self._all(parameters):
            found.setdefault(one.recipe or one.name, one)
        return list(found.values())

    def _all(self, parameters: Sequence[Parameters]) -> list[Chosen]:
        points = [self._point(one) for one in parameters]
        recipes = ["" if p.workflow is None else self._session.recipes.of(p.workflow) for p in points]
        known = self._session.trials.records({recipe for recipe in recipes if recipe})
        pairs = enumerate(zip(points, recipes, strict=True))
        return [Chosen(number, point, recipe, known.get(recipe)) for number, (point, recipe) in pairs]

    def _point(self, parameters: Parameters) -> Point:
        """The point, made once."""
        name = Point(parameters, None).name
        if name not in self._points:
            self._points[name] = self._space.point(parameters)
        return self._points[name]
