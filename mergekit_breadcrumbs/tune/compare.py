"""Whether the best merge is better than the others, as far as their scores can say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal

from mergekit_breadcrumbs.tune.report import Comparison, Contender, Report
from mergekit_breadcrumbs.tune.scores import Score

On = Literal["search", "validation"]
_NORMAL = 1.96  # standard errors on either side of 95 % of a normal distribution
_VERDICTS = {
    "better": "is better than",
    "worse": "is worse than",
    "within the noise": "cannot be told from",
}
# Where there is no error to hold the difference against.
_SCORED = {1: "scored higher than", 0: "scored the same as", -1: "scored lower than"}


def margin(score: Score | None) -> float | None:
    """Return half of a score's 95 % interval; None if its error is not known.

    An error of exactly 0 is that of a scorer whose runs all gave the same, which says
    nothing of other questions.

    Example:
        >>> margin(Score(0.5, 0.01)), margin(Score(0.5, 0.0)), margin(Score(0.5))
        (0.0196, None, None)
    """
    if score is None or not score.error:
        return None
    return _NORMAL * score.error


def comparisons(contenders: Iterable[Contender]) -> list[Comparison]:
    """Compare the best with the config as given, each rival, and the best input.

    On the questions of the validation if the best was scored there, and otherwise on
    those of the search. What has no score there is left out, and so is the config as
    given where it is the best.
    """
    known = list(contenders)
    best = next((c for c in known if c.kind == "best"), None)
    if best is None:
        return []
    on: On = "validation" if best.validation is not None else "search"
    others = [c for c in known if c.kind in ("start", "rival") and not _same(c, best)]
    inputs = [c for c in known if c.kind == "input" and _on(c, on) is not None]
    others += sorted(inputs, key=lambda c: _value(_on(c, on)), reverse=True)[:1]
    return [found for other in others if (found := _compare(best, other, on))]


def _same(one: Contender, best: Contender) -> bool:
    return one.kind == "start" and one.trial is not None and one.trial == best.trial


def _on(one: Contender, on: On) -> Score | None:
    return one.validation if on == "validation" else one.score


def _value(score: Score | None) -> float:
    return -math.inf if score is None else score.value


def _compare(best: Contender, other: Contender, on: On) -> Comparison | None:
    ours, theirs = _on(best, on), _on(other, on)
    if ours is None or theirs is None:
        return None
    difference = ours.value - theirs.value
    width, verdict = None, "unknown"
    if ours.error and theirs.error:
        # As if they were independent. On the same questions they rise and fall
        # together, so that the true margin is smaller.
        width = _NORMAL * math.hypot(ours.error, theirs.error)
        verdict = "better" if difference > 0 else "worse"
        if abs(difference) <= width:
            verdict = "within the noise"
    return Comparison.model_validate(
        {
            "other": other.name,
            "kind": other.kind,
            "on": on,
            "difference": difference,
            "margin": width,
            "verdict": verdict,
        }
    )


def sentences(report: Report) -> Iterator[str]:
    """Yield what the comparisons say, in words, and what they cannot say."""
    found = report.comparisons
    best = next((c for c in report.contenders if c.kind == "best"), None)
    if best is None:
        yield "No trial got a score."
        return
    if any(_same(one, best) for one in report.contenders):
        yield "No trial scored higher than the config as given."
    for one in found:
        yield _sentence(one)
    if any(one.margin is None for one in found):
        yield (
            "The scorer gives no error to hold a difference against; --repeats N runs"
            " it several times."
        )
    if best.validation is None:
        trials = len([t for t in report.study.trials if t.score is not None])
        yield (
            f"The best is the highest of {trials} scores, and so partly lucky:"
            " --validate SCORER scores it again, on other questions."
        )


def _sentence(one: Comparison) -> str:
    where = "On other questions the" if one.on == "validation" else "The"
    size = f"{one.difference:+.3g}"
    if one.margin is not None:
        size += f" ± {one.margin:.2g} (95 %)"
    other = one.other if one.kind == "input" else f"the {one.other}"
    sign = (one.difference > 0) - (one.difference < 0)
    verdict = _VERDICTS.get(one.verdict, _SCORED[sign])
    return f"{where} best {verdict} {other}: {size}."
