"""The pass of a workflow that rounds weights: everything a run asks of it, in one object."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from quantization_api.passes import AutoAWQQuantizer, GptqQuantizer, QuaRot
from quantizer.calibration.tokens import TokenBatches
from quantizer.decoder.architecture import ModuleNames
from quantizer.passes.interface import LayerPass
from quantizer.passes.written import Written

WeightParameters = GptqQuantizer | AutoAWQQuantizer | QuaRot
"""The passes of the contract that round weights layer by layer."""
Parameters = TypeVar("Parameters", bound=WeightParameters)


@dataclass(frozen=True)
class WeightPass(ABC, Generic[Parameters]):
    """A pass with the parameters of its workflow; a subclass for each type of the contract, listed in making.PASSES."""

    parameters: Parameters

    @property
    @abstractmethod
    def methods(self) -> tuple[str, ...]:
        """What is done to the weights, as the model card calls it."""

    @cached_property
    def layer_pass(self) -> LayerPass:
        """The pass as the streaming loop runs it.

        Raises:
            QuantizationError: ModelUnsupported for what the transformers of this image cannot compute.
        """
        return self._make()

    @abstractmethod
    def _make(self) -> LayerPass: ...

    @property
    @abstractmethod
    def written(self) -> Written:
        """What it writes, apart from what the model decides."""

    @property
    @abstractmethod
    def data_config(self) -> str | None:
        """The data config that it calibrates with; None: the default text, where it needs one."""

    @property
    def needs_text(self) -> bool:
        """Whether it calibrates at all."""
        return True

    @property
    def modules(self) -> ModuleNames | None:
        """The module names that it gives for an architecture that is not in the table."""
        return None

    @property
    def package(self) -> str | None:
        """The stock package that computes instead of the engine; None: the engine."""
        return None

    @property
    def rtn_in_words(self) -> str:
        """What RTN in its figures is, as the end of the sentence "RTN is rounding to nearest ..."."""
        return "on the same grid"

    @property
    def rtn_of_linears_in_words(self) -> str:
        """The same where a single linear is compared."""
        return self.rtn_in_words

    def rounds_linear(self, name: str, layer: int) -> bool:  # noqa: ARG002 - most round them all
        """Whether it rounds a linear, by its name in decoder layer `layer`."""
        return True

    @property
    def is_for_onnx(self) -> bool:
        """Whether the checkpoint will be converted to ONNX elsewhere."""
        return False

    def calibration(self, tokens: TokenBatches) -> TokenBatches:
        """The sequences of its data config that it calibrates with.

        Raises:
            QuantizationError: DataInsufficient when there are too few.
        """
        return tokens
