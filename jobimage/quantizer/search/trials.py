"""The store of trials: all that workers of a search, and searches at the same place, share.

    <trials>/<recipe>/               a point: an artifact like any other, claimed and resumed like any other
    <trials>/<recipe>.json           how it ended; written once, when that is known
    <trials>/<search>/<recipe>.json  a point that this search gave up early, or that failed in it
    <trials>/<search>/slot-0007.json which point the 8th one of the search is, where a sampler chooses

A recipe and a search are named by the hexadecimal digits of their digests. Nobody coordinates: every write is
conditional, and whoever finds a point without a record whose claim is free may compute it.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from quantization_api.failures import Category
from quantization_api.manifest import TrialRecord
from quantizer.evaluation.intervals import Ratio
from quantizer.evaluation.measurement import Measurement
from quantizer.search.space import Parameters
from quantizer.store.claim import PATIENCE_SECONDS
from quantizer.store.interface import PreconditionFailedError, Store
from quantizer.store.mark import CLAIM_NAME, look, works_for
from quantizer.store.small_objects import read_small

OUT_OF_MEMORY = (Category.GPU_OUT_OF_MEMORY, Category.HOST_OUT_OF_MEMORY)
RECORD_BYTES = 16 * 1024 * 1024
OpenStore = Callable[[str], Store]
"""The store at a place below the trials: "" is their root."""


class LayerFigures(BaseModel):
    """What one decoder layer of a point became: what others are compared with while they are computed."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    error: float
    """Mean error of its linears (see LinearReport)."""
    size: int
    """Bytes of its tensors."""


class Figure(BaseModel):
    """What was measured of a point in one metric, with all that judging a goal takes: goals differ between searches."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    before: float | None
    after: float
    sums: tuple[list[float], list[float], list[float], list[float]] | None = None
    """Of the ratios before and after: above and below, by sequence; None: the figure is exact."""
    exponential: bool = False
    """The figures are the exponentials of the ratios."""

    @classmethod
    def of(cls, measured: Measurement) -> "Figure":
        """What is kept of a measurement."""
        if measured.ratios is None:
            return cls(before=measured.before, after=measured.after)
        one, two = measured.ratios
        sums = (one.above.tolist(), one.below.tolist(), two.above.tolist(), two.below.tolist())
        return cls(before=measured.before, after=measured.after, sums=sums, exponential=two.finish is np.exp)

    def measurement(self) -> Measurement:
        """The measurement, as it was."""
        if self.sums is None:
            return Measurement(self.before, self.after)
        finish = np.exp if self.exponential else (lambda value: value)
        above, below, above_after, below_after = (np.array(one) for one in self.sums)
        return Measurement.of(Ratio(above, below, finish), Ratio(above_after, below_after, finish))


class Kept(BaseModel):
    """What is kept of a point for good."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    trial: TrialRecord
    figures: list[Figure] = []
    """By metric of the workflow; empty where it did not finish."""
    category: str = ""
    """Of the failure, for a point that did not finish."""
    layers: list[LayerFigures] = []


def counts(kept: Kept, job: str, *, reuse: bool) -> bool:
    """Whether a record is one for a job with this uid: its own, or one that it may reuse.

    What did not fit one job's memory may fit another's.
    """
    if works_for(job, kept.trial.worker or ""):
        return True
    return reuse and kept.category not in OUT_OF_MEMORY


class _Slot(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    parameters: Parameters


def hex_of(digest: str) -> str:
    """The digits of a digest."""
    return digest.removeprefix("sha256:")


@dataclass
class Watch:
    """Which claims of other workers are alive: a claim that changes is, one that stays as it is for long is not."""

    clock: Callable[[], float] = time.monotonic
    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    """By recipe: the version of the claim, and since when it has been that."""
    dead: set[str] = field(default_factory=set)
    """Identities whose claim stood still."""

    def is_alive(self, recipe: str, version: str, uid: str) -> bool:
        """Whether the owner of a claim that is seen now may be working."""
        before, since = self.seen.get(recipe, ("", 0.0))
        if version != before:
            self.seen[recipe] = (version, self.clock())
            self.dead.discard(uid)
            return True
        if self.clock() - since < PATIENCE_SECONDS:
            return True
        self.dead.add(uid)
        return False


class Trials:
    """The trials of one search, as one worker sees them.

    Args:
        open_store: opens the store at a place below the trials.
        search: recipe digest of the workflow with the search.
        uid: of this worker.
        counts: whether a record of this place is one for this search.
        has_ended: whether the process with a uid is known to be gone.
    """

    def __init__(
        self,
        open_store: OpenStore,
        search: str,
        uid: str,
        counts: Callable[[Kept], bool],
        has_ended: Callable[[str], bool],
        watch: Watch,
    ) -> None:
        self.open_store, self._root = open_store, open_store("")
        self._own = f"{hex_of(search)}/"
        self._uid, self._counts, self._has_ended, self._watch = uid, counts, has_ended, watch
        self._records: dict[str, Kept] = {}

    def records(self, recipes: Collection[str]) -> dict[str, Kept]:
        """Of these points, those that have ended, by recipe. A record never changes, so each is read once."""
        listing = self._root.list()
        for recipe in recipes:
            if recipe in self._records:
                continue
            for key in (f"{hex_of(recipe)}.json", f"{self._own}{hex_of(recipe)}.json"):
                if key in listing and (kept := self._read(key)) is not None:
                    self._records[recipe] = kept
        return {recipe: self._records[recipe] for recipe in recipes if recipe in self._records}

    def pending(self, recipes: Collection[str]) -> set[str]:
        """Of these points, those that other workers compute now."""
        listing = self._root.list()
        claimed = [recipe for recipe in recipes if f"{hex_of(recipe)}/{CLAIM_NAME}" in listing]
        return {recipe for recipe in claimed if self._is_computed(recipe)}

    def keep(self, recipe: str, kept: Kept) -> bool:
        """Writes how a point ended; False if another worker did. What only this search decided is its own."""
        shared = kept.trial.state == "Finished"
        key = f"{hex_of(recipe)}.json" if shared else f"{self._own}{hex_of(recipe)}.json"
        data = kept.model_dump_json(indent=1).encode() + b"\n"
        there = read_small(self._root, key, RECORD_BYTES)
        # a record that does not count is replaced
        before = None if there is None or self._counts_as(there.data) else there.version
        try:
            self._root.put_bytes(key, data, if_version=before, if_absent=before is None)
        except PreconditionFailedError:
            return False
        self._records[recipe] = kept  # for good, though a job that may not reuse it may replace it
        return True

    def slots(self) -> list[Parameters]:
        """The points that a sampler has chosen so far, in order."""
        prefix = f"{self._own}slot-"
        found: list[Parameters] = []
        for key in sorted(key for key in self._root.list(prefix)):
            small = read_small(self._root, key, RECORD_BYTES)
            if small is not None:
                found.append(_Slot.model_validate_json(small.data).parameters)
        return found

    def choose(self, number: int, parameters: Parameters) -> bool:
        """Makes a point the one with this number; False if another worker chose one meanwhile."""
        key = f"{self._own}slot-{number:04}.json"
        data = _Slot(parameters=parameters).model_dump_json().encode()
        try:
            self._root.put_bytes(key, data, if_absent=True)
        except PreconditionFailedError:
            return False
        return True

    def has_model(self, recipe: str) -> bool:
        """Whether the artifact of a point is there."""
        return self.open_store(hex_of(recipe)).head("manifest.json") is not None

    def _is_computed(self, recipe: str) -> bool:
        seen = look(self.open_store(hex_of(recipe)))
        if seen is None or seen.mark.released or seen.mark.uid == self._uid or self._has_ended(seen.mark.uid):
            return False
        return self._watch.is_alive(recipe, seen.version, seen.mark.uid)

    def _read(self, key: str) -> Kept | None:
        small = read_small(self._root, key, RECORD_BYTES)
        return None if small is None else self._counts_as(small.data)

    def _counts_as(self, data: bytes) -> Kept | None:
        """The record in these bytes; None for one that is damaged or does not count."""
        try:
            kept = Kept.model_validate_json(data)
        except ValidationError:
            return None
        return kept if self._counts(kept) else None
