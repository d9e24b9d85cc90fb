"""Where short slices are cut, found from what survives of them."""

from __future__ import annotations

import torch

from mergekit_breadcrumbs.core.selection import SliceCounts


def bounds(
    keys: torch.Tensor, kept: torch.Tensor, counts: SliceCounts, infinity: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the cuts of whole slices which have survivors; `kept` has their keys.

    The first survivor is the least of them. The first large element is as large as the
    greatest, unless so many are larger as are dropped.
    """
    # What is to be passed over is easily made the largest.
    top = torch.iinfo(keys.dtype).max
    greatest = kept.amax(-1, keepdim=True)
    nonzero = sums(kept.sign()).view(-1, 1)
    least = kept.sub_(1).bitwise_and_(top).amin(-1, keepdim=True).add_(1)
    lower = torch.where(nonzero < counts.kept, 0, least)
    if not counts.large:
        return lower, torch.full_like(lower, infinity)
    beyond = keys - greatest
    full = sums(beyond.clamp(0, 1)).view(-1, 1) >= counts.large
    next_one = beyond.sub_(1).bitwise_and_(top).amin(-1, keepdim=True).add_(1)
    return lower, torch.where(full, next_one.add_(greatest), greatest)


def sums(flags: torch.Tensor) -> torch.Tensor:
    """Return the sum of each slice's flags, which are -1, 0 or 1."""
    # Far faster in the dtype of the flags.
    fits = flags.shape[1] <= torch.iinfo(flags.dtype).max
    return flags.sum(-1, dtype=flags.dtype if fits else torch.long).long()
