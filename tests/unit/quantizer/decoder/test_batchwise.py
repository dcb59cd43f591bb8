"""Small batches run side by side: in order, with nothing left behind, and with the same bits."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.support.decoder_families import (
    CASES,
    Stores,
    inputs_of,
    layer_weights,
    make_model,
    open_model,
    token_batches,
)
from torch import Tensor

from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import ModuleNames
from quantizer.decoder.batchwise import SIDE_BY_SIDE_BYTES, WIDEST, Batchwise, _pool
from quantizer.passes.statistics import gather

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def store(folder: Path, batches: int = 7, tokens: int = 3, width: int = 4) -> ActivationStore:
    return ActivationStore(folder / "hidden", [(1, tokens)] * batches, width, torch.float32, CPU)


def test_each_worker_has_batches_of_its_own_in_their_order(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    found: list[tuple[int, str, int, bool]] = []
    with store(tmp_path) as hidden:
        runner = Batchwise(hidden)
        assert runner.workers == 2

        def work(number: int) -> None:
            time.sleep(0.02 if number % 2 == 0 else 0)
            name = threading.current_thread().name
            found.append((number, name, torch.get_num_threads(), torch.is_inference_mode_enabled()))

        with torch.inference_mode():
            runner.each(work)
        assert torch.get_num_threads() == 2
    for worker in range(2):
        own = [(number, name) for number, name, *_ in found if number % 2 == worker]
        assert [number for number, _ in own] == list(range(worker, 7, 2))
        assert len({name for _, name in own}) == 1
    assert {rest for _, _, *rest in found for rest in [tuple(rest)]} == {(1, True)}, (
        "two share the two threads"
    )


def test_a_worker_keeps_to_its_share_whatever_others_take_later() -> None:
    _pool.cache_clear()
    pool = _pool(2, 1)
    pool.submit(int).result()
    torch.set_num_threads(2)
    assert pool.submit(torch.get_num_threads).result() == 1


def test_as_many_batches_are_in_work_as_their_memory_allows(tmp_path: Path) -> None:
    limit = SIDE_BY_SIDE_BYTES // (WIDEST * 4)  # hidden values of all batches in work

    def workers(values: int, threads: int, batches: int = 7) -> int:
        with store(tmp_path, batches, tokens=values // 4) as hidden:
            torch.set_num_threads(threads)
            return Batchwise(hidden).workers

    assert workers(limit // 2, 8) == 2
    assert workers(limit // 2 + 8, 8) == 1, "large batches have all threads, one after another"
    assert workers(12, 8) == 7, "no more than there are"
    assert workers(12, 1) == 1
    assert workers(12, 2, batches=0) == 1
    torch.set_num_threads(8)
    with ActivationStore(tmp_path / "meta", [(1, 2)] * 9, 4, torch.float32, torch.device("meta")) as hidden:
        assert Batchwise(hidden).workers == 1, "a GPU runs one batch after another"


def test_an_error_is_raised_when_nothing_runs_any_more(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    begun: list[int] = []
    running = 0

    def work(number: int) -> None:
        nonlocal running
        begun.append(number)
        running += 1
        time.sleep(0.01)
        running -= 1
        if number == 3:
            raise ValueError("batch 3")

    with store(tmp_path, batches=50) as hidden:
        with pytest.raises(ValueError, match="batch 3"):
            Batchwise(hidden).each(work)
        assert running == 0
        assert torch.get_num_threads() == 2
        count = len(begun)
        assert count < 10
        time.sleep(0.05)
        assert len(begun) == count


def test_a_visit_that_was_broken_off_is_not_taken_for_complete(tmp_path: Path) -> None:
    torch.set_num_threads(1)  # nothing runs beside it

    def break_off(*_: object) -> None:
        raise InterruptedError

    model_type, fields, modules = CASES["llama"]
    make_model(model_type, fields).save_pretrained(tmp_path / "model")
    model, stores, batches = open_model(tmp_path / "model", modules), Stores(tmp_path), token_batches()
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    with torch.inference_mode(), stores("hidden", shapes, model.layout.width) as hidden:
        for number, embedded in enumerate(model.embed(batches)):
            hidden.write(number, embedded)
        with model.walk(0, layer_weights(model, 0), hidden, stores) as walk:
            walk.finish(walk.stages[:1])
            with pytest.raises(InterruptedError):
                walk.visit(walk.stages[1:2], break_off)
            assert len(inputs_of(walk, walk.stages[1:])) == 3 * len(batches)
            walk.finish(walk.stages[1:])


def walked(folder: Path, modules: ModuleNames | None, propagate: bool) -> list[Tensor]:
    """Everything that the walks hand out, and the last hidden states."""
    model, stores, batches = open_model(folder / "model", modules), Stores(folder), token_batches() * 2
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    found: list[Tensor] = []
    with torch.inference_mode(), stores("hidden", shapes, model.layout.width) as hidden:
        for number, embedded in enumerate(model.embed(batches)):
            hidden.write(number, embedded)
        for index in range(model.layout.layers):
            with model.walk(index, layer_weights(model, index), hidden, stores) as walk:
                for span in [walk.stages] if propagate else [(stage,) for stage in walk.stages]:
                    found += [
                        inputs.clone() for _, inputs in inputs_of(walk, span, propagate_unrounded=propagate)
                    ]
                    if not propagate:
                        walk.finish(span)
        found += [hidden.read(number) for number in range(len(batches))]
    return found


@pytest.mark.parametrize("propagate", [False, True], ids=["staged", "propagated"])
@pytest.mark.parametrize("name", CASES)
def test_a_walk_gives_the_same_bits_side_by_side(
    name: str, propagate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread for each product in any case: two that share one add up in another order on some processors."""
    model_type, fields, modules = CASES[name]
    make_model(model_type, fields).save_pretrained(tmp_path / "model")
    torch.set_num_threads(1)
    alone = walked(tmp_path, modules, propagate)

    def two_at_once(self: Batchwise, hidden: ActivationStore) -> None:
        made(self, hidden)
        self.workers = 2

    made = Batchwise.__init__
    monkeypatch.setattr(Batchwise, "__init__", two_at_once)
    together = walked(tmp_path, modules, propagate)
    assert len(alone) == len(together) > 0
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_statistics_of_batches_side_by_side_are_those_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_type, fields, modules = CASES["mixtral"]  # experts see some batches' tokens only
    make_model(model_type, fields).save_pretrained(tmp_path / "model")
    model, stores, batches = open_model(tmp_path / "model", modules), Stores(tmp_path), token_batches() * 3
    shapes = [(batch.shape[0], batch.shape[1]) for batch in batches]
    made = Batchwise.__init__

    def of(workers: int) -> list[tuple[int, Tensor, Tensor]]:
        def so_many_at_once(self: Batchwise, hidden: ActivationStore) -> None:
            made(self, hidden)
            self.workers = workers

        monkeypatch.setattr(Batchwise, "__init__", so_many_at_once)
        found = []
        with torch.inference_mode(), stores("hidden", shapes, model.layout.width) as hidden:
            for number, embedded in enumerate(model.embed(batches)):
                hidden.write(number, embedded)
            with model.walk(0, layer_weights(model, 0), hidden, stores) as walk:
                for group, read in gather(walk, walk.stages, CPU, magnitudes=True).items():
                    if read.tokens:
                        found.append((read.tokens, read.mean_magnitude(), read.hessian(group.names[0])))
        return found

    torch.set_num_threads(1)
    alone, together, again = of(1), of(3), of(3)
    assert len(alone) == len(together) > 4
    for one, other, same in zip(alone, together, again, strict=True):
        assert one[0] == other[0] == same[0]
        for mine, summed, repeated in zip(one[1:], other[1:], same[1:], strict=True):
            torch.testing.assert_close(summed, mine)
            assert torch.equal(summed, repeated)
