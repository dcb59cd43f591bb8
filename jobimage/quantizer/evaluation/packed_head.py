"""A packed head, as the table of plain rows that it stands for."""

import torch
from torch import Tensor
from typing_extensions import override

from quantization_api.failures import Category
from quantizer.checkpoint.reader import SafetensorsReader, TensorInfo
from quantizer.checkpoint.source import Source
from quantizer.passes.quantized import HeadAsRead


class ArtifactReader(SafetensorsReader):
    """The tensors of an artifact; a packed head is, once `show_head` was called, the weight that readers compute."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, broken=Category.ARTIFACT_CORRUPT)
        self._shown: dict[str, HeadAsRead] = {}

    def show_head(self, name: str, head: HeadAsRead) -> None:
        """Gives the weight of that name beside the tensors that lie in the files."""
        rows, columns = head.weight.integers.shape[0], len(head.weight.g_idx)
        self._shown[name] = head
        self.tensors = {
            **self.stored,
            name: TensorInfo(name, torch.float16, (rows, columns), "", 0, 2 * rows * columns),
        }

    @override
    def tensor(self, name: str) -> Tensor:
        if name not in self._shown:
            return super().tensor(name)
        return self.rows(name, 0, self.tensors[name].shape[0])

    @override
    def rows(self, name: str, first: int, last: int) -> Tensor:
        if name not in self._shown:
            return super().rows(name, first, last)
        return self._shown[name].rows(first, last)
