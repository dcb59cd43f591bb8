"""Tokenizers and token batches made in the test's own process; a run tokenizes in a child process."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

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


def save_byte_tokenizer(folder: Path, letters: Sequence[str] = (), **more: str) -> int:
    """Writes a tokenizer with a token for each byte, or for these alone, and returns how many tokens it has.

    letters: as the tokenizer writes bytes; a space is Ġ. more: special tokens behind them, by their attribute.
    """
    letters = letters or sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *letters, *more.values()])
    }
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    extra = {"extra_special_tokens": more} if more else {}
    PreTrainedTokenizerFast(tokenizer_object=made, **special, **extra).save_pretrained(folder)
    return len(vocabulary)


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
