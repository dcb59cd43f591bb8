"""Which fault hits which request: a pure function of a seed, so that a schedule that failed can be run again."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "delay",
    "hang before",
    "hang after",
    "cut before",
    "cut after",
    "repeat",
    "refuse",
    "kill before",
    "kill after",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

REFUSALS = (409, 410, 422, 429, 500, 503)
FAULTS_UNTIL = 25
"""Requests of one subject among which faults are; then the weather is fine, so that everything has an end."""
SHARE = 0.3
"""How many of them are hit."""
LONGEST_DELAY_SECONDS = 1.0
CLIENT_TIMEOUT_SECONDS = 3.0
"""So long the client waits for an answer; a request that hangs takes longer."""
HANG_SECONDS = CLIENT_TIMEOUT_SECONDS + 1.0
WATCH_SHARE = 0.06
"""How many events of a watch are hit by chance, beside one early in each connection."""
SILENT_CONNECTIONS = (9, 18)
"""These watches, counted over all processes, say nothing more after a while, and stay open."""

WatchFault = Literal["", "repeat", "hold back", "delay", "cut", "gone", "silence"]
_BY_CHANCE: tuple[WatchFault, ...] = ("repeat", "hold back", "repeat", "delay", "hold back", "cut", "gone")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request. before, after: it arrived or not when the connection was cut or the operator killed.

    A request that hangs is answered when its client no longer waits; before: that is also when it arrives.
    code: of the answer, for refuse. seconds: for delay and hang.
    """

    kind: Kind
    code: int = 0
    seconds: float = 0.0


def fault(seed: str, number: int, method: str, path: str) -> Fault | None:
    """The fault of a subject's request of this number; the seed ends with the name of the subject.

    Each schedule has one kind for certain, in turn by the number in its name, so that a batch has met all of them.
    """
    chance = random.Random(f"{seed} {number}")
    schedule = re.search(r"\d+$", seed)
    certain = _certain(int(schedule[0])) if schedule is not None else {}
    if number in certain:
        kind = certain[number]
    elif number >= FAULTS_UNTIL or chance.random() > SHARE:
        return None
    else:
        kinds: tuple[Kind, ...] = ("delay", "cut before", "cut after", "refuse", "refuse")
        if method != "GET":
            kinds += ("cut after", "repeat", "repeat", "kill before", "kill after")
        kind = chance.choice(kinds)
        if kind.startswith("kill") and chance.random() < 0.8:  # a start of the operator takes seconds
            kind = "cut after" if kind == "kill after" else "cut before"
        if kind == "delay" and chance.random() < 0.3:
            kind = chance.choice(("hang before", "hang after"))
    code = chance.choice(REFUSALS)
    if code == 422 and method == "POST" and path.endswith("/jobs"):
        code = 500  # that a Job is invalid is an end, and a right one: see test_operator_lifecycle
    seconds = HANG_SECONDS if kind.startswith("hang") else chance.uniform(0.05, LONGEST_DELAY_SECONDS)
    return Fault(kind, code if kind == "refuse" else 0, seconds)


def _certain(schedule: int) -> dict[int, Kind]:
    """The kind that a schedule has for certain, by the number of the request; hangs when most kills are over.

    The two kinds of kills are not at the same request: of two at a time the operator notices one.
    """
    kind, later = KINDS[schedule % len(KINDS)], schedule // len(KINDS) % 3
    first = 3 if kind.startswith("hang") else 0 if kind == "kill before" else 1
    return {first + later: kind}


def watch_faults(seed: str, connection: int, silences: bool = True) -> Iterator[WatchFault]:
    """The faults of one watch connection, event by event; silences: a silence may be among them.

    Each connection has one of the faults early, in turn: most connections end before chance has met them.
    """
    chance = random.Random(f"{seed} watch {connection}")
    early = connection % 4
    turn = _BY_CHANCE[connection % len(_BY_CHANCE)]
    if silences and connection in SILENT_CONNECTIONS:
        turn = "silence"
    number = 0
    while True:
        yield turn if number == early else chance.choice(_BY_CHANCE) if chance.random() < WATCH_SHARE else ""
        number += 1


def kinds(silences: bool = True) -> set[str]:
    """All kinds of faults: of requests, and of watches as `watch: KIND`."""
    of_watches = set(get_args(WatchFault)) - {"", "" if silences else "silence"}
    return set(KINDS) | {f"watch: {kind}" for kind in of_watches}
