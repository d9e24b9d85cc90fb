"""Reports of studies that never were."""

import math
import random

from mergekit_breadcrumbs.tune.compare import comparisons
from mergekit_breadcrumbs.tune.report import Contender, Report, StudyRecord
from mergekit_breadcrumbs.tune.scores import Score
from mergekit_breadcrumbs.tune.search import Search
from mergekit_breadcrumbs.tune.trials import Trial, best

SEARCHES = [
    Search("lambda", 0.2, 2.0, log=True),
    Search("density", 0.02, 0.95),
    Search("gamma", 0.0, 0.05),
    *(Search(f"weight of a-model-with-a-long-name-{i}", 0, 1) for i in range(20)),
]


def _trial(number, searches, scale, failed, rng):
    values = {s.name: s.low + rng.random() * (s.high - s.low) for s in searches}
    if failed:
        return Trial(number, values, None, {}, "exit status 1: no luck", 60, "failed")
    places = [(values[s.name] - s.low) / (s.high - s.low or 1) for s in searches]
    score = scale * (0.6 - math.fsum((p - 0.4) ** 2 for p in places) / len(places))
    return Trial(
        number, values, score, {"it": Score(score, scale / 50)}, None, 60, "complete"
    )


def _row(kind, name, trial=None, value=0.0, scale=1.0):
    score = Score(value, scale / 50) if trial is None else trial.scores["it"]
    return Contender(
        kind=kind,
        name=name,
        values={} if trial is None else trial.values,
        trial=None if trial is None else trial.number,
        scores={"it": score},
        score=score,
    )


def studied(
    parameters=3, trials=30, *, failed=(), rivals=(), scale=1.0, searches=None, **keys
):
    """Return the report of a study, the same one every time.

    `failed` are the numbers of the trials that failed; `rivals` are names of methods.
    """
    rng = random.Random(0)
    searches = searches or SEARCHES[:parameters]

    def record(method, chosen):
        done = [
            _trial(n, chosen, scale, n in failed and method == "breadcrumbs", rng)
            for n in range(trials)
        ]
        names = [search.name for search in chosen]
        shares = dict(zip(names, [1 / len(names)] * len(names), strict=True))
        importance = shares if len(done) - len(failed) >= 10 else {}
        return StudyRecord(
            merge_method=method, searches=chosen, trials=done, importance=importance
        )

    own = record("breadcrumbs", searches)
    others = [record(name, searches[:1]) for name in rivals]
    rows = [
        _row("base", "base", value=0.2 * scale, scale=scale),
        _row("input", "math", value=0.35 * scale, scale=scale),
        _row("input", "code", value=0.3 * scale, scale=scale),
        _row("start", "config as given", value=0.45 * scale, scale=scale),
    ]
    if (found := best(own.trials)) is not None:
        rows.append(_row("best", "best", found))
    for other in others:
        rows.append(_row("rival", f"best {other.merge_method}", best(other.trials)))
    return Report(
        config="config.yml",
        scorer="python score.py {model}",
        seed=0,
        budget=trials,
        study=own,
        rivals=others,
        contenders=rows,
        comparisons=comparisons(rows),
        **keys,
    )
