"""Perplexity and divergence of two models from their logits, slice of the vocabulary by slice.

With p the reference's and q the candidate's distribution over the next token, z their logits and
lse = log sum exp z:

    KL(p | q) = sum_v p_v (z_p - z_q) - lse_p + lse_q

All sums run over the vocabulary, so they are gathered slice by slice with a running maximum, and no
[tokens, vocabulary] matrix of the whole vocabulary ever exists.
"""

import torch
from torch import Tensor


class _Logits:
    """Running log-sum-exp over the vocabulary and the logit of the target, for each token of a batch."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets
        count = targets.shape[0]
        self.peak = torch.full((count,), -torch.inf, dtype=torch.float64, device=targets.device)
        self.total = torch.zeros(count, dtype=torch.float64, device=targets.device)
        self.target_logit = torch.zeros(count, dtype=torch.float64, device=targets.device)

    def update(self, first: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Takes logits [tokens, slice] of vocabulary entries from `first`; returns (exp(z - peak), decay)."""
        peak = torch.maximum(self.peak, logits.amax(1).double())
        decay = torch.exp(self.peak - peak)
        weights = torch.exp(logits - peak.unsqueeze(1).to(logits.dtype))
        self.total = self.total * decay + weights.sum(1, dtype=torch.float64)
        self.peak = peak
        inside = (self.targets >= first) & (self.targets < first + logits.shape[1])
        picked = logits[inside].gather(1, (self.targets[inside] - first).unsqueeze(1))
        self.target_logit[inside] = picked.squeeze(1).double()
        return weights, decay

    def log_sum_exp(self) -> Tensor:
        """lse of each token."""
        return self.peak + self.total.log()

    def loss(self) -> Tensor:
        """Sum of -log p(target) over the tokens that have one (targets >= 0)."""
        return (self.log_sum_exp() - self.target_logit)[self.targets >= 0].sum()


class BatchDivergence:
    """What one batch contributes. targets [sequences * tokens]: the next token's id, -1 where there is none."""

    def __init__(self, targets: Tensor, two: bool) -> None:
        self.reference = _Logits(targets)
        self.candidate = _Logits(targets) if two else None
        self._cross = torch.zeros(targets.shape[0], dtype=torch.float64, device=targets.device)
        self.max_difference = 0.0

    def update(self, first: int, reference: Tensor, candidate: Tensor | None) -> None:
        """Takes one slice of both models' logits [tokens, slice]."""
        weights, decay = self.reference.update(first, reference)
        if candidate is None or self.candidate is None:
            return
        self.candidate.update(first, candidate)
        difference = reference - candidate
        self._cross = self._cross * decay + (weights * difference).sum(1, dtype=torch.float64)
        self.max_difference = max(self.max_difference, float(difference.abs().max()))

    def divergence(self) -> Tensor:
        """Sum over tokens of KL(reference | candidate), in nats."""
        if self.candidate is None:
            return torch.zeros((), dtype=torch.float64)
        reference, candidate = self.reference.log_sum_exp(), self.candidate.log_sum_exp()
        return (self._cross / self.reference.total - reference + candidate).sum()
