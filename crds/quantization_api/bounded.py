"""String and list types with the bounds that the API server needs to estimate the cost of rules."""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    Field,
    StrictInt,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError


def either(sentence: str) -> WrapValidator:
    """For a union: one fault with this sentence, at the field, where pydantic would report one for each branch."""

    def check(value: Any, branches: ValidatorFunctionWrapHandler) -> Any:
        try:
            return branches(value)
        except ValidationError:
            raise PydanticCustomError("either", "{sentence}", {"sentence": sentence}) from None

    return WrapValidator(check)


Name = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9_.-]+$")]
"""A name inside a workflow (data configs, evaluators, metrics, passes)."""

DnsName = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
"""The name of a Kubernetes object."""

SecretKey = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
"""The name of a key in a Secret."""

Text = Annotated[str, StringConstraints(max_length=1024)]
ShortText = Annotated[str, StringConstraints(max_length=256)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00-\x1f\x7f]+$")]
ModulePath = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.]+$")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
LABEL_KEY_CHARACTERS = 317
"""Of a prefix, a slash and a name: the longest that Kubernetes takes."""
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=LABEL_KEY_CHARACTERS)]
LabelValue = Annotated[str, StringConstraints(max_length=253)]
SHORT_KEYS = {
    "x-kubernetes-validations": [
        {
            "rule": f"self.all(key, key.size() <= {LABEL_KEY_CHARACTERS})",
            "message": f"a key may have {LABEL_KEY_CHARACTERS} characters",
        }
    ]
}
"""A structural schema bounds the values of a map, not its keys."""
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32, json_schema_extra=SHORT_KEYS)]
QUANTITY_PATTERN = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
Quantity = Annotated[
    StrictInt | Annotated[str, StringConstraints(max_length=32, pattern=QUANTITY_PATTERN)],
    Field(union_mode="left_to_right"),
    either('must be a whole number, or an amount such as "500m" or "16Gi" of at most 32 characters'),
]
"""An amount as Kubernetes writes it: 4, "500m", "16Gi"."""
BINARY, DECIMAL = (
    "KMGTPE",
    {"n": -9, "u": -6, "m": -3, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18},
)


def bytes_of(quantity: int | str) -> int:
    """A Quantity as whole bytes, what is left of one cut off."""
    text = str(quantity)
    if text.endswith("i"):
        return int(Decimal(text[:-2]) * 1024 ** (BINARY.index(text[-2]) + 1))
    if text[-1] in DECIMAL:
        return int(Decimal(text[:-1]).scaleb(DECIMAL[text[-1]]))
    return int(Decimal(text))


Quantities = Annotated[dict[LabelKey, Quantity], Field(max_length=16, json_schema_extra=SHORT_KEYS)]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A number of things; every JSON reader, whatever its numbers are, reads it exactly."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that JSON can write: neither infinite nor NaN."""
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number that is not below zero."""
