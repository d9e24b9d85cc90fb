"""The files that a study leaves: best.yml, trials.csv, report.json, tune.png."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from mergekit_breadcrumbs.tune.best_file import best_file
from mergekit_breadcrumbs.tune.prepare import Plan, Request, Tuned
from mergekit_breadcrumbs.tune.report import Report
from mergekit_breadcrumbs.tune.scores import mean
from mergekit_breadcrumbs.tune.table import score_text, values_text
from mergekit_breadcrumbs.tune.trials import Trial, best
from mergekit_breadcrumbs.wording import listed
from mergekit_breadcrumbs.writing import write_whole

BEST, TRIALS, REPORT, PICTURE = "best.yml", "trials.csv", "report.json", "tune.png"


def require_own_folder(out: Path, *, begun: bool) -> None:
    """Check that nothing of another study would be replaced.

    Args:
        out: the folder.
        begun: whether the study has trials, whose files these may be.

    Raises:
        ValueError: if there is a file of such a name, or a model.
    """
    if (out / "config.json").exists():
        raise ValueError(f"{out} holds a model: give another output folder")
    there = [name for name in (BEST, TRIALS, REPORT, PICTURE) if (out / name).exists()]
    if there and not begun:
        raise ValueError(
            f"{out} has {listed(there, 4)} already, and not of this study: give"
            " another output folder"
        )


def name_of_best(tuned: Tuned, plan: Plan) -> str:
    """Return the name of the file with a method's best config."""
    return BEST if tuned is plan.own else f"best-{tuned.method}.yml"


def write_trials(
    request: Request, plan: Plan, records: Sequence[tuple[Tuned, list[Trial]]]
) -> None:
    """Write what is known so far: the best config of each method, and all trials.

    Raises:
        OSError: if a file cannot be written; what was there is kept.
    """
    for tuned, trials in records:
        found = best(trials)
        if found is not None:
            text = _best_text(request, plan, tuned, trials, found)
            path = request.out / name_of_best(tuned, plan)
            write_whole(path, _encoded(text))
    rows = [
        dict(_cells(tuned.method, place, trial))
        for tuned, trials in records
        for place, trial in enumerate(trials, 1)
    ]
    write_whole(request.out / TRIALS, _encoded(_csv(rows)))


def write_report(report: Report, out: Path) -> None:
    """Write report.json and tune.png.

    Raises:
        OSError: if a file cannot be written; what was there is kept.
    """
    from mergekit_breadcrumbs.tune.picture import draw

    text = json.dumps(report.model_dump(), indent=1, allow_nan=False)
    write_whole(out / REPORT, f"{text}\n".encode())
    with warnings.catch_warnings():
        # Names may be in a script that the font does not have.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        draw(report, out / PICTURE)


def _encoded(text: str) -> bytes:
    # The name of a folder may be anything.
    return text.encode("utf-8", "backslashreplace")


def _best_text(
    request: Request, plan: Plan, tuned: Tuned, trials: list[Trial], found: Trial
) -> str:
    place = trials.index(found) + 1
    ranges = [f"{s.name} {s.low:g} to {s.high:g}" for s in tuned.space.searches]
    score = score_text(mean(found.scores.values()))
    lines = [
        f"Found by mergekit-breadcrumbs tune: trial {place} of {len(trials)} with"
        f" {tuned.method} scored highest.",
        f"Score: {score}{', relative to the best input' if request.relative else ''}",
        f"Scored by: {request.score}",
        f"Values: {values_text(found.values)}",
        f"Searched: {'; '.join(ranges)}; seed {request.seed}",
        f"Made from: {request.config}",
    ]
    lines += plan.notes if tuned is plan.own else []
    settings = tuned.space.settings(found.values)
    text = plan.text if tuned is plan.own else None
    return best_file(tuned.data, settings, lines, text)


def _csv(rows: Sequence[dict[str, object]]) -> str:
    columns = dict.fromkeys(name for row in rows for name in row)
    content = io.StringIO()
    writer = csv.DictWriter(content, [*columns], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


def _cells(method: str, place: int, trial: Trial) -> Iterator[tuple[str, object]]:
    yield "merge_method", method
    yield "trial", place
    yield "score", "" if trial.score is None else trial.score
    yield from trial.values.items()
    for name, score in trial.scores.items():
        yield f"score of {name}", score.value
        yield f"error of {name}", "" if score.error is None else score.error
    yield "seconds", f"{trial.seconds:.3f}"
    yield "failure", trial.error or ""
