"""Token batches from rows of text: the sequences that a model is calibrated and measured on."""

import contextlib
import random
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from quantization_api.failures import Category, QuantizationError
from quantizer.boundary.bounded_json import in_utf8, parse
from quantizer.boundary.reading import reading
from quantizer.calibration.apart import in_a_child
from quantizer.calibration.encoding import WINDOW, Ids, encode, encode_each
from quantizer.checkpoint.source import Source, read_whole

BATCH_TOKENS = 1024
"""Tokens that go through a layer at a time, at least one sequence. On a CPU a product of 512 rows is as fast as one of
2,048, and its results stay in the caches."""
ROWS_AT_ONCE = 1024
CHILD_BYTES, TOKENIZER_BYTES = 300_000_000, 48
"""Memory that a tokenizer may use: a base, and for each byte of its files; Gemma's uses 13."""
TOKENIZER_FILES = ("tokeniz", "vocab", "merges", "special_tokens", "added_tokens", "spiece", "chat_template")


@dataclass(frozen=True)
class Preprocess:
    """How text becomes sequences (Olive's pre_process_data_config)."""

    strategy: Literal["join", "line-by-line"] = "join"
    """join: puts `joiner` between rows and cuts consecutive sequences of max_seq_len tokens, without the remainder;
    line-by-line: makes one sequence of each row, cut at max_seq_len."""
    max_seq_len: int = 1024
    max_samples: int | None = None
    """Sequences to take; None takes all."""
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
    """One short sequence of ids from all over the vocabulary, to check that a model runs."""
    length = min(PROBE_TOKENS, max_positions)
    return TokenBatches((torch.arange(length, dtype=torch.int64) * PROBE_STEP % vocabulary,))


COPY_TOKENIZER = (
    "Copy the tokenizer's files again from where the model comes from; one that is code of its own is not run: save "
    "it as a tokenizer.json first."
)


def copy_tokenizer(source: Source, scratch: Path) -> tuple[Path, int]:
    """A folder with the files of the model's tokenizer, and their size in bytes.

    Raises:
        QuantizationError: ModelUnsupported when there is none.
    """
    names = [
        name
        for name in source.list()
        if "/" not in name and (name.startswith(TOKENIZER_FILES) or name.endswith((".model", ".tiktoken")))
    ]
    if not names:
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            "the model has no tokenizer files",
            "Copy the model's tokenizer (tokenizer.json or tokenizer.model, tokenizer_config.json) beside the weights.",
        )
    folder, size = scratch / "tokenizer", 0
    folder.mkdir(parents=True, exist_ok=True)
    for name in [*names, "config.json"]:
        data = read_whole(source, name)
        if name.endswith(".json"):
            with reading(Category.MODEL_UNSUPPORTED, f"the tokenizer's {name}", COPY_TOKENIZER):
                parse(data, len(data))
            data = in_utf8(data)
        (folder / name).write_bytes(data)
        size += len(data)
    return folder, size


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder of its files; code of the model is never run.

    Raises:
        QuantizationError: ModelUnsupported when it does not load.
    """
    with reading(Category.MODEL_UNSUPPORTED, "the tokenizer", COPY_TOKENIZER):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise TypeError(f"{type(tokenizer).__name__} is not a tokenizer")
    return tokenizer


@dataclass(frozen=True)
class Encoded:
    """The result of tokenizing a text."""

    sequences: list[Ids]
    tokens: int
    """Size of the tokenizer's vocabulary."""


def encode_rows(
    rows: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    preprocess: Preprocess,
    step: Callable[[], None] = lambda: None,
) -> Encoded:
    """The sequences of rows of text, as many as are asked for.

    Raises:
        QuantizationError: DataInsufficient, with the tokens there are and the tokens needed.
    """
    make = _join if preprocess.strategy == "join" else _line_by_line
    return Encoded(make(rows, tokenizer, preprocess, step), len(tokenizer))


def encode_apart(
    source: Source, scratch: Path, texts: Mapping[str, tuple[Sequence[str], Preprocess]]
) -> dict[str, Encoded]:
    """encode_rows of each text with the model's tokenizer, in a child process with limits of time and memory.

    Raises:
        QuantizationError: ModelUnsupported for a tokenizer that does not load or does not end; see encode_rows.
    """
    folder, size = copy_tokenizer(source, scratch)

    def work(step: Callable[[], None]) -> bytes:
        tokenizer = load_tokenizer(folder)
        parts = []
        for name, (rows, preprocess) in texts.items():
            with naming(name):
                parts.append(encode_rows(rows, tokenizer, preprocess, step))
        return _packed(parts)

    room = (
        CHILD_BYTES
        + TOKENIZER_BYTES * size
        + 64 * max((_wanted(item) for _, item in texts.values()), default=0)
    )
    answer = in_a_child(work, room, Category.MODEL_UNSUPPORTED, "the tokenizer", COPY_TOKENIZER)
    return dict(zip(texts, _unpacked(answer), strict=True))


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Says in an error which data config it is about."""
    try:
        yield
    except QuantizationError as error:
        message = f"data config {name}: {error.message}"
        raise QuantizationError(error.category, message, error.hint) from error


def _wanted(preprocess: Preprocess) -> int:
    return (preprocess.max_samples or 0) * preprocess.max_seq_len


def _packed(parts: Sequence[Encoded]) -> bytes:
    """Encoded texts as numbers: how many there are; of each its tokens, its sequences, their lengths and ids."""
    numbers = array("q", [len(parts)])
    for part in parts:
        numbers.extend([part.tokens, len(part.sequences), *map(len, part.sequences)])
        for sequence in part.sequences:
            numbers.extend(sequence)
    return numbers.tobytes()


def _unpacked(data: bytes) -> list[Encoded]:
    numbers = array("q")
    numbers.frombytes(data)
    parts, place = [], 1
    for _ in range(numbers[0]):
        tokens, count = numbers[place : place + 2]
        lengths = numbers[place + 2 : place + 2 + count]
        place += 2 + count
        sequences = []
        for length in lengths:
            sequences.append(numbers[place : place + length])
            place += length
        parts.append(Encoded(sequences, tokens))
    return parts


def check_length(preprocess: Preprocess, max_positions: int) -> None:
    """Raises InvalidWorkflow when max_seq_len is more than the model takes (its max_position_embeddings)."""
    if preprocess.max_seq_len > max_positions:
        raise QuantizationError(
            Category.INVALID_WORKFLOW,
            f"max_seq_len is {preprocess.max_seq_len}, but the model takes at most {max_positions} tokens",
            f"Set max_seq_len to {max_positions} or less.",
        )


def batches_of(encoded: Encoded, vocabulary: int) -> TokenBatches:
    """Token batches of an encoded text; ModelUnsupported for ids that the model has no embedding for.

    Only ids that occur count: a padding token that was added to the tokenizer, but not to the model, is in no text.
    """
    beyond = [
        (row, largest)
        for row, sequence in enumerate(encoded.sequences, start=1)
        if (largest := max(sequence)) >= vocabulary
    ]
    if beyond:
        row, token = beyond[0]
        rows = f"{len(beyond)} of {len(encoded.sequences)} sequences have such tokens, the first is sequence {row}"
        raise QuantizationError(
            Category.MODEL_UNSUPPORTED,
            f"the tokenizer, which has {encoded.tokens} tokens, makes token {token} of the text, but the model's "
            f"vocabulary has only {vocabulary} tokens ({rows})",
            "Use the tokenizer that belongs to the model; or, if tokens were added to it, give the model embeddings "
            "for them (resize_token_embeddings).",
        )
    return TokenBatches(tuple(torch.tensor(sequence, dtype=torch.int64) for sequence in encoded.sequences))


def _join(
    rows: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    preprocess: Preprocess,
    step: Callable[[], None],
) -> list[Ids]:
    """Joins rows as text, so that the joiner is tokenized in its place; stops when there are enough tokens."""
    length, wanted = preprocess.max_seq_len, preprocess.max_samples
    ids = array("q")
    for first in range(0, len(rows), ROWS_AT_ONCE):
        text = preprocess.joiner.join(rows[first : first + ROWS_AT_ONCE])
        if first + ROWS_AT_ONCE < len(rows):
            text += preprocess.joiner
        special = preprocess.add_special_tokens and first == 0
        enough = None if wanted is None else wanted * length - len(ids)
        ids += encode(tokenizer, text, special=special, enough=enough, step=step)
        if wanted is not None and len(ids) >= wanted * length:
            break
    count = len(ids) // length if wanted is None else min(wanted, len(ids) // length)
    needed = wanted or 1
    if count < needed:
        raise QuantizationError(
            Category.DATA_INSUFFICIENT,
            f"the text has {len(ids)} tokens; {needed} sequences of {length} need {needed * length}",
        )
    return [ids[place : place + length] for place in range(0, count * length, length)]


def _line_by_line(
    rows: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    preprocess: Preprocess,
    step: Callable[[], None],
) -> list[Ids]:
    wanted = preprocess.max_samples
    sequences: list[Ids] = []
    for texts in _groups(rows):
        step()
        if len(texts) == 1:
            length = preprocess.max_seq_len
            encoded = [
                encode(tokenizer, texts[0], special=preprocess.add_special_tokens, enough=length, step=step)
            ]
        else:
            lines = encode_each(tokenizer, texts, special=preprocess.add_special_tokens)
            encoded = [array("q", ids) for ids in lines]
        sequences += [ids[: preprocess.max_seq_len] for ids in encoded if ids]
        if wanted is not None and len(sequences) >= wanted:
            break
    if len(sequences) < (wanted or 1):
        tokens = sum(len(sequence) for sequence in sequences)
        raise QuantizationError(
            Category.DATA_INSUFFICIENT,
            f"the text has {len(sequences)} non-empty lines ({tokens} tokens); "
            f"{wanted or 1} sequences are needed",
        )
    return sequences[:wanted]


def _groups(rows: Sequence[str]) -> Iterator[list[str]]:
    """Rows that are encoded together: not too many, and of not too many characters."""
    group: list[str] = []
    size = 0
    for row in rows:
        if group and (len(group) == ROWS_AT_ONCE or size + len(row) > WINDOW):
            yield group
            group, size = [], 0
        group.append(row)
        size += len(row)
    if group:
        yield group
