"""Token batches from rows of text: the sequences that a model is calibrated and measured on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from quantization_api.failures import Category, QuantizationError
from quantizer.checkpoint.source import Source, read_whole

BATCH_TOKENS = 1024
"""Tokens that are in a layer at a time, at least one sequence. On a CPU a product of 512 rows is as fast as one of
2,048, and its results stay in the processor's caches."""
ROWS_AT_ONCE = 1024
TOKENIZER_FILES = ("tokeniz", "vocab", "merges", "special_tokens", "added_tokens", "spiece", "chat_template")


@dataclass(frozen=True)
class Preprocess:
    """How text becomes sequences (Olive's pre_process_data_config).

    strategy: join puts `joiner` between rows and cuts consecutive sequences of max_seq_len tokens, the
        rest is left over; line-by-line makes one sequence of each row, cut at max_seq_len.
    max_samples: sequences to take; None is all there are.
    """

    strategy: Literal["join", "line-by-line"] = "join"
    max_seq_len: int = 1024
    max_samples: int | None = None
    joiner: str = "\n\n"
    add_special_tokens: bool = True


@dataclass(frozen=True)
class TokenBatches:
    """Sequences of token ids (int64, one dimension), and their fixed split into batches.

    Sequences are never padded: a batch holds consecutive sequences of equal length, so every token that
    enters the statistics is a token of the text.
    """

    sequences: tuple[Tensor, ...]
    batch_tokens: int = BATCH_TOKENS

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return sum(len(sequence) for sequence in self.sequences)

    def sample(self, count: int, seed: int, batch_size: int) -> "TokenBatches":
        """Some of the sequences, chosen by a seed and left in their order, `batch_size` of equal length a batch."""
        chosen = sorted(random.Random(seed).sample(range(len(self.sequences)), count))
        sequences = tuple(self.sequences[index] for index in chosen)
        return TokenBatches(sequences, batch_size * max(len(sequence) for sequence in sequences))

    def batches(self) -> list[Tensor]:
        """Batches [sequences, tokens] of about batch_tokens; the same split for the same sequences."""
        groups: list[list[Tensor]] = []
        for sequence in self.sequences:
            length = len(sequence)
            room = max(1, self.batch_tokens // length)
            if groups and len(groups[-1][0]) == length and len(groups[-1]) < room:
                groups[-1].append(sequence)
            else:
                groups.append([sequence])
        return [torch.stack(group) for group in groups]


PROBE_TOKENS = 32
PROBE_STEP = 7919  # a prime: the probe's token ids are spread over the vocabulary


def probe_tokens(vocabulary: int, max_positions: int) -> TokenBatches:
    """One short sequence of ids from all over the vocabulary, to see that a model runs."""
    length = min(PROBE_TOKENS, max_positions)
    return TokenBatches((torch.arange(length, dtype=torch.int64) * PROBE_STEP % vocabulary,))


def load_tokenizer(source: Source, scratch: Path) -> PreTrainedTokenizerBase:
    """The model's tokenizer; its files are copied to scratch, code of the model is never run.

    Raises:
        QuantizationError: ModelUnsupported when there is none or it does not load.
    """
    names = [
        name
        for name in source.list()
        if "/" not in name and (name.startswith(TOKENIZER_FILES) or name.endswith((".model", ".tiktoken")))
    ]
    folder = scratch / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    for name in [*names, "config.json"]:
        (folder / name).write_bytes(read_whole(source, name))
    if not names:
        raise QuantizationError(Category.MODEL_UNSUPPORTED, "the model has no tokenizer files")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizer libraries raise anything for a bad file
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED, f"the tokenizer does not load: {error}"
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def make_batches(
    rows: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    preprocess: Preprocess,
    *,
    vocabulary: int,
    max_positions: int,
) -> TokenBatches:
    """Tokenizes rows of text.

    Args:
        vocabulary, max_positions: of the model (vocab_size, max_position_embeddings of its config).

    Raises:
        QuantizationError: InvalidWorkflow when max_seq_len is more than the model can take;
            DataInsufficient, with the tokens there are and the tokens needed, when the text is too short;
            ModelUnsupported when the tokenizer makes ids that the model has no embedding for.
    """
    if preprocess.max_seq_len > max_positions:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"max_seq_len is {preprocess.max_seq_len}, but the model takes at most {max_positions} tokens",
            f"Set max_seq_len to {max_positions} or less.",
        )
    if preprocess.strategy == "join":
        sequences = _join(rows, tokenizer, preprocess)
    else:
        sequences = _line_by_line(rows, tokenizer, preprocess)
    largest = max((int(sequence.max()) for sequence in sequences), default=0)
    if max(largest + 1, len(tokenizer)) > vocabulary:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocabulary only {vocabulary}",
            "Use the tokenizer that belongs to the model.",
        )
    return TokenBatches(tuple(sequences))


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=special, padding=False, truncation=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def _join(rows: Sequence[str], tokenizer: PreTrainedTokenizerBase, preprocess: Preprocess) -> list[Tensor]:
    """Joins rows as text, so that the joiner is tokenized in its place; stops when there are enough tokens."""
    length, wanted = preprocess.max_seq_len, preprocess.max_samples
    ids: list[int] = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        text = preprocess.joiner.join(rows[first : first + ROWS_AT_ONCE])
        if first + ROWS_AT_ONCE < len(rows):
            text += preprocess.joiner
        ids += _encode(tokenizer, [text], preprocess.add_special_tokens and first == 0)[0]
        if wanted is not None and len(ids) >= wanted * length:
            break
    count = len(ids) // length if wanted is None else min(wanted, len(ids) // length)
    needed = wanted or 1
    if count < needed:
        raise QuantizationError(
            Category.DATA_INSUFFICIENT,
            f"the text has {len(ids)} tokens; {needed} sequences of {length} need {needed * length}",
        )
    return list(torch.tensor(ids[: count * length], dtype=torch.int64).view(count, length))


def _line_by_line(
    rows: Sequence[str], tokenizer: PreTrainedTokenizerBase, preprocess: Preprocess
) -> list[Tensor]:
    wanted = preprocess.max_samples
    sequences: list[Tensor] = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        texts = list(rows[first : first + ROWS_AT_ONCE])
        for ids in _encode(tokenizer, texts, preprocess.add_special_tokens):
            if ids:
                sequences.append(torch.tensor(ids[: preprocess.max_seq_len], dtype=torch.int64))
        if wanted is not None and len(sequences) >= wanted:
            break
    if len(sequences) < (wanted or 1):
        tokens = sum(len(sequence) for sequence in sequences)
        raise QuantizationError(
            Category.DATA_INSUFFICIENT,
            f"the text has {len(sequences)} lines that are not empty ({tokens} tokens); "
            f"{wanted or 1} sequences are needed",
        )
    return sequences[:wanted]
