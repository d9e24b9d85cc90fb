"""The picture of an inspection: what is cut from each model, and what is left where.

matplotlib is imported only here and only when a picture is drawn. Nothing of its global
state is touched: no pyplot, no backend chosen, no settings changed.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mergekit_breadcrumbs.measure.chart_data import (
    OUTSIDE,
    Heat,
    Marker,
    Panel,
    chart_data,
)
from mergekit_breadcrumbs.measure.model_names import short_names
from mergekit_breadcrumbs.measure.report import Report
from mergekit_breadcrumbs.wording import counted, visible
from mergekit_breadcrumbs.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Style: TypeAlias = dict[str, Any]  # keyword arguments of matplotlib

WIDTH, HEIGHT, DPI = 1600, 1000, 100
"""Size of the picture in pixels, and how many of them are an inch."""

# From the palette of Okabe and Ito, which is told apart with any colour vision.
_BLUE, _ORANGE, _VERMILION, _BLACK = "#0072B2", "#E69F00", "#D55E00", "#000000"
# Between two dollar signs a name would be taken for a formula.
_AS_IS: Style = {"parse_math": False}
_DROPPED_HATCH = "////"
_FILLED: Style = {"fill": True, "edgecolor": "white", "linewidth": 0}
_PALE: Style = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}

_SIDE_BY_SIDE = 4  # panels, before they are put on two lines
_CELLS_WITH_NUMBERS = 24  # columns of the heatmap that still have room for them
_MOST_LABELS = 26


def draw(report: Report, file: Path) -> None:
    """Draw a report, 1600 by 1000 pixels, in the format of the file's suffix.

    Raises:
        ImportError: if matplotlib is not installed (the command says so beforehand).
        OSError: if the file cannot be written; what was there before is kept.
        ValueError: if matplotlib does not know the suffix.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    data = chart_data(report)
    figure = Figure((WIDTH / DPI, HEIGHT / DPI), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(visible(_title(report)), fontsize=15, x=0.01, ha="left", **_AS_IS)
    count = len(data.panels)
    lines = 1 if count <= _SIDE_BY_SIDE else 2
    columns = math.ceil(count / lines)
    grid = figure.add_gridspec(lines + 1, columns, height_ratios=[1.0] * lines + [1.15])
    for index, panel in enumerate(data.panels):
        line, column = divmod(index, columns)
        axes = figure.add_subplot(grid[line, column])
        _draw_panel(axes, panel, data.limits, small=lines > 1)
        if column == 0:
            axes.set_ylabel("percent per quarter octave")
        if line == lines - 1 or index + columns >= count:
            axes.set_xlabel("|delta|, magnitude of a weight's change")
    _draw_heat(figure, figure.add_subplot(grid[lines, :]), data.heat)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    below: Style = {"loc": "outside lower center", "fontsize": 11, "frameon": False}
    figure.legend(handles, labels, ncols=len(labels), **below)
    content = io.BytesIO()
    figure.savefig(content, format=file.suffix.removeprefix("."))
    write_whole(file, content.getvalue())


def _title(report: Report) -> str:
    [base] = short_names([report.base_model]).values()
    models = counted(len(report.models), "model")
    part = ""
    if report.layers is not None:
        part = f", layers {', '.join(map(str, report.layers[:8]))}"
        part += ", …" if len(report.layers) > 8 else ""
    return f"{report.merge_method}: {models} into {base}{part}"


def _draw_panel(
    axes: Axes, panel: Panel, limits: tuple[float, float], *, small: bool
) -> None:
    size = 9 if small else 10
    axes.set_title(
        f"{visible(panel.name)}\n{panel.surviving:.1f} % of the squared norm survives",
        fontsize=size + 1,
        loc="left",
        **_AS_IS,
    )
    axes.set_xscale("log")
    axes.set_xlim(*limits)
    if not panel.edges:
        axes.text(0.5, 0.5, "all zero", ha="center", transform=axes.transAxes)
        return
    floor = [0.0] * len(panel.small)
    for shares, colour, label, hatch in (
        (panel.small, _ORANGE, "dropped as small", _DROPPED_HATCH),
        (panel.kept, _BLUE, "kept", None),
        (panel.large, _VERMILION, "dropped as large", _DROPPED_HATCH),
    ):
        top = [low + share for low, share in zip(floor, shares, strict=True)]
        style: Style = {**_FILLED, "facecolor": colour, "hatch": hatch}
        axes.stairs(
            top, panel.edges, baseline=floor, label=f"elements {label}", **style
        )
        floor = top
    line: Style = {"color": _BLACK, "linewidth": 1.4, "label": "squared norm"}
    axes.stairs(panel.squares, panel.edges, **line)
    _draw_marker(axes, panel.lower, "cuts: median, and where 80 % of them are")
    _draw_marker(axes, panel.upper, None)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=size)
    note: Style = {"transform": axes.transAxes, "va": "top", "bbox": _PALE}
    text = f"{panel.zero:.1f} % exactly zero"
    axes.text(0.02, 0.97, text, fontsize=size, **note)


def _draw_marker(axes: Axes, marker: Marker | None, label: str | None) -> None:
    if marker is None:
        return
    span: Style = {"color": _BLACK, "alpha": 0.1, "linewidth": 0, "zorder": 0}
    axes.axvspan(marker.lowest, marker.highest, **span)
    line: Style = {"color": _BLACK, "linestyle": "--", "linewidth": 1.2}
    axes.axvline(marker.median, label=label, **line)


def _draw_heat(figure: Figure, axes: Axes, heat: Heat) -> None:
    if not heat.roles:
        axes.set_axis_off()
        return
    nothing = float("nan")
    cells = [[nothing if s is None else s for s in shares] for shares in heat.shares]
    known = [share for shares in heat.shares for share in shares if share is not None]
    # Most merges keep most of the norm; the scale starts at the ten below the least.
    least = min(math.floor(min(known, default=0) / 10) * 10, 90)
    image = axes.imshow(
        cells, aspect="auto", cmap="viridis", vmin=least, vmax=100, interpolation="none"
    )
    axes.set_facecolor("#dddddd")
    title = "Share of the squared norm that survives, all models together"
    axes.set_title(title, fontsize=12, loc="left")
    axes.set_yticks(range(len(heat.roles)), heat.roles, fontsize=10)
    step = math.ceil(len(heat.columns) / _MOST_LABELS)
    first = heat.columns.index("0") if "0" in heat.columns else 0
    # Where columns are narrow, the first layer's label would run into "none".
    start = first + (step if first and step > 2 else 0)
    ticks = [*range(first), *range(start, len(heat.columns), step)]
    labels = ["none" if heat.columns[t] == OUTSIDE else heat.columns[t] for t in ticks]
    axes.set_xticks(ticks, labels, fontsize=10)
    axes.set_xlabel("layer of the merged model (none: tensors outside of layers)")
    bar = figure.colorbar(image, ax=axes, pad=0.01, aspect=12)
    bar.set_label("percent of the squared norm")
    if len(heat.columns) > _CELLS_WITH_NUMBERS:
        return
    for y, shares in enumerate(heat.shares):
        for x, share in enumerate(shares):
            if share is not None:
                dark = share < (least + 100) / 2
                colour = "white" if dark else "black"
                centred: Style = {"ha": "center", "va": "center", "fontsize": 9}
                axes.text(x, y, f"{share:.0f}", color=colour, **centred)
