"""Finding the values that a score likes best, from the config to the report."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

import optuna
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.tune.merging import Merger
from mergekit_breadcrumbs.tune.prepare import Plan, Request, Tuned, prepare
from mergekit_breadcrumbs.tune.progress import Display
from mergekit_breadcrumbs.tune.report import Report
from mergekit_breadcrumbs.tune.results import require_own_folder, write_report
from mergekit_breadcrumbs.tune.scorers import LM_EVAL, read_scorer
from mergekit_breadcrumbs.tune.scores import Scorer
from mergekit_breadcrumbs.tune.storage import let_go, open_study
from mergekit_breadcrumbs.tune.study import StudyEnded
from mergekit_breadcrumbs.tune.trials import finished
from mergekit_breadcrumbs.tune.tuning import Tuning


def tune(request: Request, options: MergeOptions, stream: TextIO) -> Report:
    """Search the parameters of a config, compare what was found, and write it down.

    Whatever ends it, what is done is in the study, and the same request goes on.

    Args:
        request: of the user.
        options: mergekit's own.
        stream: where problems and progress are shown.

    Raises:
        ValueError: if something is wrong with the request, in a sentence.
        StudyEnded: if three trials, or other models, in a row got no score.
        OSError: if a file cannot be read or written.
        ImportError: if what a scorer needs is not installed.
    """
    plan = prepare(request, options, stream)
    scorer, validator = _scorers(request)
    request.out.mkdir(parents=True, exist_ok=True)
    studies = [_open(request, tuned, plan) for tuned in (plan.own, *plan.rivals)]
    require_own_folder(request.out, begun=bool(finished(studies[0])))
    with (
        _ended_like_ctrl_c(),
        Display(stream, quiet=options.quiet) as display,
        Merger(options, request.scratch or request.out) as merger,
    ):
        tuning = Tuning(request, plan, studies, merger, display)
        try:
            tuning.score_models(scorer)
        except StudyEnded:
            for study in studies:
                let_go(study)
            raise
        tuning.search(scorer)
        report = tuning.report(validator)
    write_report(report, request.out)
    return report


def _scorers(request: Request) -> tuple[Scorer, Scorer | None]:
    texts = [request.score, *filter(None, [request.validate_with])]
    # lm-eval has no repeats; where one of the two is a command, they are meant for it.
    alone = all(text.startswith(LM_EVAL) for text in texts)
    found = []
    for text in texts:
        by_lm_eval = text.startswith(LM_EVAL)
        repeats = request.repeats if alone or not by_lm_eval else 1
        settings = request.lm_eval if by_lm_eval else {}
        found.append(
            read_scorer(text, timeout=request.timeout, repeats=repeats, **settings)
        )
    return found[0], found[1] if len(found) > 1 else None


def _open(request: Request, tuned: Tuned, plan: Plan) -> optuna.Study:
    name = request.name or (request.out.resolve().name if request.storage else "tune")
    if tuned is not plan.own:
        name = f"{name} ({tuned.method})"
    settings = {k: str(v) for k, v in request.lm_eval.items() if v not in (None, False)}
    identity = {
        "config": f"the one with checksum {tuned.checksum}",
        "scorer": request.score,
        "relative": str(request.relative).lower(),
        "repeats": str(request.repeats),
        "lm-eval": json.dumps(settings, sort_keys=True),
    }
    return open_study(
        tuned.space.searches,
        name=name,
        storage=request.storage,
        out=request.out,
        identity=identity,
    )


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Have a process that is told to end, end as after Ctrl-C, and tidy up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
