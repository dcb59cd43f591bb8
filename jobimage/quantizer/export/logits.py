"""The graph, run by onnxruntime, beside the checkpoint's weights as they are read, on a few tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.divergence import BatchDivergence
from quantizer.evaluation.views import View
from quantizer.export.plan import Bound
from quantizer.export.runtime import load_silently, runtime_errors

CACHE_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class Agreement:
    """How near a graph is to its checkpoint."""

    tokens: int
    """How many were compared."""
    top1_agreement: float
    """Share of them with the same most likely next token."""
    kl_divergence: float
    """Mean KL(checkpoint | graph), in nats."""
    max_abs_dlogit: float
    """Largest difference of a logit."""


def compare_logits(
    folder: Path,
    view: View,
    sequences: Sequence[Tensor],
    provider: str,
    on_sequence: Callable[[int], None] = lambda _done: None,
) -> Agreement:
    """Runs both models over the sequences [tokens] int64, one after another.

    Raises:
        QuantizationError: NumericalFailure when onnxruntime does not take or run the graph, or a logit is
            not finite.
    """
    graph = _Graph(folder, view, provider)
    total = sum(len(sequence) for sequence in sequences)
    same, divergence, difference = 0, 0.0, 0.0
    with torch.inference_mode():
        for done, hidden in enumerate(_hidden_states(view, sequences)):
            reference, candidate = _logits(view, hidden), graph.logits(sequences[done])
            if not bool(torch.isfinite(candidate).all()):
                raise QuantizationError(Category.NUMERICAL_FAILURE, "the ONNX graph's logits are not finite")
            part = BatchDivergence(torch.full((hidden.shape[1],), -1), candidates=1)
            part.update(0, reference, [candidate])
            divergence += float(part.candidates[0].divergence().sum())
            difference = max(difference, part.candidates[0].max_difference)
            same += int((reference.argmax(1) == candidate.argmax(1)).sum())
            on_sequence(done + 1)
    return Agreement(total, same / total, max(0.0, divergence / total), difference)


def require_agreement(agreement: Agreement, bound: Bound) -> None:
    """Raises NumericalFailure, with the figures, when the graph is further from the checkpoint than the bound."""
    close = (
        agreement.kl_divergence <= bound.kl_divergence and agreement.top1_agreement >= bound.top1_agreement
    )
    if not close:
        raise QuantizationError(
            Category.NUMERICAL_FAILURE,
            f"the ONNX graph does not compute what the checkpoint does: over {agreement.tokens} tokens the most "
            f"likely next token agrees for {agreement.top1_agreement:.2%} (at least {bound.top1_agreement:.0%}), "
            f"KL is {agreement.kl_divergence:.2e} (at most {bound.kl_divergence:.0e}), the largest difference of "
            f"a logit {agreement.max_abs_dlogit:.2e}",
            "With int4_accuracy_level: 4 leave that out; else use the checkpoint itself, without ModelBuilder.",
        )


class _Graph:
    """model.onnx in onnxruntime, whole sequences at once (an empty cache of keys and values)."""

    def __init__(self, folder: Path, view: View, provider: str) -> None:
        onnxruntime = load_silently("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong comes as an exception
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(
                str(folder / "model.onnx"), options, providers=[provider]
            )
        except runtime_errors() as error:
            raise _not_run("does not load the graph", error) from error
        config = view.model.layout.config
        heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
        width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        self._empty: dict[str, Any] = {
            entry.name: np.zeros((1, heads, 0, width), CACHE_TYPES[entry.type])
            for entry in self._session.get_inputs()
            if entry.name.startswith("past_key_values.")
        }

    def logits(self, sequence: Tensor) -> Tensor:
        """Logits [tokens, vocabulary] fp32."""
        ids = sequence.numpy()[None]
        feed = {**self._empty, "input_ids": ids, "attention_mask": np.ones_like(ids)}
        try:
            (values,) = self._session.run(["logits"], feed)
        except runtime_errors() as error:
            raise _not_run("does not run the graph", error) from error
        return torch.from_numpy(np.asarray(values[0], dtype=np.float32))


def _not_run(what: str, error: Exception) -> QuantizationError:
    return QuantizationError(Category.NUMERICAL_FAILURE, f"onnxruntime {what}: {error}")


def _hidden_states(view: View, sequences: Sequence[Tensor]) -> list[Tensor]:
    """What the head reads of each sequence: [1, tokens, width]."""
    hidden = list(view.model.embed([sequence.unsqueeze(0) for sequence in sequences]))
    for layer in view.layers():
        hidden = [layer.forward(states) for states in hidden]
    return [view.model.final(states) for states in hidden]


def _logits(view: View, read: Tensor) -> Tensor:
    slices = view.model.table_slices(view.model.layout.head_name())
    return torch.cat([view.model.logits(read, first, rows)[0] for first, rows in slices], dim=1)
