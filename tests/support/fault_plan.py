"""Which fault hits which request: a pure function of a seed, so that a schedule that failed can be run again."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["delay", "cut before", "cut after", "repeat", "refuse", "kill before", "kill after"]

REFUSALS = (409, 410, 422, 429, 500, 503)
FAULTS_UNTIL = 25
"""Requests of one subject among which faults are; then the weather is fine, so that everything has an end."""
SHARE = 0.3
"""How many of them are hit."""
LONGEST_DELAY_SECONDS = 1.0
WATCH_SHARE = 0.06
"""How many events of a watch are hit."""

WatchFault = Literal["", "repeat", "hold back", "delay", "cut", "gone"]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request. before, after: it arrived or not when the connection was cut or the operator killed.

    code: of the answer, for refuse. seconds: for delay.
    """

    kind: Kind
    code: int = 0
    seconds: float = 0.0


def fault(seed: str, number: int, method: str, path: str) -> Fault | None:
    """The fault of a subject's request of this number."""
    chance = random.Random(f"{seed} {number}")
    if number >= FAULTS_UNTIL or chance.random() > SHARE:
        return None
    kinds: tuple[Kind, ...] = ("delay", "cut before", "cut after", "refuse", "refuse")
    if method != "GET":
        kinds += ("cut after", "repeat", "repeat", "kill before", "kill after")
    kind = chance.choice(kinds)
    if kind.startswith("kill") and chance.random() < 0.5:
        kind = "cut after" if kind == "kill after" else "cut before"  # a start of the operator takes seconds
    code = chance.choice(REFUSALS)
    if code == 422 and method == "POST" and path.endswith("/jobs"):
        code = 500  # that a Job is invalid is an end, and a right one: see test_operator_lifecycle
    return Fault(kind, code if kind == "refuse" else 0, chance.uniform(0.05, LONGEST_DELAY_SECONDS))


def watch_faults(seed: str, connection: int) -> Iterator[WatchFault]:
    """The faults of one watch connection, event by event."""
    chance = random.Random(f"{seed} watch {connection}")
    kinds: tuple[WatchFault, ...] = ("repeat", "repeat", "hold back", "hold back", "delay", "cut", "gone")
    while True:
        yield chance.choice(kinds) if chance.random() < WATCH_SHARE else ""
