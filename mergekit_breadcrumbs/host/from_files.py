"""What our methods take from breadcrumb files, and a word where that is too little."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from mergekit.merge_methods.base import TensorEntry

from mergekit_breadcrumbs.core.selection import Granularity, slice_counts, slice_length
from mergekit_breadcrumbs.core.stored import Stored, top_counts
from mergekit_breadcrumbs.host.notices import NOTICES
from mergekit_breadcrumbs.host.overlay import Overlay, ordinary


def finetuned_in(
    entries: Sequence[TensorEntry],
    base: TensorEntry,
    fractions: Iterable[tuple[float, float]],
    granularity: Granularity,
) -> list[torch.Tensor | Stored]:
    """Return the fine-tuned weights of a group, or what is stored of them.

    Args:
        entries: one weight of each fine-tuned model, all of one dtype.
        base: the same of the base.
        fractions: density and gamma of each fine-tuned model.
        granularity: of the merge.

    Raises:
        ValueError: if a file was made with another granularity.
    """
    return [
        _weight(entry, base, *pair, granularity)
        if isinstance(entry.tensor, Overlay)
        else entry.tensor
        for entry, pair in zip(entries, fractions, strict=True)
    ]


def _weight(
    entry: TensorEntry,
    base: TensorEntry,
    density: float,
    gamma: float,
    granularity: Granularity,
) -> torch.Tensor | Stored:
    overlay: Overlay = entry.tensor
    stored = overlay.stored
    length = slice_length(overlay, granularity)
    fits = length == slice_length(overlay, stored.granularity)
    if overlay.base != base.id or isinstance(base.tensor, Overlay):
        # Its task vector is another one than that of the file.
        return ordinary(overlay)
    if not stored.is_lossless:
        if not fits:
            raise ValueError(
                f"granularity must be {stored.granularity}, as {stored.file} was made;"
                f" got {granularity} (model {entry.id}, tensor {stored.tensor})"
            )
        _warn_of_dtype(entry, stored, overlay.dtype)
        _warn_of_fractions(entry, stored, length, density, gamma)
    if not fits or overlay.dtype != stored.ranked_in:
        return ordinary(overlay)
    return stored


def _warn_of_dtype(entry: TensorEntry, stored: Stored, dtype: torch.dtype) -> None:
    if dtype == stored.ranked_in:
        return
    merged, ranked = (str(x).removeprefix("torch.") for x in (dtype, stored.ranked_in))
    NOTICES.say(
        f"dtype {entry.id}",
        f"model {entry.id}: the file was made for merges in {ranked}, and this one is"
        f" in {merged}: elements of nearly the same size may be chosen otherwise than"
        f" from the full checkpoint. Make it with --dtype {merged} for the same.",
    )


def _warn_of_fractions(
    entry: TensorEntry, stored: Stored, length: int, density: float, gamma: float
) -> None:
    counts = slice_counts(length, density, gamma)
    if counts.kept + counts.large <= top_counts(length, stored.fraction).kept:
        return
    text = what_is_kept(stored.fraction, density, gamma)
    NOTICES.say(f"fraction {entry.id}", f"model {entry.id}: {text}")


def what_is_kept(fraction: float, density: float, gamma: float) -> str:
    """Say what becomes of fractions that ask for more than a file holds.

    Example:
        >>> what_is_kept(0.2, 0.9, 0.01).split("; ")[1]
        'of these the largest 0.01 are dropped and the other 0.19 kept'
    """
    rest = max(fraction - gamma, 0)
    return (
        f"density {density:g} and gamma {gamma:g} ask for more than the {fraction:g}"
        f" that the file holds; of these the largest {min(gamma, fraction):g} are"
        f" dropped and the other {rest:g} kept"
    )
