"""The store of trials: who has a point, what counts, and what another worker wrote first."""

import json
from pathlib import Path

import numpy as np
import pytest

from quantization_api.manifest import TrialRecord
from quantization_api.metrics import Goal, Metric
from quantizer.evaluation.goals import missed_goal
from quantizer.evaluation.intervals import Ratio
from quantizer.evaluation.measurement import Measurement
from quantizer.search import trials as search_trials
from quantizer.search.trials import Figure, Kept, Trials, Watch, hex_of
from quantizer.store.claim import PATIENCE_SECONDS
from quantizer.store.directory import DirectoryStore
from quantizer.store.interface import OUTPUT, Store
from quantizer.store.mark import CLAIM_NAME, Mark
from quantizer.store.small_objects import Small

pytestmark = pytest.mark.unit

RECIPE, SEARCH = "sha256:" + 64 * "a", "sha256:" + 64 * "5"


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def trials(root: Path, uid: str = "job/0", *, only: str = "", clock: Clock | None = None) -> Trials:
    return Trials(
        lambda below: DirectoryStore(root / below, OUTPUT),
        SEARCH,
        uid,
        lambda kept: (kept.trial.worker or "").startswith(only),
        lambda uid: uid == "ended",
        Watch(clock or Clock()),
    )


def kept(state: str = "Finished", worker: str = "job/0") -> Kept:
    record = {"number": 0, "parameters": {}, "state": state, "worker": worker}
    return Kept(trial=TrialRecord.model_validate(record))


def claim(root: Path, mark: Mark) -> None:
    path = root / hex_of(RECIPE) / CLAIM_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mark.text())


def test_a_point_is_pending_while_another_worker_renews_its_claim(tmp_path: Path) -> None:
    clock = Clock()
    here = trials(tmp_path, clock=clock)
    assert here.pending([RECIPE]) == set()
    for count in range(4):
        claim(tmp_path, Mark(uid="job/1", renewed=count, nonce=f"{count:032x}"))
        assert here.pending([RECIPE]) == {RECIPE}
        clock.now += PATIENCE_SECONDS - 1
    assert here.pending([RECIPE]) == {RECIPE}


def test_a_claim_that_stands_still_is_of_a_dead_worker(tmp_path: Path) -> None:
    clock = Clock()
    here = trials(tmp_path, clock=clock)
    claim(tmp_path, Mark(uid="job/1"))
    assert here.pending([RECIPE]) == {RECIPE}
    clock.now += PATIENCE_SECONDS
    assert here.pending([RECIPE]) == set()


@pytest.mark.parametrize(
    "mark",
    [Mark(uid="job/0"), Mark(uid="job/1", released=True), Mark(uid="ended")],
    ids=["of this worker before it was killed", "let go", "of a process that is gone"],
)
def test_a_claim_that_nobody_holds_is_free_at_once(mark: Mark, tmp_path: Path) -> None:
    claim(tmp_path, mark)
    assert trials(tmp_path).pending([RECIPE]) == set()


def test_the_first_record_of_a_point_stays(tmp_path: Path) -> None:
    assert trials(tmp_path).keep(RECIPE, kept(worker="job/0"))
    assert not trials(tmp_path).keep(RECIPE, kept(worker="job/1"))  # so only one worker tells it
    assert trials(tmp_path).records([RECIPE])[RECIPE].trial.worker == "job/0"


def test_a_record_of_another_job_does_not_count_where_nothing_is_reused(tmp_path: Path) -> None:
    trials(tmp_path).keep(RECIPE, kept(worker="job/0"))
    strict = trials(tmp_path, uid="mine/0", only="mine")
    assert strict.records([RECIPE]) == {}
    strict.keep(RECIPE, kept(worker="mine/0"))
    assert trials(tmp_path).records([RECIPE])[RECIPE].trial.worker == "mine/0"


@pytest.mark.parametrize("state", ["Stopped", "Failed", "Refused"])
def test_what_did_not_finish_in_one_search_may_in_another(state: str, tmp_path: Path) -> None:
    trials(tmp_path).keep(RECIPE, kept(state))
    assert trials(tmp_path).records([RECIPE])[RECIPE].trial.state == state
    other = Trials(
        lambda below: DirectoryStore(tmp_path / below, OUTPUT),
        RECIPE,
        "other/0",
        lambda _: True,
        lambda _: False,
        Watch(),
    )
    assert other.records([RECIPE]) == {}


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    trials(tmp_path).keep(RECIPE, kept())
    path = tmp_path / f"{hex_of(RECIPE)}.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert trials(tmp_path).records([RECIPE]) == {}


def test_of_two_workers_that_choose_at_once_one_has_the_slot(tmp_path: Path) -> None:
    assert trials(tmp_path).choose(0, {"q.bits": 4})
    assert not trials(tmp_path, "job/1").choose(0, {"q.bits": 8})
    assert trials(tmp_path, "job/1").choose(1, {"q.bits": 8, "q.desc_act": True})
    assert trials(tmp_path).slots() == [{"q.bits": 4}, {"q.bits": 8, "q.desc_act": True}]


@pytest.mark.parametrize("value", [2.0, 3.0, 4.0, 5.0])
def test_a_goal_is_judged_from_a_record_as_from_the_measurement(value: float) -> None:
    chance = np.random.default_rng(1)
    tokens = np.full(12, 255.0)
    before, noise = chance.normal(500, 40, 12), chance.normal(9, 3, 12)
    measured = Measurement.of(Ratio(before, tokens, np.exp), Ratio(before + noise, tokens, np.exp))
    again = Figure.model_validate_json(json.dumps(Figure.of(measured).model_dump())).measurement()
    metric = Metric(
        name="ppl",
        type="perplexity",
        data_config="test",
        goal=Goal(type="percent-max-degradation", value=value),
    )
    assert missed_goal(metric, again) == missed_goal(metric, measured)


def test_a_worker_knows_how_its_point_ended_whatever_another_job_writes_there(tmp_path: Path) -> None:
    one, other = trials(tmp_path, "one/0", only="one"), trials(tmp_path, "other/0", only="other")
    one.keep(RECIPE, kept(worker="one/0"))
    other.keep(RECIPE, kept(worker="other/0"))
    assert one.records([RECIPE])[RECIPE].trial.worker == "one/0"
    assert other.records([RECIPE])[RECIPE].trial.worker == "other/0"


def test_of_two_jobs_that_replace_a_record_at_once_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = trials(tmp_path, "one/0", only="one"), trials(tmp_path, "other/0", only="other")
    trials(tmp_path).keep(RECIPE, kept(worker="third/0"))
    read = search_trials.read_small

    def read_and_lose(store: Store, key: str, most: int) -> Small | None:
        found = read(store, key, most)
        monkeypatch.setattr(search_trials, "read_small", read)
        other.keep(RECIPE, kept(worker="other/0"))
        return found

    monkeypatch.setattr(search_trials, "read_small", read_and_lose)
    one.keep(RECIPE, kept(worker="one/0"))
    assert other.records([RECIPE])[RECIPE].trial.worker == "other/0"
    assert one.records([RECIPE]) == {}
