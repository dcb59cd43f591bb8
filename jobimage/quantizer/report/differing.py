"""Sentences about what differs between artifacts, or between the points of a search, that are put side by side."""

from collections.abc import Mapping, Sequence

from quantization_api.manifest import TrialRecord

NUMBERS_SHOWN = 8


def differ(values: Mapping[int, str], sentence: str) -> str:
    """The sentence with the values and the numbers of those that have them; "" where all have the same."""
    whose: dict[str, list[int]] = {}
    for number, value in values.items():
        whose.setdefault(value, []).append(number)
    if len(whose) < 2:
        return ""
    told = [f"{value or 'none'} ({_numbers(numbers)})" for value, numbers in whose.items()]
    return f"{sentence}: {'; '.join(told)}"


def served_apart(name: str, served: Mapping[int, str]) -> str:
    """That a metric does not compare, from what each measured it with; "" where it does."""
    return differ(served, f"{name} was measured in different software or on different devices")


def points_apart(trials: Sequence[TrialRecord]) -> list[str]:
    """A sentence for each metric of speed or memory that points of a search did not measure alike."""
    served: dict[str, dict[int, str]] = {}
    for trial in trials:
        for result in trial.metrics:
            if result.measured_with:
                served.setdefault(result.name, {})[trial.number] = result.measured_with
    told = [served_apart(name, values) for name, values in served.items()]
    return [f"{one}. Points that differ in it do not compare." for one in told if one]


def _numbers(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - NUMBERS_SHOWN} more" if len(numbers) > NUMBERS_SHOWN else ""
    return ", ".join(map(str, numbers[:NUMBERS_SHOWN])) + more
