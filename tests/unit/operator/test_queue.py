"""The work queue: nothing twice at once, nothing lost, nobody starved."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantization_operator.cache import Key
from quantization_operator.queue import FIRST_IN_A_ROW, RETRY_LIMIT_SECONDS, WorkQueue, backoff

pytestmark = pytest.mark.unit

A, B = Key("a", "1"), Key("b", "1")


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def with_queue(body: Callable[[WorkQueue, Clock], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = Clock()
        async with asyncio.timeout(10):
            await body(WorkQueue(clock, lambda: 1.0), clock)

    asyncio.run(run())


async def is_idle(queue: WorkQueue) -> bool:
    getter = asyncio.ensure_future(queue.get())
    for _ in range(5):
        await asyncio.sleep(0)
    if getter.done():
        return False
    getter.cancel()
    return True


def test_a_key_that_waits_is_not_added_twice() -> None:
    async def body(queue: WorkQueue, _: Clock) -> None:
        queue.add(A)
        queue.add(A)
        assert queue.depth == 1
        assert await queue.get() == A
        assert await is_idle(queue)

    with_queue(body)


def test_a_closed_queue_takes_nothing_until_it_is_opened() -> None:
    async def body(queue: WorkQueue, _: Clock) -> None:
        queue.close()
        queue.add(A)
        assert queue.depth == 0
        queue.open([B])
        queue.add(A)
        assert [await queue.get(), await queue.get()] == [B, A]

    with_queue(body)


def test_a_key_that_is_worked_on_comes_back_after_done_and_not_before() -> None:
    async def body(queue: WorkQueue, _: Clock) -> None:
        queue.add(A)
        await queue.get()
        queue.add(A)
        assert await is_idle(queue)
        queue.done(A)
        assert await queue.get() == A

    with_queue(body)


def test_namespaces_take_turns() -> None:
    async def body(queue: WorkQueue, _: Clock) -> None:
        for number in range(3):
            queue.add(Key("big", str(number)))
        queue.add(Key("small", "0"))
        order = [(await queue.get()).namespace for _ in range(4)]
        assert order == ["big", "small", "big", "big"]

    with_queue(body)


def test_those_that_go_first_overtake_the_others_but_for_one_now_and_then() -> None:
    async def body() -> None:
        queue = WorkQueue(Clock(), lambda: 1.0, lambda key: key.namespace == "new")
        for number in range(2 * FIRST_IN_A_ROW):
            queue.add(Key("old", str(number)))
            queue.add(Key("new", str(number)))
        order = [(await queue.get()).namespace for _ in range(2 * FIRST_IN_A_ROW + 2)]
        assert order == 2 * [*FIRST_IN_A_ROW * ["new"], "old"]
        assert (await queue.get()).namespace == "old", "there are no others any more"

    asyncio.run(body())


def test_a_key_that_waits_moves_forward_when_it_begins_to_press() -> None:
    pressing: set[Key] = set()

    async def body() -> None:
        queue = WorkQueue(Clock(), lambda: 1.0, lambda key: key in pressing)
        for key in (A, B):
            queue.add(key)
        pressing.add(B)
        queue.add(B)
        assert queue.depth == 2
        assert [await queue.get(), await queue.get()] == [B, A]
        assert queue.depth == 0
        queue.done(B)
        queue.add(B)
        assert await queue.get() == B
        assert await is_idle(queue), "its first place is no second turn"

    asyncio.run(body())


def test_a_delayed_key_comes_when_it_is_due_and_the_earlier_time_wins() -> None:
    async def body(queue: WorkQueue, clock: Clock) -> None:
        queue.after(A, 10)
        queue.after(A, 60)
        queue.after(B, 60)
        queue.after(B, 20)
        assert await is_idle(queue)
        clock.time += 10
        assert await queue.get() == A
        queue.done(A)
        assert await is_idle(queue)
        clock.time += 10
        assert await queue.get() == B
        queue.done(B)
        clock.time += 1000
        assert await is_idle(queue), "the later times were replaced, not added"

    with_queue(body)


def test_news_make_a_delayed_key_come_at_once_and_only_once() -> None:
    async def body(queue: WorkQueue, clock: Clock) -> None:
        queue.after(A, 10)
        queue.add(A)
        assert await queue.get() == A
        queue.done(A)
        clock.time += 100
        assert await is_idle(queue)

    with_queue(body)


def test_retries_back_off_until_a_success_and_obey_the_server() -> None:
    async def body(queue: WorkQueue, _: Clock) -> None:
        delays = []
        for _ in range(3):
            delays.append(queue.retry(A))
        assert delays == sorted(delays)
        assert delays[0] < delays[2]
        assert queue.retry(A, at_least=500) == 500
        queue.forget(A)
        assert queue.retry(A) == delays[0]
        assert queue.retries == 5

    with_queue(body)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_backoff_is_bounded(failures: int, random: float) -> None:
    assert 0.1 <= backoff(failures, random) <= RETRY_LIMIT_SECONDS


def test_a_worker_that_waits_is_woken_by_the_clock() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        queue = WorkQueue(loop.time, lambda: 0.0)
        queue.after(A, 0.02)
        async with asyncio.timeout(10):
            assert await queue.get() == A

    asyncio.run(run())


def test_the_age_of_the_oldest_is_shown() -> None:
    async def body(queue: WorkQueue, clock: Clock) -> None:
        assert queue.oldest_seconds == 0
        queue.add(A)
        clock.time += 5
        queue.add(B)
        assert queue.oldest_seconds == 5

    with_queue(body)


def test_a_key_for_which_a_worker_was_woken_that_ends_goes_to_another() -> None:
    async def body(queue: WorkQueue, _: Clock) -> None:
        first, second = (asyncio.ensure_future(queue.get()) for _ in range(2))
        await asyncio.sleep(0)
        queue.add(A)
        first.cancel()
        assert await second == A
        assert first.cancelled()

    with_queue(body)


def test_a_delayed_key_comes_in_time_although_the_worker_that_waited_first_is_busy() -> None:
    async def run() -> None:
        queue = WorkQueue(asyncio.get_running_loop().time, lambda: 1.0)
        workers = [asyncio.ensure_future(queue.get()) for _ in range(2)]
        await asyncio.sleep(0)
        queue.after(A, 0.05)
        queue.after(B, 30)
        queue.add(Key("c", "1"))
        async with asyncio.timeout(10):
            assert await asyncio.gather(*workers) == [Key("c", "1"), A]

    asyncio.run(run())


def test_one_key_wakes_one_worker() -> None:
    async def body(queue: WorkQueue, _: Clock) -> None:
        workers = [asyncio.ensure_future(queue.get()) for _ in range(16)]
        await asyncio.sleep(0)
        waiting = list(queue._idle)
        queue.add(A)
        await asyncio.sleep(0)
        assert sum(idle.done() for idle in waiting) == 1
        for worker in workers:
            worker.cancel()

    with_queue(body)


STEPS = st.tuples(st.sampled_from(["add", "press", "calm", "take", "done"]), st.integers(0, 3))


@given(st.lists(STEPS, max_size=60))
def test_no_key_is_lost_and_none_is_worked_on_twice_at_once(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        pressing: set[Key] = set()
        queue = WorkQueue(lambda: 0.0, lambda: 0.0, lambda key: key in pressing)
        busy: set[Key] = set()
        news: set[Key] = set()

        async def take() -> None:
            taken = await queue.get()
            assert taken not in busy
            busy.add(taken)
            news.discard(taken)

        for step, number in steps:
            key = Key("n", str(number))
            if step == "add":
                queue.add(key)
                news.add(key)
            elif step == "press":
                pressing.add(key)
            elif step == "calm":
                pressing.discard(key)
            elif step == "take" and queue.depth:
                await take()
            elif step == "done" and key in busy:
                busy.discard(key)
                queue.done(key)
        while busy or queue.depth:
            for key in list(busy):
                busy.discard(key)
                queue.done(key)
            while queue.depth:
                await take()
        assert not news

    asyncio.run(run())
