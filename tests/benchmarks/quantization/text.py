"""The token sequences: every engine calibrates on the same file of them, and is measured on the same held-out ones."""

from pathlib import Path

import torch
from tests.support.tokens import make_batches, tokenizer_of
from torch import Tensor

from quantizer.calibration.text import read_rows
from quantizer.calibration.tokens import Preprocess
from quantizer.checkpoint.source import DirectorySource


def text_sequences(
    model: Path, text: Path, count: int, length: int, vocabulary: int, scratch: Path
) -> Tensor:
    """The first `count` sequences of a text, tokenized for the model: int64 [count, length]."""
    tokenizer = tokenizer_of(DirectorySource(model), scratch)
    rows = read_rows(text.read_bytes(), text.name)
    preprocess = Preprocess(max_seq_len=length, max_samples=count)
    batches = make_batches(rows, tokenizer, preprocess, vocabulary=vocabulary, max_positions=length)
    return torch.stack(batches.sequences)


def random_sequences(count: int, length: int, vocabulary: int, seed: int) -> Tensor:
    """Random tokens, for a model with random weights: int64 [count, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocabulary, (count, length), generator=generator)
