"""What one worker of a search has: the request, the space, the inputs it opened, and its view of the trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from quantization_api.manifest import TrialRecord
from quantization_api.metrics import Metric
from quantization_api.pod import RunRequest
from quantization_api.search import SearchStrategy
from quantizer.run.checks import Opened
from quantizer.run.local_identity import has_ended
from quantizer.run.setting import Setting
from quantizer.search.front import Candidate, best
from quantizer.search.recipes import Recipes
from quantizer.search.space import Space, shown
from quantizer.search.trials import Trials, Watch, counts
from quantizer.store.interface import OUTPUT, Store
from quantizer.store.location import Location, open_store
from quantizer.store.mark import worker_of

SHOWN = 256


@dataclass(frozen=True)
class Session:
    """One worker's part of a search."""

    request: RunRequest
    setting: Setting
    strategy: SearchStrategy
    space: Space
    opened: Opened
    recipes: Recipes
    trials: Trials
    watch: Watch

    @classmethod
    def open(cls, request: RunRequest, setting: Setting) -> "Session":
        """Opens the model and the texts.

        Raises:
            QuantizationError: what is wrong with them.
        """
        strategy = request.workflow.search_strategy
        if strategy is None:
            raise ValueError("not a request for a search")
        opened, watch = Opened(), Watch()
        recipes = Recipes(request, setting, opened)
        place = Location.parse(request.output.trials_place)
        trials = Trials(
            lambda below: open_store(
                place.child(below) if below else place, OUTPUT, request.storage, setting.patience
            ),
            recipes.whole,
            worker_of(request.uid),
            lambda kept: counts(kept, request.uid, reuse=request.reuse == "Allowed"),
            has_ended,
            watch,
        )
        return cls(request, setting, strategy, Space.of(request.workflow), opened, recipes, trials, watch)

    @property
    def uid(self) -> str:
        """The identity of this worker."""
        return worker_of(self.request.uid)

    @property
    def name(self) -> str:
        """The job, for claims."""
        return f"{self.request.namespace}/{self.request.name}"

    @cached_property
    def metrics(self) -> list[Metric]:
        """Those of the workflow, with their goals."""
        return self.request.workflow.metrics()

    def has_ended(self, uid: str) -> bool:
        """Whether a worker is known to be gone."""
        return has_ended(uid) or uid in self.watch.dead

    def store(self, uri: str) -> Store:
        """A place to write to."""
        return open_store(Location.parse(uri), OUTPUT, self.request.storage, self.setting.patience)

    def place_of(self, recipe: str) -> str:
        """Where the artifact of a point lies."""
        return f"{self.request.output.trials_place.rstrip('/')}/{recipe.removeprefix('sha256:')}"

    def best(self, candidates: Sequence[Candidate]) -> Candidate | None:
        """The point to choose of these; None where none meets all goals."""
        return best(candidates, self.metrics)

    def best_in_words(self, candidates: Sequence[Candidate]) -> str | None:
        """The best of these points and its first metric."""
        found = best(candidates, self.metrics)
        return None if found is None else in_words(found.record)[:SHOWN]


def in_words(record: TrialRecord) -> str:
    """What a point chose, and its first metric or how it ended."""
    chosen = ",".join(f"{key}={shown(value)}" for key, value in record.parameters.items())
    if not record.metrics:
        return f"{chosen}: {record.state.lower()} ({record.said})"
    first = record.metrics[0]
    return f"{chosen}: {first.name} {first.output:.5g}"
