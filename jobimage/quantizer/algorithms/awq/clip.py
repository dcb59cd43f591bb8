"""The clip search of AWQ: how far the range of each group of a row is shrunk before it is rounded.

Ten limits are tried, 1, 0.95, .. 0.55 of a group's largest magnitude (AutoAWQ's n_grid 20 and max_shrink
0.5). With e the error of a row after rounding, cut into groups e_g, and G cut into blocks:

    "groups"   each group takes the limit with the smallest e_g G_gg e_g', as in AutoAWQ, which measures the
               same on a sample of tokens.
    "rows"     from there, or from no clipping where that is better for the row, groups take their limits one
               after another, each the one with the smallest e G e' of the whole row while the others keep
               theirs. No row is worse than without clipping or than by "groups".
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantization_api.failures import Category, QuantizationError
from quantizer.algorithms.awq.rounding import AwqConfig, clipped, rounded_values

SHRINKS = tuple(1 - step / 20 for step in range(10))
CHUNK_CPU, CHUNK_GPU = 2**19, 2**26  # elements of all candidates of a chunk of rows


@dataclass(frozen=True)
class ClipChoice:
    """The limits of a linear, and what they are worth."""

    limits: Tensor
    """[N, G] float32, of |W|."""
    loss: float
    """tr(E G E') of all rows, in the units of G."""
    loss_unclipped: float
    """The same without limits."""


def search_clip(weight: Tensor, gram: Tensor, config: AwqConfig) -> ClipChoice:
    """Chooses the limits of a linear.

    Linears whose outputs meet in a product (queries and keys) are better left unclipped, as AutoAWQ does:
    the caller does not call this for them.

    Args:
        weight: [N, K], already multiplied with its channel scales.
        gram: G [K, K] float32 of the inputs that it will see, that is with the scales divided out.
        config: `clip` must not be "none".

    Raises:
        QuantizationError: NumericalFailure when an error is not finite; InvalidWorkflow when group_size does
            not divide K.
    """
    if config.clip == "none":
        raise ValueError("clip is none: there is nothing to search")
    rows, columns = weight.shape
    width = config.group_width(columns)
    budget = CHUNK_CPU if weight.device.type == "cpu" else CHUNK_GPU
    blocks = gram.view(columns // width, width, columns // width, width).diagonal(dim1=0, dim2=2)
    blocks = blocks.permute(2, 0, 1).contiguous()
    limits = torch.empty((rows, columns // width), device=weight.device)
    loss = torch.zeros(2, dtype=torch.float64, device=weight.device)
    start = 0
    for part in weight.float().split(max(1, budget // (len(SHRINKS) * columns))):
        search = _RowSearch(part.view(-1, columns // width, width), config)
        chosen = search.by_group(blocks) if config.clip == "groups" else search.by_row(blocks, gram)
        limits[start : start + part.shape[0]] = search.limits(chosen)
        loss[0] += _loss(search.errors_of(chosen), gram)
        loss[1] += _loss(search.errors[0], gram)
        start += part.shape[0]
    if not bool(torch.isfinite(loss).all()):
        raise QuantizationError(Category.NUMERICAL_FAILURE, "the error of a clipped weight is not finite")
    return ClipChoice(limits, float(loss[0]), float(loss[1]))


def _loss(errors: Tensor, gram: Tensor) -> Tensor:
    flat = errors.flatten(1)
    return (flat @ gram).mul_(flat).sum(dtype=torch.float64)


class _RowSearch:
    """The candidates of some rows: groups [R, G, width], errors of every shrink [S, R, G, width]."""

    def __init__(self, groups: Tensor, config: AwqConfig) -> None:
        self.shrinks = torch.tensor(SHRINKS, device=groups.device)
        self.largest = groups.abs().amax(-1)
        bounds = self.shrinks.view(-1, 1, 1, 1) * self.largest.unsqueeze(-1)
        self.errors = rounded_values(clipped(groups, bounds), config).sub_(groups)

    def limits(self, chosen: Tensor) -> Tensor:
        """The limits [R, G] of shrinks by number [R, G]."""
        return self.largest * self.shrinks[chosen]

    def errors_of(self, chosen: Tensor) -> Tensor:
        """The errors [R, G, width] of shrinks by number [R, G]."""
        return _pick(self.errors, chosen)

    def by_group(self, blocks: Tensor) -> Tensor:
        """The best shrink of each group on its own [R, G]; blocks are G_gg [G, width, width]."""
        return self._own(blocks).argmin(0)

    def by_row(self, blocks: Tensor, gram: Tensor) -> Tensor:
        """The best shrink of each group given those of the row's other groups [R, G]."""
        count, width = blocks.shape[0], blocks.shape[1]
        own = self._own(blocks)
        chosen, errors, pull = self._start(own.argmin(0), gram)
        for group in range(count):
            columns = slice(group * width, (group + 1) * width)
            tried, now = self.errors[:, :, group], errors[:, group]
            others = pull[:, columns] - now @ blocks[group]
            cost = own[:, :, group] + 2 * (tried * others).sum(-1)
            chosen[:, group] = cost.argmin(0)
            pull += (_pick(tried, chosen[:, group]) - now) @ gram[columns]
        return chosen

    def _start(self, by_group: Tensor, gram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By group or unclipped, what is better for a row: shrinks [R, G], errors e [R, G, width], e G [R, K]."""
        clipped_errors, plain_errors = self.errors_of(by_group).flatten(1), self.errors[0].flatten(1)
        clipped_pull, plain_pull = clipped_errors @ gram, plain_errors @ gram
        better = (clipped_pull * clipped_errors).sum(1, keepdim=True)
        better = better < (plain_pull * plain_errors).sum(1, keepdim=True)
        errors = torch.where(better, clipped_errors, plain_errors)
        pull = torch.where(better, clipped_pull, plain_pull)
        return torch.where(better, by_group, 0), errors.view_as(self.errors[0]), pull

    def _own(self, blocks: Tensor) -> Tensor:
        """e_g G_gg e_g' of every candidate [S, R, G]."""
        shrinks, rows, count, width = self.errors.shape
        flat = self.errors.permute(2, 0, 1, 3).reshape(count, shrinks * rows, width)
        cost = torch.bmm(flat, blocks).mul_(flat).sum(-1)
        return cost.view(count, shrinks, rows).permute(1, 2, 0)


def _pick(candidates: Tensor, chosen: Tensor) -> Tensor:
    """candidates [S, ..., width] by the numbers chosen [...]: [..., width]."""
    index = chosen.unsqueeze(0).unsqueeze(-1).expand(1, *chosen.shape, candidates.shape[-1])
    return candidates.gather(0, index).squeeze(0)
