"""What the picture of an inspection shows, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from mergekit_breadcrumbs.measure.model_names import short_names
from mergekit_breadcrumbs.measure.report import (
    BINS_PER_OCTAVE,
    Cut,
    Histogram,
    Report,
    TaskVectorReport,
    add_up,
    of_model,
)
from mergekit_breadcrumbs.measure.tensor_roles import Role

OUTSIDE = "outside"
"""Label of the heatmap's column for tensors that are in no layer."""

_TAIL = 0.001  # share of the elements, the smallest, that a panel leaves out

_SHARES = (0.1, 0.5, 0.9)  # of the elements, up to each of a marker's magnitudes


class Marker(NamedTuple):
    """Magnitudes at which tensors are cut, for the median element.

    For eight in ten of the elements the cut is between `lowest` and `highest`.
    """

    median: float
    lowest: float
    highest: float


class Panel(NamedTuple):
    """The distribution of one model's |delta|, over all tensors.

    The lists hold percentages for each bin: of all elements for `small`, `kept` and
    `large`, of the squared norm for `squares` (taking elements in their bin's middle).
    `edges` has one more entry than they have.
    """

    name: str
    edges: list[float]
    small: list[float]
    kept: list[float]
    large: list[float]
    squares: list[float]
    zero: float
    surviving: float
    lower: Marker | None
    upper: Marker | None


class Heat(NamedTuple):
    """Share of the squared norm that survives, in percent, over all models."""

    roles: list[str]
    columns: list[str]
    shares: list[list[float | None]]


class ChartData(NamedTuple):
    """Everything in the picture."""

    panels: list[Panel]
    heat: Heat
    limits: tuple[float, float]


def chart_data(report: Report) -> ChartData:
    """Return what a picture of this report shows.

    The limits that all panels share leave out the smallest elements, one in a thousand:
    in float32 they would stretch the axis over dozens of decades.
    """
    names = short_names(report.models)
    panels = [_panel(report, model, names[model]) for model in report.models]
    ends = [_limits(panel) for panel in panels if panel.edges]
    limits = (min(e[0] for e in ends), max(e[1] for e in ends)) if ends else (0.1, 1.0)
    return ChartData(panels, _heat(report), limits)


def _panel(report: Report, model: str, name: str) -> Panel:
    pairs = of_model(report, model)
    vectors = [vector for _, vector in pairs]
    total = add_up(pairs)
    first, fates = _added([v.histogram for v in vectors])
    edges = [2 ** ((first + i) / BINS_PER_OCTAVE) for i in range(len(fates[0]) + 1)]
    small, kept, large = (
        [_share(c, total.elements) for c in counts] for counts in fates
    )
    middles = [
        low * high * sum(counts)
        for low, high, *counts in zip(edges, edges[1:], *fates, strict=False)
    ]
    sizes = [tensor.elements for tensor, _ in pairs]
    return Panel(
        name,
        edges if fates[0] else [],
        small,
        kept,
        large,
        [_share(middle, sum(middles)) for middle in middles],
        _share(total.zero, total.elements),
        _share(total.squares.kept, total.squares.total),
        _marker([v.lower_cut for v in vectors], sizes),
        _marker([v.upper_cut for v in vectors], sizes),
    )


def _share(part: float, whole: float) -> float:
    return 100 * part / whole if whole else 0.0


def _added(histograms: Sequence[Histogram]) -> tuple[int, list[list[int]]]:
    """Add up histograms, the first bin of which may differ."""
    used = [h for h in histograms if h.kept]
    if not used:
        return 0, [[], [], []]
    first = min(h.first_bin for h in used)
    bins = max(h.first_bin + len(h.kept) for h in used) - first
    fates = [[0] * bins for _ in range(3)]
    for histogram in used:
        offset = histogram.first_bin - first
        for sums, counts in zip(
            fates, (histogram.small, histogram.kept, histogram.large), strict=True
        ):
            for index, count in enumerate(counts, offset):
                sums[index] += count
    return first, fates


def _limits(panel: Panel) -> tuple[float, float]:
    shares = map(sum, zip(panel.small, panel.kept, panel.large, strict=True))
    upto = enumerate(accumulate(shares))
    first = next((index for index, share in upto if share > 100 * _TAIL), 0)
    return panel.edges[first], panel.edges[-1]


def _marker(cuts: Iterable[Cut | None], sizes: Iterable[int]) -> Marker | None:
    """Return where cuts are, by elements; of several slices, by their middle."""
    present = sorted(
        ((c.lowest * c.highest) ** 0.5, size)
        for c, size in zip(cuts, sizes, strict=True)
        if c is not None and c.lowest > 0
    )
    if not present:
        return None
    whole = sum(size for _, size in present)
    found: list[float] = []
    passed = 0
    for middle, size in present:
        passed += size
        while len(found) < len(_SHARES) and passed >= _SHARES[len(found)] * whole:
            found.append(middle)
    low, median, high = found
    return Marker(median, low, high)


def _heat(report: Report) -> Heat:
    cells: dict[tuple[Role, int | None], list[TaskVectorReport]] = {}
    for tensor in report.tensors:
        cells.setdefault((tensor.role, tensor.layer), []).extend(tensor.vectors)
    roles = [role for role in Role if any(role == key[0] for key in cells)]
    layers = sorted({layer for _, layer in cells if layer is not None})
    outside: list[int | None] = [None] if any(k[1] is None for k in cells) else []
    columns = [*outside, *layers]
    return Heat(
        [role.value for role in roles],
        [OUTSIDE if column is None else str(column) for column in columns],
        [[_surviving(cells.get((role, c), ())) for c in columns] for role in roles],
    )


def _surviving(vectors: Iterable[TaskVectorReport]) -> float | None:
    squares = [vector.squares for vector in vectors]
    whole = sum(s.total for s in squares)
    return _share(sum(s.kept for s in squares), whole) if whole else None
