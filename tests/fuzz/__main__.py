"""Runs many mutations and counts how they end."""

import argparse
import collections
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz import running
from tests.fuzz.mutations import MAKERS, Mutation, kinds, mutation

if TYPE_CHECKING:
    from tests.fuzz import judge


def main() -> int:
    """0 when the quantizer bore every mutation, else 1."""
    options = _options()
    running.load()
    from tests.fuzz import bases

    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        place = Path(name)

        def make() -> int:
            bases.make(place / "bases")
            for model, folder in bases.CHECKPOINTS.items():
                bases.case(place / "bases", place / "look" / folder, model)
            return 0

        made = running.in_a_process(make, place / "log", 120)
        assert made.code == 0, made.log
        return _run_all(options, place, list(_mutations(options, place)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--kind", choices=sorted(MAKERS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--failures", type=Path, help="append what failed to this file, one mutation a line")
    parser.add_argument("--replay", type=Path, help="run the mutations of this file instead")
    return parser.parse_args()


def _mutations(options: argparse.Namespace, place: Path) -> Iterator[Callable[[], Mutation]]:
    """What makes each mutation; only when it is its turn, since some are large."""
    from tests.fuzz import bases

    if options.replay:
        for line in options.replay.read_text().splitlines():
            yield lambda line=line: Mutation.of_line(line)
        return
    end = options.first + options.count
    chosen = [options.kind] * end if options.kind else kinds(end)
    for number in range(options.first, end):
        yield lambda kind=chosen[number], number=number: mutation(
            kind, options.seed, number, lambda model: place / "look" / bases.CHECKPOINTS[model]
        )


def _run_all(options: argparse.Namespace, place: Path, makers: list[Callable[[], Mutation]]) -> int:
    from tests.fuzz import judge

    def one(number: int) -> tuple[Mutation, judge.Verdict]:
        made, folder = makers[number](), place / f"case-{number}"
        try:
            return made, judge.run(place / "bases", folder, made)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    began, outcomes = time.monotonic(), collections.Counter[tuple[str, str]]()
    failures, slowest, largest = 0, 0.0, 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for number, (made, verdict) in enumerate(pool.map(one, range(len(makers))), 1):
            if number % 500 == 0:
                print(f"{number} of {len(makers)} after {time.monotonic() - began:.0f} s", flush=True)
            outcomes[made.kind, verdict.outcome] += 1
            slowest, largest = max(slowest, verdict.ended.seconds), max(largest, verdict.ended.bytes)
            if verdict.fault:
                failures += 1
                _tell(made, verdict, options.failures)
    for (kind, outcome), count in sorted(outcomes.items()):
        print(f"{kind:12}{outcome:22}{count:6}")
    print(
        f"{len(makers)} mutations in {time.monotonic() - began:.0f} s: {failures} failures; "
        f"the slowest took {slowest:.1f} s, the largest {largest / 1e6:.0f} MB"
    )
    return int(bool(failures))


def _tell(made: Mutation, verdict: "judge.Verdict", to: Path | None) -> None:
    print(f"{made.name} ({made.model}): {verdict.fault}\n    {made.as_line()[:600]}", flush=True)
    if to:
        with to.open("a") as file:
            file.write(made.as_line() + "\n")


if __name__ == "__main__":
    sys.exit(main())
