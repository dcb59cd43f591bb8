"""A gptq (v1) or awq (gemm) checkpoint on disk: its linears, unpacked, and its decoder layers as read."""

import torch

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.quantized_weight import QuantizedWeight
from quantizer.checkpoint.source import Source
from quantizer.decoder.layout import read_config
from quantizer.evaluation.views import PackedView
from quantizer.formats.gptq import GptqFormat
from quantizer.formats.reading import stored_format


class QuantizedCheckpoint(PackedView):
    """A checkpoint whose linears are all quantized, in groups that lie one after another.

    Raises:
        QuantizationError: ArtifactCorrupt when a tensor is missing or damaged; InvalidWorkflow when a
            linear is not quantized or its groups do not lie one after another.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source, torch.device("cpu"))
        self._stored = stored_format(read_config(source))
        for index in range(self.model.layout.layers):
            self.names(index)
            for linear in self.model.layout.linears(index):
                self._check(self.model.layout.layer_prefix(index) + linear)

    @property
    def linears(self) -> list[str]:
        """Full names of all linears, in execution order."""
        layout = self.model.layout
        return [
            layout.layer_prefix(index) + name
            for index in range(layout.layers)
            for name in layout.linears(index)
        ]

    def linear(self, name: str) -> QuantizedWeight:
        """A linear by its full name: integers [N, K], scales and zeros [N, G], group of each column [K]."""
        layout = self._stored.format
        return layout.unpack(
            name, {kind: self.model.layout.reader.tensor(f"{name}.{kind}") for kind in layout.tensors}
        )

    def _check(self, name: str) -> None:
        tensors, group_size = self.model.layout.reader.tensors, self._stored.grid.group_size
        if f"{name}.weight" in tensors:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"{name} is not quantized, and ModelBuilder cannot leave single linears in float; quantize all "
                "linears of the decoder layers in the pass before it",
            )
        columns = tensors[f"{name}.qweight"].shape[0]
        if isinstance(self._stored.format, GptqFormat):
            groups = self.model.layout.reader.tensor(f"{name}.g_idx")
            columns = groups.numel()
            if not torch.equal(groups.long(), torch.arange(columns) // group_size):
                raise QuantizationError(
                    Category.INVALID_WORKFLOW,
                    f"the groups of {name} do not lie one after another (desc_act), and onnxruntime computes "
                    "such weights wrongly on a CPU; write static_groups: true beside desc_act: true",
                )
        if columns % group_size:
            raise QuantizationError(
                Category.INVALID_WORKFLOW,
                f"groups of {group_size} do not divide the {columns} inputs of {name}, which ModelBuilder "
                f"needs; write a group size that does",
            )
