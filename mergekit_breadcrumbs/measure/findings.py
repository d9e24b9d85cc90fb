"""What stands out in an inspection, in plain sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from mergekit_breadcrumbs.measure.model_names import short_names
from mergekit_breadcrumbs.measure.report import (
    Cut,
    Report,
    TaskVectorReport,
    TensorReport,
    Total,
    add_up,
    mean_cosine,
    of_model,
)
from mergekit_breadcrumbs.measure.short_numbers import cosine
from mergekit_breadcrumbs.wording import counted, listed

FOREIGN_NORM = 0.5
"""Norm of a task vector, as a share of the base's, from which it is suspicious.

Two models that were trained apart differ by about 1.4 times either's norm; even long
fine-tuning moves a model by a few percent of it, rarely by more than a tenth.
"""

MOST_OF_THE_NORM = 0.5
"""Share of the squared norm that gamma may take before it is reported.

Gamma is for a few outliers. Where they are most of what fine-tuning did, less than half
of it is merged.
"""

MOST_OF_CHANGES = 0.5
"""Share of the elements that changed which gamma may take before that is reported.

Gamma counts all elements, changed or not. In 16-bit models most are rounded back to
what they were, in norms nearly all: a hundredth of all may be all that changed.
"""

HEAVY_TIES = 0.05
"""Share of a tensor's elements that may equal a cut in magnitude, on both its sides.

Among them position alone decides. In ordinary task vectors about a percent share one
16-bit magnitude; far more do so in quantised or otherwise coarse weights.
"""

ALIKE, MORE_ALIKE = 0.05, 2.0
"""Mean cosine of what is dropped as large, and how many times that of what is kept.

From these on it is said that gamma is worth setting. In `benchmarks/claims.py` experts
trained with SGD have about 0.09, four times as much as the rest, and gain by gamma;
those trained with AdamW have 0.003, a tenth of the rest, and do not.
"""

_NAMED = 3  # tensors named in a sentence, before it says how many more


def findings(report: Report) -> list[str]:
    """Return what a person should know before merging.

    Returns:
        Sentences, the most serious first; none where nothing stands out.
    """
    names = short_names(report.models)
    said: list[tuple[int, str]] = []
    for model in report.models:
        pairs = of_model(report, model)
        for rank, text in _of_model(add_up(pairs), pairs) if pairs else ():
            said.append((rank, f"{names[model]}: {text}"))
    said += [(5, text) for text in _of_merge(report, names)]
    # Sorting is stable: models stay in their order.
    return [text for _, text in sorted(said, key=lambda entry: entry[0])]


def _of_model(
    total: Total, pairs: list[tuple[TensorReport, TaskVectorReport]]
) -> Iterator[tuple[int, str]]:
    if total.elements and total.zero == total.elements:
        yield (
            0,
            "does not differ from the base in a single element. Its task vector is all"
            " zero, so it adds nothing.",
        )
        return
    if total.norm_ratio >= FOREIGN_NORM:
        yield (
            1,
            f"is hardly a fine-tuning of this base. Its task vector's norm is"
            f" {total.norm_ratio:.2f} of the base's own, where fine-tuning leaves a few"
            " hundredths. Check base_model.",
        )
    if not total.counts.kept:
        yield 2, "nothing is kept: its density is 0, so it adds nothing."
        return
    if not total.counts.small and not total.counts.large:
        yield (
            3,
            "nothing is masked: its whole task vector is kept, so this is plain task"
            " arithmetic.",
        )
        return
    yield from ((3, text) for text in _of_sides(total))
    yield from ((3, text) for text in _of_few_changes(pairs))
    ties = [(t, worst) for t, v in pairs if (worst := _worst_ties(t, v))]
    if ties:
        tensor, worst = max(ties, key=lambda entry: entry[1].share)
        yield (
            4,
            f"many equal weights at a cut in {len(ties)} of {len(pairs)} tensors, where"
            f" position decides which survive. In {tensor.name},"
            f" {worst.share:.0%} of the elements are as large as the {worst.side} cut.",
        )


def _of_sides(total: Total) -> Iterator[str]:
    """Say what the two cuts take from one model, where that is odd."""
    counts, squares = total.counts, total.squares
    if squares.total and squares.large / squares.total >= MOST_OF_THE_NORM:
        yield (
            f"gamma takes {squares.large / squares.total:.0%} of the squared norm with"
            f" {counts.large / total.elements:.2%} of the elements. A smaller gamma"
            " keeps more of what this fine-tuning did."
        )
    if counts.small and not squares.small:
        yield (
            "what is dropped as small is all exactly zero already, so density changes"
            f" nothing here ({total.zero / total.elements:.0%} of the task vector is"
            " zero)."
        )


def _of_few_changes(
    pairs: list[tuple[TensorReport, TaskVectorReport]],
) -> Iterator[str]:
    """Name the tensors in which gamma takes most of what changed, and the way out."""
    found = [
        (tensor, vector) for tensor, vector in pairs if _loses_most(tensor, vector)
    ]
    if not found or len(found) == len(pairs):
        return
    names = [tensor.name for tensor, _ in found]
    parts = sorted({_filter_for(name) for name in names})
    usual = next(vector for tensor, vector in pairs if (tensor, vector) not in found)
    whole = {"density": (1, usual.density), "gamma": (0, usual.gamma)}
    lines = [
        f"{parameter}: [{', '.join(f'{{filter: {p}, value: {own}}}' for p in parts)},"
        f" {{value: {other:g}}}]"
        for parameter, (own, other) in whole.items()
    ]
    yield (
        f"gamma takes most of what changed in {counted(len(found), 'tensor')}, where"
        f" nearly all is exactly zero: {listed(names, _NAMED)}. Keep all that changed"
        f" there with {' and '.join(lines)}."
    )


def _loses_most(tensor: TensorReport, vector: TaskVectorReport) -> bool:
    changed = tensor.elements - vector.zero
    taken = min(vector.counts.large, changed)
    return taken > 0 and taken >= MOST_OF_CHANGES * changed


def _filter_for(name: str) -> str:
    """Return the part of a tensor's name that is the same in all layers.

    Example:
        >>> _filter_for("model.layers.3.self_attn.q_proj.bias")
        'self_attn.q_proj'
        >>> _filter_for("model.norm.weight")
        'model.norm'
    """
    within = re.split(r"\.\d+\.", name)[-1]
    return within.rpartition(".")[0] or within


class _Ties(NamedTuple):
    share: float
    side: str


def _worst_ties(tensor: TensorReport, vector: TaskVectorReport) -> _Ties | None:
    cuts = {"lower": vector.lower_cut, "upper": vector.upper_cut}
    found = [
        _Ties(cut.ties / tensor.elements, side)
        for side, cut in cuts.items()
        if cut and _splits(cut) and cut.ties >= HEAVY_TIES * tensor.elements
    ]
    # One element of a short bias is a large share, but no tie.
    return max(found, default=None)


def _splits(cut: Cut) -> bool:
    """Whether equal elements are treated differently, in a way that matters."""
    return 0 < cut.ties_kept < cut.ties and cut.highest > 0


def _of_merge(report: Report, names: dict[str, str]) -> Iterator[str]:
    large, kept = (mean_cosine(report, part) for part in ("large", "kept"))
    if large is not None and large >= max(ALIKE, MORE_ALIKE * (kept or 0)):
        yield (
            "gamma is worth setting: what it drops points the same way in several"
            f" models (mean cosine {cosine(large)}, of what is kept {cosine(kept)}), so"
            " that it would add up with every model that is merged."
        )
    lacking: dict[tuple[str, ...], list[str]] = {}
    for tensor in report.tensors:
        if tensor.absent:
            lacking.setdefault(tuple(tensor.absent), []).append(tensor.name)
    for models, tensors in lacking.items():
        who = ", ".join(names[model] for model in models)
        are = "are" if len(tensors) > 1 else "is"
        yield (
            f"{counted(len(tensors), 'tensor')} {are} not in {who}, and merged without:"
            f" {listed(tensors, _NAMED)}."
        )
