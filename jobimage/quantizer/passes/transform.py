"""What a pass does to a whole model before its linears are rounded; most do nothing."""

from typing import Any, Protocol

from torch import Tensor
from typing_extensions import override

from quantizer.passes.ranges import LayerWatch


class Transform(Protocol):
    """A change of a model's tensors that keeps its function. Names are those of the checkpoint."""

    @property
    def added(self) -> dict[str, str]:
        """Tensors outside the layers that the input has not -> the tensor that each is made from."""
        ...

    @property
    def changes_hidden(self) -> bool:
        """Whether hidden states are others than the input model's, for whoever reads them beside the model."""
        ...

    def hidden(self, states: Tensor) -> Tensor:
        """Hidden states [..., width] before the first layer, from the input model's."""
        ...

    def back(self, states: Tensor) -> Tensor:
        """Hidden states [..., width] behind the last layer -> the input model's, as its final norm reads them."""
        ...

    def layer(self, index: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The parameters of a layer by their names in it; `weights` may be emptied on the way."""
        ...

    def watch(self) -> LayerWatch | None:
        """What the last layer's numbers were before its change and are now; None where nothing is rotated."""
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


class Unchanged(Transform):
    """The model as it is."""

    @property
    @override
    def added(self) -> dict[str, str]:
        return {}

    @property
    @override
    def changes_hidden(self) -> bool:
        return False

    @override
    def hidden(self, states: Tensor) -> Tensor:
        return states

    @override
    def back(self, states: Tensor) -> Tensor:
        return states

    @override
    def layer(self, index: int, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return weights

    @override
    def watch(self) -> None:
        return None

    @override
    def outside(self, name: str, rows: Tensor) -> Tensor:
        return rows

    @override
    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        return config

    @override
    def files(self) -> dict[str, bytes]:
        return {}
