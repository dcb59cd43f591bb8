"""Perplexity and divergence of models from their logits, slice of the vocabulary by slice.

With p the reference's and q the candidate's distribution over the next token, z their logits and
lse = log sum exp z:

    KL(p | q) = sum_v p_v (z_p - z_q) - lse_p + lse_q

All sums run over the vocabulary, so they are gathered slice by slice with a running maximum, and no
[tokens, vocabulary] matrix of the whole vocabulary ever exists.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Logits:
    """Running log-sum-exp over the vocabulary, the logit of the target and the largest, for each token of a batch."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets
        count = targets.shape[0]
        self.peak = torch.full((count,), -torch.inf, dtype=torch.float64, device=targets.device)
        self.total = torch.zeros(count, dtype=torch.float64, device=targets.device)
        self.target_logit = torch.zeros(count, dtype=torch.float64, device=targets.device)
        self.choice = torch.zeros(count, dtype=torch.int64, device=targets.device)
        """The token with the largest logit so far: the first of several."""

    def update(self, first: int, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Takes logits [tokens, slice] of vocabulary entries from `first`; returns (exp(z - peak), decay)."""
        largest, place = logits.max(1)
        largest = largest.double()
        self.choice = torch.where(largest > self.peak, place + first, self.choice)
        peak = torch.maximum(self.peak, largest)
        decay = torch.exp(self.peak - peak)
        weights = (logits - peak.unsqueeze(1).to(logits.dtype)).exp_()
        self.total = self.total * decay + weights.sum(1).double()
        self.peak = peak
        inside = (self.targets >= first) & (self.targets < first + logits.shape[1])
        picked = logits[inside].gather(1, (self.targets[inside] - first).unsqueeze(1))
        self.target_logit[inside] = picked.squeeze(1).double()
        return weights, decay

    def log_sum_exp(self) -> Tensor:
        """lse of each token."""
        return self.peak + self.total.log()

    def loss(self) -> Tensor:
        """-log p(target) of each token; 0 where it has none (targets < 0)."""
        return torch.where(self.targets >= 0, self.log_sum_exp() - self.target_logit, 0.0)


class BatchDivergence:
    """What one batch contributes: of a reference, and of candidates beside it.

    targets [sequences * tokens]: the next token's id, -1 where there is none.
    """

    def __init__(self, targets: Tensor, candidates: int) -> None:
        self.reference = Logits(targets)
        self.candidates = [Candidate(self.reference) for _ in range(candidates)]

    def update(self, first: int, reference: Tensor, candidates: Sequence[Tensor]) -> None:
        """Takes one slice of every model's logits [tokens, slice]."""
        weights, decay = self.reference.update(first, reference)
        for candidate, logits in zip(self.candidates, candidates, strict=True):
            candidate.update(first, logits, reference, weights, decay)


class Candidate:
    """One model beside the reference."""

    def __init__(self, reference: Logits) -> None:
        self.logits = Logits(reference.targets)
        self.max_difference = 0.0
        self._reference = reference
        self._cross = torch.zeros_like(reference.total)

    def update(self, first: int, logits: Tensor, reference: Tensor, weights: Tensor, decay: Tensor) -> None:
        """Takes a slice of its logits; weights, decay: what the reference's slice gave."""
        self.logits.update(first, logits)
        difference = reference - logits
        low, high = difference.aminmax()
        self.max_difference = max(self.max_difference, -float(low), float(high))
        self._cross = self._cross * decay + difference.mul_(weights).sum(1).double()

    def divergence(self) -> Tensor:
        """KL(reference | candidate) of each token, in nats."""
        ours, theirs = self._reference.log_sum_exp(), self.logits.log_sum_exp()
        return self._cross / self._reference.total - ours + theirs

    def agrees(self) -> Tensor:
        """Whether both models choose the same next token, for each token."""
        return self.logits.choice == self._reference.choice
