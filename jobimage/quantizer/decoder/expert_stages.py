"""Stages and candidates of a layer with experts, from those of a trace in which one expert stands for all of them."""

from collections.abc import Iterator, Mapping

from quantizer.decoder.architecture import Candidate, FoundLayer, SharedInput, Stage, StreamRead
from quantizer.decoder.fused_experts import UP, FusedExperts

STATISTICS_BYTES = 4_000_000_000
"""What the statistics of experts may take at the same time, in float32."""

Outputs = Mapping[str, int]
"""Outputs of each linear of the layer."""


def expanded(found: FoundLayer, experts: Mapping[str, FusedExperts], outputs: Outputs) -> FoundLayer:
    """What was found, for all experts.

    Linears that choose among experts stay as they are, and what has a single output (a shared expert's share of a
    token): they read what the experts read, and no server takes them rounded.

    Args:
        found: in it expert 0 of each module has linears.
        experts: the modules, by name in the layer.
    """
    if not experts:
        return found
    one = {f"{module}.0.": (module, fused.count) for module, fused in experts.items()}
    counts = {fused.count for fused in experts.values()}
    stages: list[Stage] = []
    for stage in found.stages:
        inputs = [each for shared in stage.shared_inputs for each in _inputs(shared, one, counts, outputs)]
        if inputs:
            stages.append(Stage(tuple(inputs)))
    stages = _in_batches(stages, max(map(_at_once, experts.values())))
    candidates = [each for candidate in found.candidates for each in _candidates(candidate, one)]
    reads = [StreamRead(read.norm, _of_all(read.readers, one)) for read in found.reads]
    return FoundLayer(tuple(stages), tuple(candidates), tuple(reads), _of_all(found.writers, one))


def _at_once(fused: FusedExperts) -> int:
    """How many experts' statistics fit: a matrix for what gate and up read, and one for what down reads."""
    return max(1, STATISTICS_BYTES // (4 * (fused.width**2 + fused.inner**2)))


def _in_batches(stages: list[Stage], most: int) -> list[Stage]:
    """The stages with the experts in batches: gate and up of a few, down of these, then the next ones.

    Each stage costs a forward pass of the layer, so where all experts fit nothing changes.
    """
    first = next(
        (at for at, stage in enumerate(stages) if any(one.expert for one in stage.shared_inputs)), None
    )
    if first is None or sum(one.expert for one in stages[first].shared_inputs) <= most:
        return stages
    mixed = stages[first : first + 2]
    queues = [[one for one in stage.shared_inputs if one.expert] for stage in mixed]
    others = [tuple(one for one in stage.shared_inputs if not one.expert) for stage in mixed]
    batches = [
        (*(beside if start == 0 else ()), *queue[start : start + most])
        for start in range(0, len(queues[0]), most)
        for queue, beside in zip(queues, others, strict=True)
    ]
    return [*stages[:first], *map(Stage, batches), *stages[first + 2 :]]


_Modules = Mapping[str, tuple[str, int]]
"""By how the names of an expert 0's linears begin: the module, and how many experts it has."""


def _inputs(shared: SharedInput, one: _Modules, counts: set[int], outputs: Outputs) -> Iterator[SharedInput]:
    """One for each expert, the others together behind them."""
    others = shared.names
    reads_with_experts = False
    for start, (module, count) in one.items():
        inside = [name.removeprefix(start) for name in shared.names if name.startswith(start)]
        others = tuple(name for name in others if not name.startswith(start))
        reads_with_experts = reads_with_experts or bool(inside)
        for expert in range(count) if inside else ():
            yield SharedInput(tuple(f"{module}.{expert}.{name}" for name in inside), expert=True)
    if reads_with_experts:
        others = tuple(name for name in others if outputs[name] != 1 and outputs[name] not in counts)
    if others:
        yield SharedInput(others)


def _candidates(candidate: Candidate, one: _Modules) -> Iterator[Candidate]:
    """Of a linear in an expert, each expert's own; what a norm makes, all of them read."""
    start = next((start for start in one if candidate.source.startswith(start)), None)
    if start is not None:
        module, count = one[start]
        for expert in range(count) if candidate.source == f"{start}{UP}" else ():
            readers = tuple(name.replace(start, f"{module}.{expert}.", 1) for name in candidate.readers)
            yield Candidate(
                candidate.kind, candidate.source.replace(start, f"{module}.{expert}.", 1), readers
            )
        return
    yield Candidate(candidate.kind, candidate.source, _of_all(candidate.readers, one))


def _of_all(names: tuple[str, ...], one: _Modules) -> tuple[str, ...]:
    """Linears, of experts those of each."""
    return tuple(each for name in names for each in _all(name, one))


def _all(name: str, one: _Modules) -> Iterator[str]:
    for start, (module, count) in one.items():
        if name.startswith(start):
            yield from (f"{module}.{expert}.{name.removeprefix(start)}" for expert in range(count))
            return
    yield name
