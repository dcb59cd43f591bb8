"""The seam between the decoder and a pass: one decoder layer, all calibration batches, stage by stage.

Staged, each linear runs once and later statistics see the rounded linears before them:

    with model.walk(index, weights, hidden, store_factory) as walk:
        for stage in walk.stages:
            walk.visit([stage], look)                             gather statistics
            ...                                                   round; put weights into walk.linear(name)
            walk.finish([stage])

At once, all statistics come from the unrounded layer:

        walk.visit(walk.stages, look)
        ...
        walk.finish(walk.stages)                                  one more forward, with the final weights

or, where the next layer is to see the unrounded one's output (AWQ), in a single pass and without finish:

        walk.visit(walk.stages, look, propagate_unrounded=True)

Small batches run side by side (batchwise.py), and what looks at them does so in their threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from torch import Tensor, nn
from typing_extensions import override

from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import SharedInput, Stage
from quantizer.decoder.batchwise import Batchwise
from quantizer.decoder.blocks import BlockLayer, DenseBlock, SparseBlock

StoreFactory = Callable[[str, Sequence[tuple[int, int]], int], ActivationStore]
"""(name, (batch, rows) of each batch, width) -> a store on scratch; the walk closes it."""

Look = Callable[[int, SharedInput, Tensor], None]
"""(number of the batch, shared input, its values). Inputs are [batch, tokens, K], for experts [rows, K] (none
where no token was sent to an expert); there is no padding in them."""


Routed = Callable[[int, SharedInput, int], None]
"""(number of the batch, shared input, tokens that a router sends there)."""


class LayerWalk(Protocol):
    """One decoder layer over all batches of `hidden`. Use as a context manager; stages in their order."""

    stages: tuple[Stage, ...]
    side_by_side: int
    """Batches in work at the same time."""
    shapes: list[tuple[int, int]]
    """(batch, tokens) of each batch."""

    def linear(self, name: str) -> nn.Linear:
        """A linear by its name in the layer."""
        ...

    def module(self, name: str) -> nn.Module:
        """A linear, a norm or a router by its name in the layer."""
        ...

    def visit(
        self,
        stages: Sequence[Stage],
        look: Look,
        *,
        propagate_unrounded: bool = False,
        every_expert: Routed | None = None,
    ) -> None:
        """Runs all batches, and has each input of the stages looked at.

        The stages are the next ones: those before them are finished. Calls for batches whose numbers are equal
        modulo `side_by_side` come one after another, in their order; others may run at the same time.

        propagate_unrounded: with all stages that are left, also makes the layer's output of the weights as
            they are now, into `hidden`; the walk is then at its end, and finish is not called.
        every_expert: with it every expert is looked at with every token, whatever its router says, and this is
            called behind `look` with the number of those that the router sends; hidden states are as without it.
        """
        ...

    def finish(self, stages: Sequence[Stage]) -> None:
        """The linears of these stages, the next ones, hold their final weights.

        After the last stage `hidden` holds the layer's output, where that is wanted.
        """
        ...

    def forward(self, states: Tensor) -> Tensor:
        """The whole layer with its weights as they are: [batch, tokens, width] to the same."""
        ...

    def finish_from(self, inputs: ActivationStore) -> None:
        """All linears hold their final weights, also those of stages that were finished with others.

        inputs: what the layer reads. `hidden` then holds the layer's output, where that is wanted.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StageOrder:
    """Which stages of a layer are finished; keeps callers to the order."""

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self._stages = stages
        self.done = 0

    def span(self, stages: Sequence[Stage]) -> tuple[int, int]:
        """First and behind-last index of the stages; ValueError unless they are the next ones."""
        last = self.done + len(stages)
        if not stages or tuple(stages) != self._stages[self.done : last]:
            raise ValueError(
                f"the next stage is number {self.done} of {len(self._stages)}; others were asked for"
            )
        return self.done, last

    def to_the_end(self, last: int) -> None:
        """ValueError unless `last` is the end of the layer."""
        if last != len(self._stages):
            raise ValueError("only a pass over all stages that are left can propagate")


@dataclass
class _State:
    """A batch on its way through the blocks of a layer."""

    source: Tensor
    """What the norm of the block reads."""
    residual: Tensor
    """What the block's output is added to."""
    normed: Tensor | None = None
    inner: Tensor | None = None
    """The core's output."""


class BlockWalk(LayerWalk):
    """The walk over a layer of blocks: stage 2 b reads block b's norm, stage 2 b + 1 its core.

    Between the two stages of a block the core's output lies on scratch; with a parallel residual the sum so
    far lies there too, beside the layer's input in `hidden`.
    """

    def __init__(
        self,
        layer: BlockLayer,
        hidden: ActivationStore,
        store_factory: StoreFactory,
        wants_output: bool = True,
    ) -> None:
        self.stages = layer.stages
        self._layer, self._hidden, self._factory = layer, hidden, store_factory
        self._wants_output = wants_output
        self._progress = StageOrder(self.stages)
        self._inner: ActivationStore | None = None
        self._inner_complete = False
        self._batchwise = Batchwise(hidden)
        self.side_by_side, self.shapes = self._batchwise.workers, hidden.shapes
        self._total: ActivationStore | None = None

    @override
    def linear(self, name: str) -> nn.Linear:
        return self._layer.linear(name)

    @override
    def module(self, name: str) -> nn.Module:
        return self._layer.module(name)

    @override
    def visit(
        self,
        stages: Sequence[Stage],
        look: Look,
        *,
        propagate_unrounded: bool = False,
        every_expert: Routed | None = None,
    ) -> None:
        # what a single second stage of a block reads is kept on scratch for finish
        first, last = self._progress.span(stages)
        if propagate_unrounded:
            self._progress.to_the_end(last)
        propagates = propagate_unrounded and self._wants_output
        single = first % 2 == 1 and last == first + 1 and not propagate_unrounded
        if keep := single and not self._inner_complete:
            self._open_inner(self._layer.blocks[first // 2])

        def run(number: int) -> None:
            state = self._read(number, first)
            for position in range(first, last):
                running = self._layer.blocks[position // 2]
                if position % 2 == 0:
                    state.normed = running.normed(state.source)
                    found = running.inputs(state.normed, every_expert is not None)
                else:
                    inner = self._ensure_inner(running, state)
                    if keep and self._inner is not None:
                        self._inner.write(number, inner)
                    found = running.output_inputs(state.source, inner, every_expert is not None)
                for shared, read, sent in found:
                    look(number, shared, read)
                    if every_expert is not None:
                        every_expert(number, shared, sent)
                if position % 2 == 1 and (position + 1 < last or propagates):
                    self._close(running, state)
            if propagates:
                self._hidden.write(number, state.residual)

        self._batchwise.each(run)
        if keep:
            self._inner_complete = True
        if propagate_unrounded:
            self._progress.done = last
            self._drop()

    @override
    def finish(self, stages: Sequence[Stage]) -> None:
        # finishing a block's first half computes nothing yet; its second half closes it
        first, last = self._progress.span(stages)
        closed = range(first // 2, last // 2)
        if last == len(self.stages) and not self._wants_output:
            self._drop()
        elif closed:
            end = last == len(self.stages) or not self._layer.parallel
            if not end and self._total is None:
                shapes = self._hidden.shapes
                self._total = self._factory("total", shapes, self._hidden.width)
                copied = False
            else:
                copied = True
            target = self._hidden if end or self._total is None else self._total

            def close(number: int) -> None:
                state = self._read(number, first, total=copied)
                for index in closed:
                    running = self._layer.blocks[index]
                    self._ensure_inner(running, state)
                    self._close(running, state)
                target.write(number, state.residual)

            self._batchwise.each(close)
            self._drop(total=end)
        self._progress.done = last

    @override
    def forward(self, states: Tensor) -> Tensor:
        return self._layer.forward(states)

    @override
    def finish_from(self, inputs: ActivationStore) -> None:
        self._drop()
        if self._wants_output:
            self._batchwise.each(lambda number: self._hidden.write(number, self.forward(inputs.read(number))))
        self._progress.done = len(self.stages)

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drop()

    def _read(self, number: int, position: int, *, total: bool = True) -> _State:
        source = self._hidden.read(number)
        state = _State(source, self._total.read(number) if self._total is not None and total else source)
        if position % 2 == 1 and self._inner_complete and self._inner is not None:
            state.inner = self._inner.read(number)
        return state

    def _ensure_inner(self, running: DenseBlock | SparseBlock, state: _State) -> Tensor:
        if state.inner is None:
            normed = running.normed(state.source) if state.normed is None else state.normed
            state.inner = running.core(normed)
        return state.inner

    def _close(self, running: DenseBlock | SparseBlock, state: _State) -> None:
        assert state.inner is not None
        state.residual = running.close(state.source, state.residual, state.inner)
        if not self._layer.parallel:
            state.source = state.residual
        state.normed = state.inner = None

    def _open_inner(self, running: DenseBlock | SparseBlock) -> None:
        self._close_inner()
        shapes = [running.inner_shape(batch, tokens) for batch, tokens in self._hidden.shapes]
        self._inner = self._factory("inner", [shape[:2] for shape in shapes], shapes[0][2])

    def _close_inner(self) -> None:
        if self._inner is not None:
            self._inner.__exit__(None, None, None)
        self._inner, self._inner_complete = None, False

    def _drop(self, *, total: bool = True) -> None:
        self._close_inner()
        if total and self._total is not None:
            self._total.__exit__(None, None, None)
            self._total = None
