"""Olive's search: a strategy, searchable parameters and alternatives of passes, as our search_strategy."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from quantization_api.search import Decoded, decoded
from quantizer.cli.olive.notes import Notes, Object

SEARCHABLE = "SEARCHABLE_VALUES"
SUPPORT = 'Olive\'s own list of values is not taken over; write {"type": "categorical", "support": [...]}'
NO_STRATEGY = "a search needs a search_strategy; write one, or keep one value"
SEVERAL = "its values change several parameters here; write one value"
CATEGORICAL = 'only {"type": "categorical", "support": [...]} with a list of values is possible'
SAMPLERS = {"sequential": "sequential", "exhaustive": "sequential", "random": "random", "tpe": "tpe"}
RENAMED = {"search_algorithm": "sampler", "num_samples": "max_samples"}
"""Of older releases."""
BOUNDED = "a search ends after max_samples points; write that"
LEFT_OUT = {
    "include_pass_params": "parameters are searched where values are given",
    "output_model_num": "keep: front stores the models of the whole Pareto front",
}


@dataclass
class Searched:
    """What the passes of a run config leave to a search."""

    dimensions: list[Object] = field(default_factory=list)
    """Items of search_space."""
    alternatives: list[list[str]] = field(default_factory=list)
    """For each place in the sequence, the names of the passes that may stand there."""

    @property
    def chains(self) -> list[list[str]]:
        """Every way through the alternatives; none where there is one way."""
        several = any(len(names) > 1 for names in self.alternatives)
        return [list(chain) for chain in itertools.product(*self.alternatives)] if several else []

    @property
    def is_asked_for(self) -> bool:
        """Whether anything is left to a search."""
        return bool(self.dimensions or self.chains)


def is_searchable(value: Any) -> bool:
    """Whether a parameter's value asks for a search."""
    return value == SEARCHABLE or (isinstance(value, dict) and {"type", "support"} <= value.keys())


def support(value: Any, path: str, notes: Notes) -> list[Any]:
    """The values of a searchable parameter; none, and a note, where they are not given."""
    if value == SEARCHABLE:
        notes.refuse(path, SUPPORT)
        return []
    values = value["support"]
    if value["type"] != "categorical" or not isinstance(values, list) or not values:
        notes.refuse(path, CATEGORICAL)
        return []
    return values


def dimension(name: str, made: Sequence[Object], path: str, notes: Notes) -> Object | None:
    """The item of search_space for a parameter of which `made` are the pass's parameters, value by value."""
    keys = list(dict.fromkeys(key for one in made for key in one))
    varied = [key for key in keys if len({json.dumps(one.get(key), sort_keys=True) for one in made}) > 1]
    if not varied:
        return None  # one value
    if len(varied) > 1:
        notes.refuse(path, SEVERAL)
        return None
    values = [written(one.get(varied[0])) for one in made]
    return {"pass": name, "parameter": varied[0], "values": values}


def written(value: Any) -> int | str:
    """A value as search_space has it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    plain: Decoded = value
    return value if isinstance(value, str) and decoded(value) == plain else json.dumps(value)


def strategy(given: Any, searched: Searched, notes: Notes) -> Object | None:
    """Our search_strategy; None where there is no search."""
    path = "search_strategy"
    if notes.is_dropped(path, path):
        given = None
    if given is None or given is False:
        if searched.is_asked_for:
            notes.refuse(path, NO_STRATEGY, droppable=False)
        return None
    if given is not True and not isinstance(given, dict):
        notes.refuse(path, "must be an object", droppable=False)
        return None
    if not searched.is_asked_for:
        notes.leave_out(path, "no pass has a parameter with several values")
        return None
    fields = {} if given is True else _fields(given, notes)
    chains = {"chains": searched.chains} if searched.chains else {}
    space = {"search_space": searched.dimensions} if searched.dimensions else {}
    return {**fields, **chains, **space}


def _fields(given: Object, notes: Notes) -> Object:
    found: Object = {}
    for key, value in given.items():
        name, path = RENAMED.get(key, key), f"search_strategy.{key}"
        if value is None or notes.is_dropped(path, key):
            continue
        if name == "sampler":
            found |= _sampler(value, path, notes)
        elif name in ("execution_order", "max_samples", "seed"):
            found[name] = value
        elif name in LEFT_OUT:
            notes.leave_out(path, LEFT_OUT[name])
        elif name in ("max_iter", "max_time"):
            notes.refuse(path, BOUNDED)
        elif name == "stop_when_goals_met" and value is False:
            continue
        else:
            notes.refuse(path, f"{key} is not available; a search tries all its points")
    return found


def _sampler(value: Any, path: str, notes: Notes) -> Object:
    options = dict(value) if isinstance(value, dict) else {"type": value}
    name = str(options.pop("type", options.pop("name", ""))).lower()
    options.pop("name", None)
    if name not in SAMPLERS:
        notes.refuse(
            path, f"{name or value} is not a sampler; write sequential, random or tpe", droppable=False
        )
        return {}
    known = {key: options.pop(key) for key in ("max_samples", "seed") if key in options}
    if options:
        notes.leave_out(path, f"options of the sampler: {', '.join(map(str, options))}")
    return {"sampler": SAMPLERS[name], **known}
