"""Combinations of parameters that are refused, each written once for both judges: the API server and Python.

    Refusal("w_bits", below("w_bits", 16) & ~(is_true("w_rtn") | is_true("w_gptq")), "w_bits below 16 ...")

A parameter that is not given counts as its default, which lives in the model alone: CEL has to ask whether
the parameter is there at all, and what that means follows from the default.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from quantization_api.rules import Rule

Value = bool | int | float | str


@dataclass(frozen=True)
class Scope:
    """Whose parameters are meant."""

    path: str
    """Of the object, in CEL."""
    model: type[BaseModel]
    """Whose defaults count."""

    def default(self, name: str) -> Any:
        """The value of a parameter that is not given; None: it has none."""
        return self.model.model_fields[name].get_default(call_default_factory=True)


@dataclass(frozen=True)
class Predicate:
    """A test of a pass's parameters, as the API server and as Python run it."""

    cel: Callable[[Scope], str]
    """The CEL expression, for a scope."""
    holds: Callable[[Any], bool]
    """The same test of a validated model."""

    def __and__(self, other: "Predicate") -> "Predicate":
        return Predicate(
            lambda scope: f"({self.cel(scope)} && {other.cel(scope)})",
            lambda model: self.holds(model) and other.holds(model),
        )

    def __or__(self, other: "Predicate") -> "Predicate":
        return Predicate(
            lambda scope: f"({self.cel(scope)} || {other.cel(scope)})",
            lambda model: self.holds(model) or other.holds(model),
        )

    def __invert__(self) -> "Predicate":
        return Predicate(lambda scope: f"!{self.cel(scope)}", lambda model: not self.holds(model))


def _of_value(name: str, test: str, holds: Callable[[Any], bool]) -> Predicate:
    """A test of one parameter; `test` is CEL with {} for the value. False where there is no value."""

    def cel(scope: Scope) -> str:
        here = f"{scope.path}.{name}"
        default = scope.default(name)
        if default is not None and holds(default):
            return f"(!has({here}) || {test.format(here)})"
        return f"(has({here}) && {test.format(here)})"

    def of_model(model: Any) -> bool:
        value = getattr(model, name)
        return value is not None and holds(value)

    return Predicate(cel, of_model)


def is_true(name: str) -> Predicate:
    """A switch is on."""
    return _of_value(name, "{}", lambda value: value is True)


def equals(name: str, wanted: Value) -> Predicate:
    """A parameter has this value."""
    return _of_value(name, f"{{}} == {_literal(wanted)}", lambda value: value == wanted)


def among(name: str, wanted: tuple[Value, ...]) -> Predicate:
    """A parameter has one of these values."""
    return _of_value(name, f"{{}} in [{', '.join(map(_literal, wanted))}]", lambda value: value in wanted)


def below(name: str, limit: int) -> Predicate:
    """A number is smaller than the limit."""
    return _of_value(name, f"{{}} < {limit}", lambda value: value < limit)


def given(name: str) -> Predicate:
    """A parameter without a default is given."""
    return Predicate(
        lambda scope: f"has({scope.path}.{name})", lambda model: getattr(model, name) is not None
    )


def filled(name: str) -> Predicate:
    """A list has items."""
    return _of_value(name, "{}.size() > 0", lambda value: len(value) > 0)


def changed(name: str) -> Predicate:
    """A parameter is given and is not its default."""

    def cel(scope: Scope) -> str:
        here, default = f"{scope.path}.{name}", scope.default(name)
        return f"has({here})" if default is None else f"(has({here}) && {here} != {_literal(default)})"

    return Predicate(cel, lambda model: getattr(model, name) != Scope("", type(model)).default(name))


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}'" if isinstance(value, str) else str(value)


@dataclass(frozen=True)
class Refusal:
    """A combination of parameters that is refused with a sentence."""

    field: str
    """Where the error is reported."""
    refused: Predicate
    sentence: str

    def rule(self, model: type[BaseModel]) -> Rule:
        """The same as a rule of the model."""
        return Rule(
            cel=f"!{self.refused.cel(Scope('self', model))}",
            message=self.sentence,
            check=lambda item: self.sentence if self.refused.holds(item) else None,
            field=self.field,
        )


def must_be(field: str, values: tuple[Value, ...]) -> Refusal:
    """A parameter that has a default is one of a few values."""
    sentence = f"{field} must be " + ", ".join(map(str, values[:-1])) + f" or {values[-1]}"
    return Refusal(field, ~among(field, values), sentence)
