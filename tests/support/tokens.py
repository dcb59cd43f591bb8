"""Token batches made in the test's own process; a run tokenizes in a child process."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from quantizer.calibration.tokens import (
    Preprocess,
    TokenBatches,
    batches_of,
    check_length,
    copy_tokenizer,
    encode_rows,
    load_tokenizer,
)
from quantizer.checkpoint.source import Source


def tokenizer_of(source: Source, scratch: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer, loaded from a copy of its files."""
    return load_tokenizer(copy_tokenizer(source, scratch)[0])


def make_batches(
    rows: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    preprocess: Preprocess,
    *,
    vocabulary: int,
    max_positions: int,
) -> TokenBatches:
    """Tokenizes rows of text, with the checks that a run makes."""
    check_length(preprocess, max_positions)
    return batches_of(encode_rows(rows, tokenizer, preprocess), vocabulary)
