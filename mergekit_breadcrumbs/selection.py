"""Which elements of a task vector survive.

Every element of a slice has a rank: ascending magnitude, and of equal magnitudes the
earlier one first. The lowest ranks are dropped as small, the highest as large, and the
ranks in between survive. So the choice is a function of the values alone.

Source: Davari and Belilovsky, "Model Breadcrumbs", arXiv 2312.06795.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Granularity = Literal["tensor", "row"]


class Counts(NamedTuple):
    """How many elements of one slice are dropped as small, kept, dropped as large."""

    small: int
    kept: int
    large: int


def slice_counts(elements: int, density: float, gamma: float) -> Counts:
    """Split a slice of `elements` elements into small, kept and large ones.

    `kept` is `int(density * elements)`, but at least 1 where anything is to be kept at
    all; `large` is `int(gamma * elements)`; the rest is small. Where `density` and
    `gamma` ask for more than there is, `density` wins.

    Args:
        elements: number of elements in the slice, 0 or more.
        density: fraction kept, in [0, 1].
        gamma: fraction dropped as large, in [0, 1].

    Returns:
        Three counts that add up to `elements`.

    Raises:
        ValueError: if a fraction is outside [0, 1].

    Example:
        >>> slice_counts(1000, density=0.9, gamma=0.01)
        Counts(small=90, kept=900, large=10)
        >>> slice_counts(10, density=0.9, gamma=0.5)
        Counts(small=0, kept=9, large=1)
    """
    for name, fraction in (("density", density), ("gamma", gamma)):
        if not 0 <= fraction <= 1:
            raise ValueError(f"{name} must be in [0, 1]; got {fraction}")
    kept = int(density * elements)
    if density > 0 and elements > 0:
        kept = max(kept, 1)
    large = min(int(gamma * elements), elements - kept)
    return Counts(elements - kept - large, kept, large)


def slices(delta: torch.Tensor, granularity: Granularity) -> torch.Tensor:
    """View or copy `delta` as [slices, elements per slice]."""
    if granularity not in ("tensor", "row"):
        raise ValueError(f"granularity must be 'tensor' or 'row'; got {granularity!r}")
    length = delta.shape[-1] if granularity == "row" and delta.ndim else delta.numel()
    return delta.reshape(-1 if length else 0, length)


def survivor_mask(
    delta: torch.Tensor,
    *,
    density: float,
    gamma: float,
    granularity: Granularity = "tensor",
) -> torch.Tensor:
    """Mark the elements of a task vector that survive.

    Within each slice the elements are ranked by ascending magnitude, equal magnitudes
    by position, and those between the smallest and the few largest are kept (see
    `slice_counts` for how many).

    Args:
        delta: task vector of one weight, any shape, floating dtype, any device.
        density: fraction kept, in [0, 1].
        gamma: fraction of the largest dropped, in [0, 1].
        granularity: `tensor` ranks the whole tensor, `row` each vector along the last
            dimension.

    Returns:
        Bool tensor of `delta`'s shape and device, True where kept.

    Raises:
        ValueError: if an argument is out of range or `delta` has non-finite elements.

    Example:
        >>> delta = torch.tensor([0.1, -0.2, 3.0, 0.0, -0.2])
        >>> survivor_mask(delta, density=0.4, gamma=0.2).tolist()
        [False, True, False, False, True]

    Source: arXiv 2312.06795, section 3.
    """
    rows = slices(delta.detach().abs(), granularity)
    counts = slice_counts(rows.shape[-1], density, gamma)
    bad = delta.numel() - int(torch.isfinite(rows).sum())
    if bad:
        raise ValueError(f"{bad} of {delta.numel()} elements are not finite")
    order = torch.sort(rows, dim=-1, stable=True).indices
    kept = order[:, counts.small : counts.small + counts.kept]
    mask = torch.zeros_like(rows, dtype=torch.bool)
    return mask.scatter_(-1, kept, True).reshape(delta.shape)
