"""What passes that round a model as it is have in common."""

from collections.abc import Mapping
from typing import Self

from torch import Tensor

from quantizer.algorithms.grid import Scheme
from quantizer.decoder.layout import DecoderLayout
from quantizer.passes.data_type import SAVE_IN_ANOTHER
from quantizer.passes.interface import FinishedLayer, FloatModel, GroupSizes, HeadContext
from quantizer.passes.transform import Transform, Unchanged


class UniformPass:
    """The part of a LayerPass that treats all linears alike."""

    @property
    def chooses(self) -> bool:
        return False

    @property
    def follows_float(self) -> bool:
        return False

    def of(self, name: str) -> Self:  # noqa: ARG002 - alike
        return self

    def candidates(self, model: DecoderLayout) -> tuple[Self, ...]:  # noqa: ARG002 - any model
        return (self,)

    def choose(self, whole: FloatModel) -> dict[str, Scheme]:  # noqa: ARG002 - nothing to choose
        return {}

    @property
    def rounds_head(self) -> bool:
        return False

    def run_head(self, head: HeadContext) -> FinishedLayer:
        raise NotImplementedError(f"{type(self).__name__} leaves the head as it is")

    def with_schemes(self, schemes: Mapping[str, Scheme]) -> Self:  # noqa: ARG002 - none is made
        return self


class PlainPass(UniformPass):
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
