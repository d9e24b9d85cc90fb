"""The picture of a study: the score by each parameter and by trial, and what matters.

matplotlib is imported only here and only when a picture is drawn. Nothing of its global
state is touched: no pyplot, no backend chosen, no settings changed.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mergekit_breadcrumbs.measure.picture import DPI, HEIGHT, WIDTH
from mergekit_breadcrumbs.tune.report import Report
from mergekit_breadcrumbs.tune.search import Search
from mergekit_breadcrumbs.tune.trials import Trial, best
from mergekit_breadcrumbs.wording import counted, shortened, visible
from mergekit_breadcrumbs.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Style: TypeAlias = dict[str, Any]  # keyword arguments of matplotlib

# From the palette of Okabe and Ito, which is told apart with any colour vision.
_BLUE, _VERMILION, _BLACK, _GREY = "#0072B2", "#D55E00", "#000000", "#666666"
_RIVALS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Between two dollar signs a name would be taken for a formula.
_AS_IS: Style = {"parse_math": False}
_LINES = {"base": ":", "input": "--", "start": "-."}
_COLUMNS = 5  # of panels, at most
_MOST_BARS = 9  # of the importance, which are legible
_LONGEST = 40  # characters of a name


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
    halves: Any = figure.subfigures(2, 1, height_ratios=_heights(report))
    upper, lower = halves
    _draw_parameters(upper, report)
    if len(report.study.searches) == 1:
        _draw_history(lower.subplots(), report)
    else:
        history, matters = lower.subplots(1, 2, width_ratios=(2, 1))
        _draw_history(history, report)
        _draw_importance(matters, report)
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


def _title(report: Report) -> str:
    study = report.study
    found, number = best(study.trials), counted(len(study.trials), "trial")
    if found is None:
        return f"{study.merge_method}: none of {number} got a score"
    return f"{study.merge_method}: best score {found.score:.4g} after {number}"


def _lines(report: Report) -> tuple[int, int]:
    """Return the lines and columns of the panels of parameters."""
    count = len(report.study.searches)
    lines = math.ceil(count / _COLUMNS)
    return lines, math.ceil(count / lines)


def _heights(report: Report) -> tuple[float, float]:
    lines, _ = _lines(report)
    return (1.0, 1.0) if lines == 1 else (0.75 * lines, 1.0)


def _label(report: Report) -> str:
    return "score, relative to the best input" if report.relative else "score"


def _draw_parameters(figure: Any, report: Report) -> None:
    lines, columns = _lines(report)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    panels = [axes for line in grid for axes in line]
    searches = report.study.searches
    for axes, search in zip(panels, searches, strict=False):
        _draw_parameter(axes, search, report.study.trials)
    for axes in panels[len(searches) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_ylabel(_label(report))


def _draw_parameter(axes: Axes, search: Search, trials: Sequence[Trial]) -> None:
    known = [(t.values[search.name], t.score) for t in trials if t.score is not None]
    for place, (value, score) in enumerate(known, 1):
        # Early ones are pale: they were spread out, and not chosen.
        dot: Style = {"color": _BLUE, "alpha": 0.25 + 0.75 * place / len(known)}
        axes.scatter([value], [score], s=36, linewidths=0, **dot)
    title = visible(_short(search.name))
    if (found := best(trials)) is not None and found.score is not None:
        value = found.values[search.name]
        star: Style = {"color": _VERMILION, "s": 110, "marker": "*", "zorder": 3}
        axes.scatter([value], [found.score], **star)
        title += f"\nbest {value:.3g}"
    axes.set_title(title, fontsize=10, loc="left", **_AS_IS)
    if search.low < search.high:
        if search.log:
            axes.set_xscale("log")
        _set_limits(axes, search)
    _tidy(axes)


def _set_limits(axes: Axes, search: Search) -> None:
    """Show the whole range, and a little around it, so that no dot is cut off."""
    from matplotlib import ticker

    if not search.log:
        more = 0.03 * (search.high - search.low)
        axes.set_xlim(search.low - more, search.high + more)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
        return
    factor = (search.high / search.low) ** 0.03
    axes.set_xlim(search.low / factor, search.high * factor)
    if search.high / search.low <= 1000:
        locator = ticker.LogLocator(subs=(1.0, 2.0, 5.0), numticks=5)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ticker.ScalarFormatter())
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _draw_history(axes: Axes, report: Report) -> None:
    from matplotlib import ticker

    trials = report.study.trials
    numbers = range(1, len(trials) + 1)
    pairs = [(n, t.score) for n, t in zip(numbers, trials, strict=True)]
    known = [(n, score) for n, score in pairs if score is not None]
    dots: Style = {"color": _BLUE, "s": 30, "alpha": 0.5, "linewidths": 0}
    axes.scatter([n for n, _ in known], [score for _, score in known], **dots)
    _draw_steps(axes, trials, _VERMILION, "best so far")
    colours = itertools.cycle(_RIVALS)
    for record, colour in zip(report.rivals, colours, strict=False):
        _draw_steps(axes, record.trials, colour, f"{record.merge_method}, best so far")
    for kind, name, score in _references(report):
        line: Style = {"color": _GREY, "linestyle": _LINES[kind], "linewidth": 1.3}
        axes.axhline(score, label=visible(_short(name)), **line)
    failed = [n for n, score in pairs if score is None]
    if failed:
        cross: Style = {"color": _BLACK, "marker": "x", "s": 36, "clip_on": False}
        where = axes.get_xaxis_transform()
        axes.scatter(
            failed, [0] * len(failed), transform=where, label="failed", **cross
        )
    axes.set_xlim(0.5, len(trials) + 0.5)
    axes.set_title("By trial", fontsize=11, loc="left")
    axes.set_xlabel("trial")
    axes.set_ylabel(_label(report))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    _tidy(axes)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        beside: Style = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
        axes.legend(handles, labels, fontsize=10, frameon=False, **beside)


def _draw_steps(axes: Axes, trials: Sequence[Trial], colour: str, label: str) -> None:
    highest = list(best_so_far(trials))
    if not all(map(math.isnan, highest)):
        numbers = range(1, len(highest) + 1)
        axes.step(numbers, highest, where="post", color=colour, label=visible(label))


def _references(report: Report) -> Iterator[tuple[str, str, float]]:
    """Yield what trials are held against: the base, the best input, the config."""
    rows = [(c.kind, c.name, c.score.value) for c in report.contenders if c.score]
    for kind in _LINES:
        ones = [row for row in rows if row[0] == kind]
        if ones:
            _, name, score = max(ones, key=lambda row: row[2])
            yield kind, name, score


def _draw_importance(axes: Axes, report: Report) -> None:
    importance = report.study.importance.items()
    shares = sorted(importance, key=lambda item: item[1])[-_MOST_BARS:]
    axes.set_title("What matters for a good score", fontsize=11, loc="left")
    if not shares:
        axes.set_axis_off()
        axes.text(0.0, 0.9, "too few trials to say", transform=axes.transAxes)
        return
    names = [visible(_short(name)) for name, _ in shares]
    places = range(len(shares))
    axes.barh(places, [100 * share for _, share in shares], color=_BLUE, height=0.6)
    axes.set_yticks(places, names, fontsize=10, **_AS_IS)
    axes.set_xlabel("percent")
    axes.set_ylim(-0.6, max(len(shares), 4) - 0.4)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10)


def _short(name: str) -> str:
    return shortened(name, _LONGEST)
