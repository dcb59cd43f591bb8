"""How the layers of a model are built, as plain data for `quantizer inspect`."""

import re
from typing import Any

from quantizer.decoder.architecture import Stage
from quantizer.decoder.layout import DecoderLayout

EXPERT = re.compile(r"\.experts\.\d+\.")


def kinds_of_layers(layout: DecoderLayout) -> list[dict[str, Any]]:
    """Layers that are built alike, together: `layers` (their numbers), `stages`, `folds`, `experts`, `left`.

    A stage lists its inputs, and an input the linears that read it; experts stand for each other, as `*`. A fold is
    known where the architecture is in the table; elsewhere it is a place that AWQ will try (`tried`).
    """
    kinds: list[dict[str, Any]] = []
    for index in range(layout.layers):
        kind = {
            "stages": [_inputs(stage) for stage in layout.stages(index)],
            "folds": _folds(layout, index),
            "tried": bool(layout.found(index).candidates),
            "experts": _experts(layout, index),
            "left": list(layout.ignored_linears(index)),
        }
        known = next((one for one in kinds if {**one, "layers": None} == {**kind, "layers": None}), None)
        if known is None:
            kinds.append({**kind, "layers": [index]})
        else:
            known["layers"].append(index)
    return kinds


def _inputs(stage: Stage) -> list[list[str]]:
    inputs = ([_any_expert(name) for name in shared.names] for shared in stage.shared_inputs)
    return [list(names) for names in dict.fromkeys(map(tuple, inputs))]


def _folds(layout: DecoderLayout, index: int) -> list[dict[str, Any]]:
    places = [(place.source, place.readers) for place in layout.folds(index) if place.obstacle is None]
    places += [(one.source, one.readers) for one in layout.found(index).candidates]
    named = ((_any_expert(source), tuple(map(_any_expert, readers))) for source, readers in places)
    unique = dict.fromkeys((source, tuple(dict.fromkeys(readers))) for source, readers in named)
    return [{"source": source, "readers": list(readers)} for source, readers in unique]


def _experts(layout: DecoderLayout, index: int) -> int:
    found = {match.group() for name in layout.linears(index) if (match := EXPERT.search(f".{name}"))}
    return len(found)


def _any_expert(name: str) -> str:
    return EXPERT.sub(".experts.*.", name)
