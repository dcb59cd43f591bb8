"""What passes that round a model as it is have in common."""

from typing import Self

from torch import Tensor

from quantizer.decoder.layout import DecoderLayout
from quantizer.passes.data_type import SAVE_IN_ANOTHER
from quantizer.passes.interface import GroupSizes
from quantizer.passes.transform import Transform, Unchanged


class PlainPass:
    """The part of a LayerPass that needs to know nothing of the model beforehand."""

    @property
    def transform(self) -> Transform:
        return Unchanged()

    @property
    def wider_dtype(self) -> str:
        return SAVE_IN_ANOTHER

    @property
    def group_sizes(self) -> GroupSizes:
        return GroupSizes()

    @property
    def online(self) -> None:
        return None

    def bind(self, model: DecoderLayout) -> Self:  # noqa: ARG002 - any model will do
        return self

    def divisors(self, model: DecoderLayout, index: int) -> dict[str, int]:  # noqa: ARG002 - none
        return {}

    def replayed(self, name: str, weight: Tensor) -> Tensor:  # noqa: ARG002 - linears read what they read before
        return weight
