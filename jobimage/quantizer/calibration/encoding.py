"""Token ids of text of any length in bounded memory: a tokenizer takes 200 bytes for each byte of text.

A text longer than a window is encoded in overlapping windows. Tokens depend only on nearby text, so in the middle of
an overlap both windows have the same tokens; there the second takes over from the first. If they do not agree, the
text is encoded with wider windows, and in the end as a whole.
"""

from array import array
from collections.abc import Callable, Iterator
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

WINDOW, OVERLAP = 1 << 18, 1 << 13
"""Characters. A shorter text is encoded as it is."""
AGREEING = 16
"""Consecutive tokens that both windows must share."""

Ids: TypeAlias = "array[int]"
Token = tuple[int, int, int]
"""An id and the characters [start, end) of the text that it stands for."""


class _NoCommonTokensError(Exception):
    """Two windows do not have the same tokens in the middle of their overlap."""


def encode(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    special: bool,
    enough: int | None = None,
    step: Callable[[], None] = lambda: None,
    window: int = WINDOW,
    overlap: int = OVERLAP,
) -> Ids:
    """The ids of a text, or at least the first `enough` of them.

    special: with the special tokens of a whole text. step: called before each window.
    """
    while len(text) > window and getattr(tokenizer, "is_fast", False):
        ids = array("q")
        try:
            for part in _windows(tokenizer, text, special, step, window, overlap):
                ids.extend(part)
                if enough is not None and len(ids) >= enough:
                    break
        except _NoCommonTokensError:
            window, overlap = 4 * window, 4 * overlap
        else:
            return ids
    step()
    return array("q", encode_each(tokenizer, [text], special=special)[0])


def encode_each(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, special: bool) -> list[list[int]]:
    """The ids of each of several texts."""
    encoded = tokenizer(texts, add_special_tokens=special, padding=False, truncation=False, verbose=False)
    return [list(ids) for ids in encoded["input_ids"]]


def _windows(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    special: bool,
    step: Callable[[], None],
    window: int,
    overlap: int,
) -> Iterator[list[int]]:
    """The ids, a window's at a time."""
    earlier: list[Token] = []
    for start in range(0, len(text) - overlap, window - overlap):
        step()
        tokens = _tokens(tokenizer, text[start : start + window], special, start)
        if start:
            last, first = _takeover(earlier, tokens, start, overlap)
            yield [token[0] for token in earlier[:last]]
            tokens = tokens[first:]
        earlier = tokens
    yield [token[0] for token in earlier]


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str, special: bool, start: int) -> list[Token]:
    encoded = tokenizer(
        text, add_special_tokens=special, truncation=False, verbose=False, return_offsets_mapping=True
    )
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    return [(token, start + first, start + last) for token, (first, last) in pairs]


def _takeover(earlier: list[Token], later: list[Token], start: int, overlap: int) -> tuple[int, int]:
    """Where `later` takes over: its tokens from the second number on are those of `earlier` from the first on."""
    low, high = start + overlap // 4, start + 3 * overlap // 4
    places: dict[Token, int] = {}
    for place, token in enumerate(later):
        if token[1] > high:
            break
        places.setdefault(token, place)
    for place in range(len(earlier) - 1, -1, -1):
        token = earlier[place]
        if token[1] < low:
            break
        found = places.get(token) if token[2] <= high else None
        if found is not None:
            same = earlier[place : place + AGREEING] == later[found : found + AGREEING]
            if same and place + AGREEING <= len(earlier):
                return place, found
    raise _NoCommonTokensError
