"""The picture of a study: the score by each parameter and by trial, and what matters.

matplotlib is imported only here and only when a picture is drawn. Nothing of its global
state is touched: no pyplot, no backend chosen, no settings changed.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_breadcrumbs.measure.picture import DPI, HEIGHT, WIDTH, Style
from mergekit_breadcrumbs.tune.report import Report, StudyRecord
from mergekit_breadcrumbs.tune.search import Search
from mergekit_breadcrumbs.tune.trials import Trial, best
from mergekit_breadcrumbs.wording import counted, visible
from mergekit_breadcrumbs.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# From the palette of Okabe and Ito, which is told apart with any colour vision.
_BLUE, _VERMILION, _BLACK, _GREY = "#0072B2", "#D55E00", "#000000", "#666666"
_RIVALS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", _BLACK)
# Between two dollar signs a name would be taken for a formula.
_AS_IS: Style = {"parse_math": False}
_LINES = {"base": ":", "input": "--", "start": "-."}
_COLUMNS = 5  # of panels, at most
_MOST_BARS = 12  # of the importance, which are legible
_LONGEST = 40  # characters of a name
_A_LINE = 180  # characters of the titles that fit side by side
_NOTE = "each dot is a trial, later ones are darker, and the star is the best"


def draw(report: Report, file: Path) -> None:
    """Draw a report, 1600 by 1000 pixels, in the format of the file's suffix.

    Raises:
        OSError: if the file cannot be written; what was there before is kept.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((WIDTH / DPI, HEIGHT / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(visible(_title(report)), fontsize=15, x=0.01, ha="left", **_AS_IS)
    figure.text(0.99, 0.994, _NOTE, fontsize=10, color=_GREY, ha="right", va="top")
    lines = math.ceil(len(report.study.searches) / _COLUMNS)
    heights = (min(0.65 + 0.35 * lines, 2.0), 1.0)
    halves: Any = figure.subfigures(2, 1, height_ratios=heights)
    for half in halves:
        label = "score, relative to the best input" if report.relative else "score"
        half.supylabel(label, fontsize=10)
    upper, lower = halves
    _draw_parameters(upper, report.study, lines)
    if len(report.study.searches) == 1:  # nothing matters more or less
        history = lower.subplots()
    else:
        wide = (2, 1) if report.study.importance else (5, 1)
        history, matters = lower.subplots(1, 2, width_ratios=wide)
        _draw_importance(matters, report.study)
    _draw_history(history, report)
    _draw_references(history, report, gap=20 / HEIGHT * sum(heights) / 0.7)
    content = io.BytesIO()
    figure.savefig(content, format=file.suffix.removeprefix("."))
    write_whole(file, content.getvalue())


def best_so_far(trials: Sequence[Trial]) -> Iterator[float]:
    """Yield the highest score up to each trial; NaN before the first.

    Example:
        >>> list(best_so_far([]))
        []
    """
    highest = math.nan
    for trial in trials:
        if trial.score is not None:
            highest = trial.score if math.isnan(highest) else max(highest, trial.score)
        yield highest


def apart(places: Iterable[float], gap: float) -> list[float]:
    """Move descending places down, so that there is a gap from each to the next.

    Example:
        >>> apart([1.0, 1.0, 0.5], 0.125)
        [1.0, 0.875, 0.5]
    """
    return list(itertools.accumulate(places, lambda last, own: min(own, last - gap)))


def _title(report: Report) -> str:
    study, found = report.study, best(report.study.trials)
    if found is None:
        return f"{study.merge_method}: no trial got a score"
    after = counted(len(study.trials), "trial")
    return f"{study.merge_method}: best {found.score:.4g} after {after}"


def _draw_parameters(figure: Any, study: StudyRecord, lines: int) -> None:
    searches, columns = study.searches, math.ceil(len(study.searches) / lines)
    found, room = best(study.trials), _A_LINE // columns
    names = [visible(_short(search.name, min(_LONGEST, room))) for search in searches]
    bests = [f"best {found.values[s.name]:.3g}" if found else "" for s in searches]
    fits = all(len(f"{n}: {b}") <= room for n, b in zip(names, bests, strict=True))
    between = ": " if fits else "\n"
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes, search, *title in zip(grid.flat, searches, names, bests, strict=False):
        _draw_parameter(axes, search, study.trials)
        text = between.join(filter(None, title))
        axes.set_title(text, fontsize=10, loc="left", **_AS_IS)
    for axes in grid.flat[len(searches) :]:
        axes.set_visible(False)


def _draw_parameter(axes: Axes, search: Search, trials: Sequence[Trial]) -> None:
    dots = [(t.values[search.name], t.score) for t in trials if t.score is not None]
    _draw_dots(axes, dots)
    if not dots:
        axes.set_yticks([])
    axes.margins(y=0.1)
    _set_range(axes, search)
    _tidy(axes)


def _draw_dots(axes: Axes, dots: Sequence[tuple[float, float]]) -> None:
    if not dots:
        return
    # Early ones are pale: they were spread out, and not chosen.
    shades = [0.25 + 0.75 * place / len(dots) for place in range(len(dots))]
    style: Style = {"color": _BLUE, "alpha": shades, "s": 36, "linewidths": 0}
    axes.scatter(*zip(*dots, strict=True), **style)
    star: Style = {"color": _VERMILION, "s": 130, "marker": "*", "zorder": 3}
    axes.scatter(*max(dots, key=lambda dot: dot[1]), **star)


def _set_range(axes: Axes, search: Search) -> None:
    """Show the whole range, and a little around it, so that no dot is cut off."""
    from matplotlib import ticker

    low, high = search.low, search.high
    if not low < high:
        axes.xaxis.set_major_locator(ticker.FixedLocator([low]))
    elif search.log:
        axes.set_xscale("log")
        more = (high / low) ** 0.03
        axes.set_xlim(low / more, high * more)
        subs = (1, 2, 5) if high / low <= 30 else (1, 3) if high / low <= 300 else (1,)
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=6))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    else:
        more = 0.03 * (high - low)
        axes.set_xlim(low - more, high + more)
        axes.locator_params(axis="x", nbins=5, steps=[1, 2, 2.5, 5, 10])
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:.6g}"))


def _draw_history(axes: Axes, report: Report) -> None:
    own, records = report.study.trials, [report.study, *report.rivals]
    scored = [(n, t.score) for n, t in enumerate(own, 1) if t.score is not None]
    _draw_dots(axes, scored)
    colours = [_VERMILION, *itertools.islice(itertools.cycle(_RIVALS), len(records))]
    for record, colour in zip(records, colours, strict=False):
        highest = list(best_so_far(record.trials))
        if not all(map(math.isnan, highest)):
            style: Style = {"color": colour, "label": visible(record.merge_method)}
            axes.step(range(1, len(highest) + 1), highest, where="post", **style)
    failed = [n for n, trial in enumerate(own, 1) if trial.score is None]
    if failed:
        cross: Style = {"color": _BLACK, "marker": "x", "s": 36, "clip_on": False}
        bottom: Style = {"transform": axes.get_xaxis_transform(), "label": "failed"}
        axes.scatter(failed, [0.0] * len(failed), **cross, **bottom)
    axes.set_xlim(0.5, max(1, *(len(record.trials) for record in records)) + 0.5)
    axes.set_title("Score by trial, and the best so far", fontsize=11, loc="left")
    axes.set_xlabel("trial")
    axes.locator_params(axis="x", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    if axes.get_legend_handles_labels()[0]:
        above: Style = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": 3}
        axes.legend(fontsize=10, frameon=False, **above)


def _draw_references(axes: Axes, report: Report, gap: float) -> None:
    rows = sorted(_references(report), key=lambda row: -row[2])
    for kind, _, score in rows:
        axes.axhline(score, color=_GREY, linestyle=_LINES[kind], linewidth=1.3)
    _tidy(axes)
    low, high = axes.get_ylim()
    places = apart(((score - low) / (high - low) for _, _, score in rows), gap)
    beside: Style = {"transform": axes.transAxes, "va": "center", "color": _GREY}
    for (_, name, score), place in zip(rows, places, strict=True):
        text = f"{visible(_short(name))} {score:.4g}"
        axes.text(1.01, place, text, fontsize=10, **beside, **_AS_IS)


def _references(report: Report) -> Iterator[tuple[str, str, float]]:
    """Yield what trials are held against: the base, the best input, the config."""
    rows = [(c.kind, c.name, c.score.value) for c in report.contenders if c.score]
    for kind in _LINES:
        ones = (row for row in rows if row[0] == kind)
        yield from sorted(ones, key=lambda row: row[2])[-1:]


def _draw_importance(axes: Axes, study: StudyRecord) -> None:
    shares = sorted(study.importance.items(), key=lambda item: -item[1])[:_MOST_BARS]
    most = " most" if len(study.importance) > len(shares) else ""
    axes.set_title(f"What matters{most} for a good score", fontsize=11, loc="left")
    if not shares:
        axes.set_axis_off()
        axes.text(0.0, 0.97, "too few trials to say", va="top", color=_GREY)
        return
    names = [visible(_short(name)) for name, _ in shares]
    widths = [100 * share for _, share in shares]
    bars = axes.barh(range(len(shares)), widths, color=_BLUE, height=0.6)
    axes.bar_label(bars, fmt="%.0f %%", fontsize=9, padding=3)
    axes.set_yticks(range(len(shares)), names, fontsize=9, **_AS_IS)
    axes.set_ylim(max(len(shares), 4) - 0.4, -0.6)
    axes.margins(x=0.15)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelbottom=False)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10)
    axes.ticklabel_format(axis="y", useOffset=False)
    # Left of the axis, the power of ten is out of the title's way.
    axes.yaxis.get_offset_text().set(ha="right", x=-0.01)


def _short(name: str, at_most: int = _LONGEST) -> str:
    if len(name) <= at_most:
        return name
    # Names of models often differ at their ends only.
    front = at_most // 2
    return f"{name[:front]}…{name[front + 1 - at_most :]}"
