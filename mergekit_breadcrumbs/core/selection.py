"""Which elements of a task vector survive.

Every element of a slice has a rank, by ascending magnitude; of equal magnitudes the
earlier comes first. The lowest ranks are dropped as small, the highest as large, and
those in between survive. So the choice is a function of the values alone.

A slice is cut at two elements, the first survivor and the first one dropped as large:
what survives are the elements whose (key, position) lies between theirs (for keys, see
`keys`). In a long slice both are found by counting, chunk by chunk (`ranks`), so that a
slice of any size takes a few passes and a few MiB and is never sorted. For short ones,
see `short_slices`.

Source: Davari and Belilovsky, "Model Breadcrumbs", arXiv 2312.06795.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import Literal, NamedTuple

import torch

from mergekit_breadcrumbs.core.keys import magnitude_keys, non_finite_key
from mergekit_breadcrumbs.core.ranks import Keys, Ranked, find_ranked
from mergekit_breadcrumbs.core.short_slices import drop_short
from mergekit_breadcrumbs.core.workspace import Workspace, split

Granularity = Literal["tensor", "row"]


class SliceCounts(NamedTuple):
    """How many elements of one slice are dropped as small, kept, dropped as large."""

    small: int
    kept: int
    large: int


class SliceCuts(NamedTuple):
    """Where a slice is cut: at its first survivor, and at the first dropped as large.

    `non_finite` is how many of its elements are not finite; `largest` is a key that no
    survivor's is over.
    """

    lower: Ranked
    upper: Ranked
    non_finite: int
    largest: int


class Range(NamedTuple):
    """A stretch of a slice whose survivors are those with `above < key <= upto`."""

    start: int
    stop: int
    above: int
    upto: int


@lru_cache(maxsize=256)  # most tensors of a merge are among a few shapes
def slice_counts(elements: int, density: float, gamma: float) -> SliceCounts:
    """Split a slice of `elements` elements into small, kept and large ones.

    `kept` is `int(density * elements)`, but at least 1 where anything is to be kept at
    all; `large` is `int(gamma * elements)`; the rest is small. Where `density` and
    `gamma`, fractions in [0, 1], ask for more than there is, `density` wins.

    Raises:
        ValueError: if a fraction is outside [0, 1].

    Example:
        >>> slice_counts(1000, density=0.9, gamma=0.01)
        SliceCounts(small=90, kept=900, large=10)
        >>> slice_counts(10, density=0.9, gamma=0.5)
        SliceCounts(small=0, kept=9, large=1)
    """
    for name, fraction in (("density", density), ("gamma", gamma)):
        if not 0 <= fraction <= 1:
            raise ValueError(f"{name} must be in [0, 1]; got {fraction}")
    kept = int(density * elements)
    if density > 0 and elements > 0:
        kept = max(kept, 1)
    large = min(int(gamma * elements), elements - kept)
    return SliceCounts(elements - kept - large, kept, large)


def slice_length(tensor: torch.Tensor, granularity: Granularity) -> int:
    """Return the number of elements that are ranked together."""
    if granularity not in ("tensor", "row"):
        raise ValueError(f"granularity must be 'tensor' or 'row'; got {granularity!r}")
    by_row = granularity == "row" and tensor.ndim > 0
    return tensor.shape[-1] if by_row else tensor.numel()


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
    flat, length = delta.detach().reshape(-1), slice_length(delta, granularity)
    counts = slice_counts(length, density, gamma)
    mask = torch.empty_like(flat, dtype=torch.bool)
    non_finite = 0
    workspace = Workspace(flat.device, flat.numel())
    if workspace.is_short(length):
        for start, stop in split(flat.numel(), workspace.chunk("merge"), length):
            keys = magnitude_keys(flat[start:stop]).view(-1, length)
            non_finite += int((keys >= non_finite_key(flat.dtype)).sum())
            # With a sign, what is zero can be told from what is dropped.
            keys.bitwise_or_(torch.iinfo(keys.dtype).min)
            drop_short(keys, counts.small, counts.kept)
            torch.ne(keys.view(-1), 0, out=mask[start:stop])
    else:
        slices = flat.view(-1, length)
        keys_of = [partial(_keys_of, values) for values in slices]
        found = find_cuts(keys_of, counts, flat.dtype, workspace)
        for values, kept, cuts in zip(
            slices, mask.view(slices.shape), found, strict=True
        ):
            non_finite += cuts.non_finite
            for start, stop in split(length, workspace.chunk("merge")):
                for part in survivor_ranges(cuts, start, stop):
                    keys = _keys_of(values, part.start, part.stop)
                    torch.logical_and(
                        keys > part.above,
                        keys <= part.upto,
                        out=kept[part.start : part.stop],
                    )
    refuse_non_finite(non_finite, delta.numel(), "delta")
    return mask.view(delta.shape)


def _keys_of(values: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return magnitude_keys(values[start:stop])


def refuse_non_finite(
    non_finite: int, elements: int, name: str, tensor: str | None = None
) -> None:
    """Raise ValueError, with the name of the model, if any element is not finite."""
    if non_finite:
        label = f"{name}, tensor {tensor}" if tensor else name
        raise ValueError(
            f"the task vector must be finite; {non_finite} of {elements} elements are"
            f" not ({label})"
        )


def find_cuts(
    keys_of: Sequence[Keys],
    counts: SliceCounts,
    dtype: torch.dtype,
    workspace: Workspace,
) -> list[SliceCuts]:
    """Find where long slices, all of the same length, are cut.

    Threads share the slices or, where these are longer than a chunk, the chunks of one
    slice after the other.
    """
    elements = sum(counts)
    ranks = (counts.small, counts.small + counts.kept)

    def find(keys_of: Keys) -> SliceCuts:
        found = find_ranked(keys_of, elements, ranks, dtype, workspace)
        lower, upper = found.ranked
        return SliceCuts(lower, upper, found.non_finite, min(upper.key, found.largest))

    one_by_one = elements > workspace.chunk("count")
    return list(map(find, keys_of) if one_by_one else workspace.map(find, keys_of))


def survivor_ranges(cuts: SliceCuts, start: int, stop: int) -> Iterator[Range]:
    """Split a stretch of a slice where the treatment of keys equal to a cut changes.

    Up to the position of the element of rank `k`, an element with the same key ranks
    lower than `k`; from there on it does not.
    """
    turns = {p for p in (cuts.lower.position, cuts.upper.position) if start < p < stop}
    bounds = [start, *sorted(turns), stop]
    for a, b in pairwise(bounds):
        above, upto = (
            cut.key if b <= cut.position else cut.key - 1
            for cut in (cuts.lower, cuts.upper)
        )
        yield Range(a, b, above, upto)
