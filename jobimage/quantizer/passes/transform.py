"""What a pass does to a whole model before its linears are rounded; most do nothing."""

from typing import Any, Protocol

from torch import Tensor


class Transform(Protocol):
    """A change of a model's tensors that keeps its function. Names are those of the checkpoint."""

    @property
    def added(self) -> dict[str, str]:
        """Tensors outside the layers that the input has not -> the tensor that each is made from."""
        ...

    def hidden(self, states: Tensor) -> Tensor:
        """Hidden states [..., width] before the first layer, from the input model's."""
        ...

    def layer(self, index: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of a layer by their names in it; `weights` may be emptied on the way."""
        ...

    def outside(self, name: str, rows: Tensor) -> Tensor:
        """A slice of rows of a tensor outside the layers, added ones included."""
        ...

    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        """config.json."""
        ...

    def files(self) -> dict[str, bytes]:
        """Further files of the checkpoint by name."""
        ...


class Unchanged:
    """The model as it is."""

    added: dict[str, str] = {}  # noqa: RUF012 - never changed

    def hidden(self, states: Tensor) -> Tensor:
        """See Transform."""
        return states

    def layer(self, index: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        """See Transform."""
        return weights

    def outside(self, name: str, rows: Tensor) -> Tensor:  # noqa: ARG002
        """See Transform."""
        return rows

    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        """See Transform."""
        return config

    def files(self) -> dict[str, bytes]:
        """See Transform."""
        return {}
