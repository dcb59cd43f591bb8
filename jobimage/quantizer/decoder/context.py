"""Everything of a model but its decoder layers: what they are given, what comes before and behind them.

transformers' own forward of the model is run with a catcher in the place of every decoder layer. What the
first catcher receives are the embedded tokens (with learned positions, embedding scale or norm, ...); what
the others receive beside them are a layer's further arguments (position embeddings, masks of sliding
windows, alibi, ...). Put in as the last layer's output, hidden states come out as the head reads them.
So none of that is code of ours.

The modules outside the layers hold their real weights, except for the token embedding, of which only the
rows that occur exist, and the head, which is applied in slices of the vocabulary.
"""

import copy
import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import MoeModelOutputWithPast

from quantization_api.failures import QuantizationError
from quantizer.decoder.beside import NotOfText
from quantizer.decoder.buffers import compute_buffers
from quantizer.decoder.nested import left_in, on_meta, own_containers, without_values
from quantizer.decoder.skeleton import ANOTHER_TYPE, Skeleton, unsupported
from quantizer.decoder.tables import further_tables

Arguments = Mapping[str, Any]
"""What a decoder layer's forward takes beside the hidden states, by name."""

SHAPES_KEPT = 4  # (batch, tokens) whose arguments are kept; they are the same for every batch of the shape


class _Stop(BaseException):
    """Ends a forward once the last layer's arguments are caught."""


class _Catcher(nn.Module):
    """Stands in for decoder layer `index`; what it is asked for beside its forward, the layer answers."""

    def __init__(self, index: int, layer: nn.Module, context: "ModelContext") -> None:
        super().__init__()
        object.__setattr__(self, "_seen", (index, layer, context))  # not registered as submodules

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_seen"][1], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        index, layer, context = self.__dict__["_seen"]
        return context.receive(index, layer, args, kwargs)


def _is_the_same(one: Any, other: Any) -> bool:
    """Whether two tensors are the same numbers in the same memory, as a slice of all of them is."""
    if one is other or not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return one is other
    return (one.data_ptr(), one.shape, one.stride()) == (other.data_ptr(), other.shape, other.stride())


@dataclass
class _BaseOutput(MoeModelOutputWithPast):
    """What some head or other looks for in the output of the model below it."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class _GivenOutput(nn.Module):
    """Stands in for a model without its head: returns the hidden states that it was given."""

    def __init__(self, hidden: Tensor, model: nn.Module) -> None:
        super().__init__()
        self.hidden = hidden
        object.__setattr__(self, "_seen", model)  # not registered as a submodule

    def __getattr__(self, name: str) -> Any:
        """What a head looks up in the model below it, such as a factor of its logits."""
        return getattr(self.__dict__["_seen"], name)

    @property
    def decoder(self) -> "_GivenOutput":
        """OPT's head asks the decoder inside the model; an attribute would keep `hidden` until cycles are collected."""
        return self

    def forward(self, *_args: Any, **_kwargs: Any) -> _BaseOutput:
        return _BaseOutput(last_hidden_state=self.hidden)


class ModelContext:
    """The model around its layers, on real weights.

    Args:
        skeleton: the model; it is copied, with catchers in the place of its layers.
        parameter: reads a parameter outside the layers by its name in the model.
        device, dtype: of the computation.

    Raises ModelUnsupported for a buffer that the model's class does not compute from the config.
    """

    def __init__(
        self, skeleton: Skeleton, parameter: Callable[[str], Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        catchers = nn.ModuleList(_Catcher(index, layer, self) for index, layer in enumerate(skeleton.layers))
        layers = skeleton.causal.get_submodule(skeleton.layers_name)
        others = {id(module): NotOfText(module) for module in skeleton.beside.values()}
        self._causal: Any = copy.deepcopy(skeleton.causal, {id(layers): catchers, **others})
        self._base: Any = self._causal.get_submodule(skeleton.prefix) if skeleton.prefix else self._causal
        self._model_type = skeleton.model_type
        self._prefix, self._head_name = skeleton.prefix, skeleton.head_name
        self._device, self._dtype = device, dtype
        self._last = len(catchers) - 1
        self._returns_tuple = skeleton.architecture.returns_tuple
        self._layers, self._made = skeleton.layers, dict[int, Any]()
        self.stopped: tuple[int, Exception] | None = None
        """The first layer that could not be run without values, and why."""
        self._left: dict[int, dict[str, Mapping[Any, Any]]] = {}
        self._changes = False
        self._looks = not skeleton.architecture.blocks
        self.width = int(skeleton.config.hidden_size)
        self._embedding: Any = self._causal.get_input_embeddings()
        self._embedding.padding_idx = None  # rows are renumbered: none of them is padding
        self._embedding.register_forward_pre_hook(self._row_numbers)
        self._numbers: Tensor | None = None
        for config in (self._causal.config, self._base.config):
            vars(config)["pad_token_id"] = (
                None  # some classes refuse None where it is set in the ordinary way
            )
        compute_buffers(self._causal, self._causal, device)  # first: what it calls fills parameters too
        self._further = {name: self._causal.get_submodule(name) for name in further_tables(skeleton)}
        for table in self._further.values():
            table.register_forward_pre_hook(self._row_numbers)
        names = (skeleton.embedding_name, skeleton.head_name, *self._further)
        tables = {f"{name}.weight" for name in names}
        for full, _ in list(self._causal.named_parameters(remove_duplicate=False)):
            if full not in tables:
                owner, _, leaf = full.rpartition(".")
                weight = parameter(full).to(device=device, dtype=dtype)
                self._causal.get_submodule(owner)._parameters[leaf] = nn.Parameter(
                    weight, requires_grad=False
                )
        rows = torch.zeros((1, skeleton.embedding_shape[1]), dtype=dtype, device=device)
        self._checks = False
        self._rows_of(rows, self._zeros([1]), {})
        self._arguments: list[Arguments] = []
        self._embedded: Tensor | None = None
        self._expected: Tensor | None = None
        self._next = 0
        self._injected: tuple[Tensor, Tensor] | None = None
        self._behind = False
        self._kept: OrderedDict[tuple[int, int], list[Arguments]] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, rows: Tensor, tokens: Tensor, numbers: Tensor | None = None) -> Tensor:
        """Hidden states before the first layer: [batch, tokens, width].

        tokens [batch, tokens]: of the vocabulary. rows: the embedding's rows of the tokens that occur, and numbers:
        these tokens, ascending; None where all rows are there.
        """
        return self.begin(rows, tokens, numbers)[0]

    def begin(
        self,
        rows: Tensor,
        tokens: Tensor,
        numbers: Tensor | None = None,
        further: Mapping[str, Tensor] | None = None,
        *,
        changes: bool = False,
    ) -> tuple[Tensor, list[Arguments]]:
        """As `embed`; and what each layer takes beside hidden states, for these tokens.

        further: rows of the same tokens, by the name of each of the further tables (tables.py). changes: layers seem to
        change the hidden states, which otherwise go through all of them as they are.
        """
        self._rows_of(rows, numbers, further or {})
        self._changes, self._checks = changes, True
        try:
            self._run(tokens.to(self._device))
        finally:
            self._changes = self._checks = False
        embedded, self._embedded = self._embedded, None
        assert embedded is not None
        return embedded, self._arguments

    def arguments(self, index: int, batch: int, tokens: int) -> Arguments:
        """What layer `index` takes beside hidden states [batch, tokens, width] without padding."""
        shape = (batch, tokens)
        with self._lock:  # batches are run side by side
            if shape not in self._kept:
                self._run(torch.zeros(shape, dtype=torch.int64, device=self._device))
                self._kept[shape] = self._arguments
                while len(self._kept) > SHAPES_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(shape)
            return self._kept[shape][index]

    def made(self, index: int) -> Any:
        """What layer `index` returns, without values; None where that is not known."""
        return self._made.get(index)

    def left(self, index: int) -> Mapping[str, Mapping[Any, Any]]:
        """What layer `index` leaves behind in its arguments, by their names: more keys, and values without numbers."""
        return self._left.get(index, {})

    def final(
        self, hidden: Tensor, before: Tensor | None = None, text: tuple[int, int] | None = None
    ) -> Tensor:
        """What the head reads, [batch, tokens, width], of the last layer's output.

        hidden: as the layer makes it, mostly [batch, tokens, width]. before: what the other layers make; no model
        that is supported looks at that. text: (batch, tokens), where they are not the first sizes of `hidden`.
        """
        batch, tokens = text or hidden.shape[:2]
        if not self._kept:
            self.arguments(0, batch, tokens)  # learns what the model does with outputs
        states = (hidden if before is None else before, hidden)
        result = self._final(states, (batch, tokens))
        if self._last == 0 and result.shape != (batch, tokens, self.width):  # no second layer has shown it
            self._returns_tuple = not self._returns_tuple
            result = self._final(states, (batch, tokens))
        return result

    def _final(self, states: tuple[Tensor, Tensor], text: tuple[int, int]) -> Tensor:
        self._injected = states
        try:
            output = self._base(input_ids=self._zeros(text), use_cache=False)
        finally:
            self._injected = None
        result: Tensor = output[0]
        return result

    def norms_around(self, hidden: Tensor) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the modules with a weight for each channel that run before the layers, and behind them.

        hidden [batch, tokens, width]: any that the last layer could make.
        """
        ran: tuple[list[str], list[str]] = ([], [])

        def hook(name: str) -> Callable[..., None]:
            return lambda *_: ran[self._behind].append(name)

        with ExitStack() as stack:
            for name, module in self._causal.named_modules():
                weight = module._parameters.get("weight")
                if weight is not None and weight.shape == (self.width,):
                    stack.callback(module.register_forward_hook(hook(name)).remove)
            self._behind = False
            self.final(hidden)
        return tuple(ran[0]), tuple(ran[1])

    def computed(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors outside the layers that no checkpoint holds and that have a number for each channel, by name."""
        for name, module in self._base.named_modules():
            held = {} if isinstance(module, _Catcher) else {**vars(module), **module._buffers}
            for leaf, value in held.items():
                if (
                    isinstance(value, Tensor)
                    and value.is_floating_point()
                    and value.shape[-1:] == (self.width,)
                ):
                    yield ".".join(filter(None, (self._prefix, name, leaf))), value

    def logits(self, read: Tensor, first: int, rows: Tensor) -> Tensor:
        """Logits [batch, tokens, rows] of vocabulary entries first .. first + rows, as the model makes them.

        read: what `final` returned. rows: those rows of the head. Soft caps and scalings are the model's.
        """
        head = _with(self._causal, self._prefix, _GivenOutput(read, self._base))
        with torch.device("meta"):
            linear = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
        linear.weight = nn.Parameter(rows, requires_grad=False)
        bias = self._causal.get_submodule(self._head_name).bias
        if bias is not None:
            linear.bias = nn.Parameter(bias[first : first + rows.shape[0]], requires_grad=False)
        head = _with(head, self._head_name, linear)
        result: Tensor = head(input_ids=self._zeros(read.shape[:2]), use_cache=False).logits
        return result

    def receive(self, index: int, layer: nn.Module, args: Sequence[Any], kwargs: Arguments) -> Any:
        """Called by the catcher of layer `index` in place of its forward."""
        signature = inspect.signature(layer.forward)
        bound = signature.bind(*args, **kwargs)
        hidden_name, *names = bound.arguments
        hidden = bound.arguments[hidden_name]
        if self._injected is not None:
            self._behind = index == self._last
            given = self._injected[self._behind]
            if index in self._made:
                return self._as_layer(index, given)
            return (given,) if self._returns_tuple else given
        if index == 1:  # catchers return tuples: a model that expects none hands the tuple on
            self._returns_tuple = not isinstance(hidden, tuple)
        self._check_order(index, hidden)
        caught: dict[str, Any] = {}
        for name in names:
            if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                caught |= bound.arguments[name]
            else:
                caught[name] = bound.arguments[name]
        if index == 0:
            self._embedded, self._arguments = hidden, []
        self._arguments.append({name: own_containers(value) for name, value in caught.items()})
        if self._looks and index not in self._made:
            self._learn_output(index, args, kwargs)
        for name, entries in self._left.get(index, {}).items():
            caught[name].update(entries)
        if index == self._last:
            raise _Stop
        return self._passed_on(index, hidden)

    def _passed_on(self, index: int, hidden: Any) -> Any:
        """What the catcher returns: the hidden states that it was given."""
        inner = hidden[0] if isinstance(hidden, tuple) else hidden
        if self._changes:
            self._expected = inner = inner + 1
            hidden = (inner,) if isinstance(hidden, tuple) else inner
        if index in self._made:
            return self._as_layer(index, inner)
        return hidden if isinstance(hidden, tuple) else (hidden,)

    def _learn_output(self, index: int, args: Sequence[Any], kwargs: Arguments) -> None:
        """Runs a layer without values: classes differ in what they expect of it beside hidden states.

        A layer that is not to be run without values teaches nothing, and is taken to return a tuple.
        """
        layer = copy.deepcopy(self._layers[index], {id(self._base.config): self._base.config})
        given, named = on_meta(tuple(args)), on_meta(dict(kwargs))
        taken = {**inspect.signature(layer.forward).bind(*given, **named).arguments, **named}
        before = own_containers(taken)
        try:
            with without_values():
                made = layer.to("meta", self._dtype)(*given, **named)
        except Exception as error:  # noqa: BLE001 - finding.py says what is wrong
            self.stopped = self.stopped or (index, error)
            return
        self._made[index] = made
        self._left[index] = left_in(before, taken)

    def _as_layer(self, index: int, hidden: Tensor) -> Any:
        """Hidden states in the place that they have in what layer `index` returns; the rest has no values."""
        made = self._made[index]
        if hasattr(made, "_replace"):  # a tuple with names
            return made._replace(**{made._fields[0]: hidden})
        return (hidden, *made[1:]) if isinstance(made, (tuple, list)) else hidden

    def _check_order(self, index: int, hidden: Any) -> None:
        """Each layer is given what the one before made, as it made it."""
        read = hidden[0] if isinstance(hidden, tuple) else hidden
        if index == 0:
            self._expected, self._next = read, 0
        if index != self._next or not _is_the_same(read, self._expected):
            raise self._no_chain()
        self._next = index + 1

    def _run(self, tokens: Tensor) -> None:
        try:
            self._base(input_ids=tokens, use_cache=False)
        except _Stop:
            return
        finally:
            self._expected = None
        raise self._no_chain()

    def _no_chain(self) -> QuantizationError:
        return unsupported(
            f"a {self._model_type} model does not run its layers one after another, each on what the "
            "one before made",
            "Check layers_block_name, if you gave it: it must name all decoder layers of the model. Otherwise use a "
            "model of another type.",
        )

    def _rows_of(self, rows: Tensor, numbers: Tensor | None, further: Mapping[str, Tensor]) -> None:
        """Puts rows into the embedding, and into further tables: those of some tokens, or all."""
        self._embedding._parameters["weight"] = nn.Parameter(rows, requires_grad=False)
        for name, table in self._further.items():
            own = further[name] if name in further else rows.new_zeros((len(rows), table.embedding_dim))
            table._parameters["weight"] = nn.Parameter(own, requires_grad=False)
        self._numbers = None if numbers is None else numbers.to(rows.device)

    def _row_numbers(self, _embedding: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """A hook: the model is given tokens, whose numbers it may look at; the rows that are there count from 0."""
        if self._numbers is None:
            return None
        found = torch.searchsorted(self._numbers, args[0])
        if self._checks and not torch.equal(self._numbers[found.clamp(max=len(self._numbers) - 1)], args[0]):
            raise unsupported(
                f"a {self._model_type} model looks up other tokens than those of the text", ANOTHER_TYPE
            )
        return (found, *args[1:])

    def _zeros(self, shape: Sequence[int]) -> Tensor:
        return torch.zeros(tuple(shape), dtype=torch.int64, device=self._device)


def _with(model: Any, name: str, module: nn.Module) -> Any:
    """A model with another module of that name; what lies around it is copied, so that the model keeps its own."""
    changed = copy.copy(model)
    changed._modules = dict(model._modules)
    first, _, rest = name.partition(".")
    changed._modules[first] = _with(model._modules[first], rest, module) if rest else module
    return changed
