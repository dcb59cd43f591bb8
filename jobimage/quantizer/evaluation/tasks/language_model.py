"""lm-eval's LM interface over any function that scores tokens.

Text becomes tokens exactly as lm-eval's own `hf` model makes them (its defaults), so that figures can be compared: the
special tokens are the tokenizer's, trailing spaces of a context move to the continuation, a context that is too long
loses its beginning, and a text that is longer than the model takes is scored in disjoint windows.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedTokenizerBase

from quantizer.evaluation.tasks.requests import Answer, Pair, Prompt

Score = Callable[[Sequence[Pair]], Sequence[Answer]]
"""Log-likelihoods of continuations, in the order of the pairs."""
Generate = Callable[[Sequence[Prompt]], Sequence[Sequence[int]]]
"""The new tokens of each prompt, greedily chosen."""

MOST_NEW_TOKENS = 256
"""lm-eval's own default."""


class TokenLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """A model that lm-eval can ask, given what scores and continues tokens.

    Args:
        config: the model's, for the length that it takes.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: Any, score: Score, generate: Generate
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = resolve_max_length(config, tokenizer)
        self._score, self._generate = score, generate

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """With the tokenizer's special tokens unless told otherwise, or the text has the first one already."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **given))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[Answer]:
        return list(self._score([Pair.cut(context, more, self.max_length) for _, context, more in requests]))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:  # noqa: ARG002
        """Of whole texts, each in windows that overlap by nothing but the token before them."""
        windows = [self._windows(request.args[0]) for request in requests]
        answers = iter(self._score([pair for group in windows for pair in group]))
        return [sum(next(answers)[0] for _ in group) for group in windows]

    def _windows(self, text: str) -> list[Pair]:
        found = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
        return [
            Pair.cut(context, more, self.max_length) for context, more in map(make_disjoint_window, found)
        ]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002
        """Greedy continuations, cut where a stop sequence begins."""
        end = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        prompts, stops = [], []
        for request in requests:
            context, given = request.args
            wanted = dict(normalize_gen_kwargs(given, MOST_NEW_TOKENS))
            if wanted.get("do_sample") or wanted.get("num_beams", 1) != 1:
                raise ValueError(
                    "generation_kwargs ask for sampling or beams; only greedy decoding is available"
                )
            stops.append(handle_stop_sequences(wanted.get("until"), eos=end))
            new = int(wanted["max_gen_toks"])
            if new >= self.max_length:
                raise ValueError(
                    f"max_gen_toks is {new}, but the model takes at most {self.max_length} tokens"
                )
            special = False if has_bos_prefix(context, self.tokenizer.bos_token) else None
            ids = self.tok_encode(context, add_special_tokens=special)
            prompts.append(Prompt(ids[-(self.max_length - new) :], new))
        made = self._generate(prompts)
        return [
            postprocess_generated_text(self.tokenizer.decode(list(ids), skip_special_tokens=True), stop, None)
            for ids, stop in zip(made, stops, strict=True)
        ]
