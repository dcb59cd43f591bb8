"""String and list types with the bounds that the API server needs to estimate the cost of rules."""

from typing import Annotated

from pydantic import Field, StringConstraints

Name = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9_.-]+$")]
"""A name inside a workflow (data configs, evaluators, metrics, passes)."""

DnsName = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
"""The name of a Kubernetes object."""

Text = Annotated[str, StringConstraints(max_length=1024)]
ShortText = Annotated[str, StringConstraints(max_length=256)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
ModulePath = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.]+$")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
Quantity = Annotated[int | str, Field(union_mode="left_to_right")]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
"""A number of things; every JSON reader, whatever its numbers are, reads it exactly."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
"""A number that JSON can write: neither infinite nor NaN."""
Positive = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite number that is not below zero."""
