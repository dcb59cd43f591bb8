"""The walk over a layer whose blocks are not known: hooks on the layer's own forward.

Each call of `inputs` runs the layer from its start and stops behind the last linear that was asked for; so
a layer of S stages runs S times, where a known architecture runs each linear once.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from typing_extensions import override

from quantization_api.failures import Category, QuantizationError
from quantizer.decoder.activations import ActivationStore
from quantizer.decoder.architecture import SharedInput, Stage
from quantizer.decoder.batchwise import Batchwise
from quantizer.decoder.blocks import ArgumentsOf, held_tensors
from quantizer.decoder.linear_experts import LinearExperts, all_reading
from quantizer.decoder.pattern import LayerNames
from quantizer.decoder.stream import Step
from quantizer.decoder.walk import LayerWalk, Look, Routed, StageOrder

LEAVE_OUT = "Leave it out of inside_layer_modules: it stays as it is."


class _Reached(BaseException):
    """Ends a layer's forward once every input that was asked for is there."""


class GenericLayer:
    """One decoder layer on real weights, run by its own forward.

    Args:
        module: the layer, weights in it.
        stages: the linears as the user listed them.
        arguments_of: what the layer takes beside hidden states.
        names: what the module calls that of which others know the checkpoint's name.
        step: what of a row it takes and makes.
    """

    def __init__(
        self,
        module: nn.Module,
        stages: tuple[Stage, ...],
        arguments_of: ArgumentsOf,
        names: LayerNames | None = None,
        step: Step | None = None,
    ) -> None:
        self._module, self.stages, self._arguments_of = module, stages, arguments_of
        self._step = step or Step()
        self._names = names or LayerNames({})
        self._keeps_what_it_made: bool | None = None
        self._one_at_a_time = threading.Lock()

    def linear(self, name: str) -> nn.Linear:
        """A linear by its name in the layer."""
        found = self.module(name)
        assert isinstance(found, nn.Linear), name
        return found

    def module(self, name: str) -> nn.Module:
        """Another module of the layer by its name."""
        return self._module.get_submodule(self._names.own_module(name))

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All that the checkpoint holds of it, by the names in the layer."""
        for name, value in held_tensors(self._module):
            yield self._names.stored.get(name, name), value

    def routers(self, inputs: int) -> tuple[str, ...]:
        """Modules that are no linears, and have a weight for so many inputs as if they were: they choose experts."""
        weights = {
            name: part._parameters.get("weight")
            for name, part in self._module.named_modules()
            if not isinstance(part, nn.Linear)
        }
        return tuple(
            self._names.module(name)
            for name, weight in weights.items()
            if weight is not None and weight.ndim == 2 and weight.shape[1] == inputs
        )

    def all_reading(self, on: bool) -> AbstractContextManager[None]:
        """Within it, if it is on, every expert reads every token; what the layer makes is the same."""
        return all_reading(self._module, on)

    def sent(self, shared: SharedInput, read: Tensor) -> int:
        """How many tokens of the last forward a router sends to an input; without one, all that it read."""
        experts = self.experts_of(shared.names[0]) if shared.expert else None
        if experts is None:
            return read.numel() // read.shape[-1]
        return experts.sent[int(self._names.own_module(shared.names[0]).split(".")[-2])]

    def experts_of(self, name: str) -> LinearExperts | None:
        """The module with experts that a linear is one of; None for another linear."""
        above = self._names.own_module(name).rpartition(".")[0].rpartition(".")[0]
        found = self._module.get_submodule(above)
        return found if isinstance(found, LinearExperts) else None

    def forward(self, hidden: Tensor) -> Tensor:
        """The whole layer: rows [batch, tokens, numbers] (stream.py) to the same.

        A module that keeps what it made, for the tokens that may come next, runs one batch at a time.
        """
        if self._keeps_what_it_made is False:
            return self._forward(hidden)
        with self._one_at_a_time:
            before = _attributes(self._module)
            output = self._forward(hidden)
            self._keeps_what_it_made = self._keeps_what_it_made or _attributes(self._module) != before
            return output

    def _forward(self, rows: Tensor) -> Tensor:
        hidden, given = self._step.given(rows, self._arguments_of(rows.shape[0], rows.shape[1]))
        return self._step.made(rows, self._module(hidden, **given), given)

    def seen(
        self, hidden: Tensor, stages: Sequence[Stage], *, whole: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Inputs of the stages' linears by name, and the layer's output when the `whole` layer is wanted."""
        wanted = [name for stage in stages for name in stage.names]
        caught: dict[str, Tensor] = {}
        output: Tensor | None = None

        def catch(name: str) -> Any:
            def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                if name in caught:
                    raise QuantizationError(
                        Category.MODEL_UNSUPPORTED,
                        f"{name} runs more than once in a forward of its layer",
                        LEAVE_OUT,
                    )
                caught[name] = inputs[0]
                if len(caught) == len(wanted) and not whole:
                    raise _Reached

            return hook

        with ExitStack() as stack:
            for name in wanted:
                handle = self.linear(name).register_forward_pre_hook(catch(name))
                stack.callback(handle.remove)
            try:
                output = self.forward(hidden)
            except _Reached:
                output = None
        if missing := [name for name in wanted if name not in caught]:
            raise QuantizationError(
                Category.MODEL_UNSUPPORTED, f"{missing[0]} does not run in a forward of its layer", LEAVE_OUT
            )
        return caught, output


def _attributes(module: nn.Module) -> dict[tuple[int, str], int]:
    """Which object each attribute of a module and of its parts is; buffers too."""
    held = ((number, part) for number, part in enumerate(module.modules()))
    return {
        (number, name): id(value)
        for number, part in held
        for name, value in {**vars(part), **part._buffers}.items()
    }


class GenericWalk(LayerWalk):
    """The walk over a GenericLayer, whose hooks see one batch at a time.

    Raises InvalidWorkflow when linears that are listed together do not read the same input, or when an
    earlier stage runs behind a later one.
    """

    def __init__(self, layer: GenericLayer, hidden: ActivationStore, wants_output: bool = True) -> None:
        self.stages = layer.stages
        self.side_by_side, self.shapes = 1, hidden.shapes
        self.layer, self._hidden, self._wants_output = layer, hidden, wants_output
        self._progress = StageOrder(self.stages)
        self._checked = False

    @override
    def linear(self, name: str) -> nn.Linear:
        return self.layer.linear(name)

    @override
    def module(self, name: str) -> nn.Module:
        return self.layer.module(name)

    @override
    def visit(
        self,
        stages: Sequence[Stage],
        look: Look,
        *,
        propagate_unrounded: bool = False,
        every_expert: Routed | None = None,
    ) -> None:
        _, last = self._progress.span(stages)
        if propagate_unrounded:
            self._progress.to_the_end(last)
        propagates = propagate_unrounded and self._wants_output
        for number in range(len(self._hidden)):
            # the first batch goes through the whole layer, to see that the stages are listed in their order
            check = not self._checked
            observed = self.stages if check else stages
            with self.layer.all_reading(every_expert is not None):
                caught, output = self.layer.seen(
                    self._hidden.read(number), observed, whole=propagates or check
                )
            if check:
                self._check(caught)
                self._checked = True
            for stage in stages:
                for shared in stage.shared_inputs:
                    read = caught[shared.names[0]]
                    look(number, shared, read)
                    if every_expert is not None:
                        every_expert(number, shared, self.layer.sent(shared, read))
            if propagates and output is not None:
                self._hidden.write(number, output)
        if propagate_unrounded:
            self._progress.done = last

    @override
    def finish(self, stages: Sequence[Stage]) -> None:
        # before the last stage there is nothing to do
        _, last = self._progress.span(stages)
        if last == len(self.stages) and self._wants_output:
            Batchwise(self._hidden).each(self._forward)
        self._progress.done = last

    @override
    def forward(self, states: Tensor) -> Tensor:
        return self.layer.forward(states)

    @override
    def finish_from(self, inputs: ActivationStore) -> None:
        if self._wants_output:
            each = Batchwise(self._hidden).each
            each(lambda number: self._hidden.write(number, self.forward(inputs.read(number))))
        self._progress.done = len(self.stages)

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _forward(self, number: int) -> None:
        self._hidden.write(number, self.layer.forward(self._hidden.read(number)))

    def _check(self, caught: dict[str, Tensor]) -> None:
        order = {name: place for place, name in enumerate(caught)}
        behind = -1
        for stage in self.stages:
            for shared in stage.shared_inputs:
                self._check_shared(shared, caught)
            start = min(order[name] for name in stage.names)
            if start < behind:
                raise QuantizationError(
                    Category.INVALID_WORKFLOW,
                    f"inside_layer_modules lists {stage.names[0]} behind linears that run after it",
                    "List the linears in the order in which they run.",
                )
            behind = start

    @staticmethod
    def _check_shared(shared: SharedInput, caught: dict[str, Tensor]) -> None:
        first, *others = shared.names
        for name in others:
            one, two = caught[first], caught[name]
            if one is not two and (one.shape != two.shape or not bool((one == two).all())):
                raise QuantizationError(
                    Category.INVALID_WORKFLOW,
                    f"inside_layer_modules lists {first} and {name} together, but they read different inputs",
                    "List together only linears that share an input.",
                )
