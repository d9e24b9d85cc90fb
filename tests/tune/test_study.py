"""A study in one process: what counts, what is tried again, and when it ends."""

import math
from contextlib import suppress

import optuna
import pytest

from mergekit_breadcrumbs.tune import lost
from mergekit_breadcrumbs.tune import study as study_module
from mergekit_breadcrumbs.tune.lost import WORKER, this_worker
from mergekit_breadcrumbs.tune.sampling import SeededSampler
from mergekit_breadcrumbs.tune.scores import Score, ScoringFailed
from mergekit_breadcrumbs.tune.search import Search
from mergekit_breadcrumbs.tune.storage import JOURNAL, open_study
from mergekit_breadcrumbs.tune.study import StudyEnded, run
from mergekit_breadcrumbs.tune.trials import (
    ENOUGH,
    ERROR,
    START,
    Trial,
    attempts,
    best,
    finished,
    importance,
)

SEARCHES = [Search("lambda", 0.1, 2.0, log=True), Search("density", 0.01, 1.0)]
START_AT = {"lambda": 1.0, "density": 0.5}


def score(values):
    """A smooth function with its best, 1, at lambda 0.7 and density 0.3."""
    away = math.log(values["lambda"] / 0.7) ** 2 + (values["density"] - 0.3) ** 2
    return {"easy": Score(math.exp(-away), 0.01), "hard": Score(math.exp(-away))}


def opened(folder, searches=SEARCHES, **identity):
    return open_study(
        searches,
        name="test",
        storage=None,
        out=folder,
        identity={"config": "A", **identity},
    )


class Objective:
    """Scores values, and notes them; what is to happen is by the number of the call."""

    def __init__(self, happens=None):
        self.happens, self.calls = happens or {}, []

    def __call__(self, values):
        self.calls.append(values)
        event = self.happens.get(len(self.calls))
        if isinstance(event, BaseException):
            raise event
        return event() if event is not None else score(values)


def go(folder, objective, trials, **settings):
    settings = {"seed": 3, "poll": 0.05, **settings}
    run(opened(folder), SEARCHES, objective, trials=trials, **settings)


def values_of(folder):
    return [trial.values for trial in finished(opened(folder))]


def test_what_is_known_of_a_trial(tmp_path, capfd):
    """Values, scores with their errors, words of failure; and nothing is printed."""
    told, verbosity = [], optuna.logging.get_verbosity()
    objective = Objective({2: ScoringFailed("no number in 'abc'")})
    go(tmp_path, objective, 3, start=START_AT, on_trial=told.append)
    first, failed, last = finished(opened(tmp_path))
    assert told == [first, failed, last]
    assert first.values == START_AT
    assert first.scores == score(START_AT)
    assert first.score == score(START_AT)["hard"].value
    assert (first.state, first.error) == ("complete", None)
    assert (failed.state, failed.error) == ("failed", "no number in 'abc'")
    assert (failed.score, failed.scores) == (None, {})
    assert [first.number, failed.number, last.number] == [0, 1, 2]
    assert 0 <= last.seconds < 60
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == verbosity


@pytest.mark.slow
def test_same_seed_same_trials(tmp_path):
    """Also where the study is interrupted, by whatever, and goes on."""
    ends = [KeyboardInterrupt(), SystemExit(), KeyError("a bug"), MemoryError()]
    happens = dict(zip((1, 6, 12, 13), ends, strict=True))
    interrupted = Objective(happens)
    for name, objective, seed in [
        ("whole", Objective(), 3),
        ("in parts", interrupted, 3),
        ("other", Objective(), 4),
    ]:
        folder = tmp_path / name
        folder.mkdir()
        while len(values_of(folder)) < 14:
            with suppress(*map(type, ends)):
                go(folder, objective, 14, seed=seed)
    assert len(interrupted.calls) == 14 + 4
    assert values_of(tmp_path / "in parts") == values_of(tmp_path / "whole")
    others = values_of(tmp_path / "other")
    assert not any(values in others for values in values_of(tmp_path / "whole"))


def test_a_second_call_goes_on(tmp_path):
    """More trials can be asked for; fewer than there are is none."""
    for trials, calls in [(2, 2), (5, 3), (5, 0), (3, 0)]:
        objective = Objective()
        go(tmp_path, objective, trials, start=START_AT)
        assert len(objective.calls) == calls
    assert len(finished(opened(tmp_path))) == 5


@pytest.mark.parametrize(
    ("searches", "identity", "words"),
    [
        (SEARCHES, {"scorer": "lm-eval:mbpp"}, "its scorer is none, and not 'lm-eval:"),
        (SEARCHES, {"config": "B"}, "its config is 'A', and not 'B'"),
        (SEARCHES[:1], {}, "its range of density is '0.01 to 1.0', and not none"),
        (
            [Search("lambda", 0.1, 2.0), SEARCHES[1]],
            {},
            "its range of lambda is '0.1 to 2.0, log', and not '0.1 to 2.0'",
        ),
    ],
)
def test_another_study(tmp_path, searches, identity, words):
    """A study of the same name for something else is not gone on with."""
    opened(tmp_path)
    opened(tmp_path)
    with pytest.raises(ValueError, match="the study test in") as error:
        opened(tmp_path, searches, **identity)
    assert words in str(error.value)
    assert str(tmp_path / JOURNAL) in str(error.value)


def test_three_failures_in_a_row(tmp_path):
    """They end the study with the last words; the next run has three tries again."""
    failures = {n: ScoringFailed(f"out of memory {n}") for n in (1, 2, 4, 5, 6)}
    with pytest.raises(StudyEnded, match=r"^3 trials .*: out of memory 6$"):
        go(tmp_path, Objective(failures), 10)
    assert len(finished(opened(tmp_path))) == 6
    again = Objective({1: ScoringFailed("a"), 2: ScoringFailed("b")})
    go(tmp_path, again, 10)
    assert len(again.calls) == 4


def test_a_score_that_is_not_finite_fails(tmp_path):
    """Optuna would forget such a trial, and it would be tried for ever."""
    go(tmp_path, Objective({1: lambda: {"it": Score(math.nan)}}), 1)
    [trial] = finished(opened(tmp_path))
    assert "not all of its scores are finite" in str(trial.error)


def test_start_out_of_range(tmp_path):
    """It is an error that names the value and the range."""
    with pytest.raises(ValueError, match=r"density 2\.0, .* range, 0\.01 to 1\.0"):
        go(tmp_path, Objective(), 1, start={"lambda": 1.0, "density": 2.0})
    assert finished(opened(tmp_path)) == []


def test_the_last_trial_is_not_begun_twice(tmp_path):
    """One too many is withdrawn; a worker waits for the other's, and says for whom."""
    other, hosts = opened(tmp_path), []
    theirs = other.ask()
    theirs.set_user_attr(WORKER, {**this_worker(), "host": "far away"})
    other.enqueue_trial({})

    def end_it(names):
        hosts.extend(names)
        theirs.suggest_float("density", 0.01, 1.0)
        theirs.set_user_attr("scores", "{}")
        other.tell(theirs, 0.0)

    objective = Objective()
    go(tmp_path, objective, 1, on_wait=end_it)
    assert (objective.calls, hosts) == ([], ["far away"])
    assert [trial.number for trial in finished(opened(tmp_path))] == [0]
    assert attempts(other).waiting == []


def test_two_workers_both_queue_the_start(tmp_path):
    """It is tried once."""
    for _ in range(2):
        opened(tmp_path).enqueue_trial(START_AT, user_attrs={START: True})
    go(tmp_path, Objective(), 3, start=START_AT)
    assert [values == START_AT for values in values_of(tmp_path)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_a_worker_that_was_thought_dead(tmp_path, fails):
    """It leaves what it was at to the others, and goes on."""

    def taken_away():
        opened(tmp_path).tell(0, state=optuna.trial.TrialState.FAIL)
        if fails:
            raise ScoringFailed("late")
        return {"it": Score(1.0)}

    objective = Objective({1: taken_away})
    go(tmp_path, objective, 2)
    assert objective.calls[1] == objective.calls[0]
    assert [trial.state for trial in finished(opened(tmp_path))] == ["complete"] * 2
    assert len(objective.calls) == 3


def dead(folder, *, noted=None, **worker):
    """Leave a trial as a worker does that is killed, maybe once it noted an error."""
    study = opened(folder)
    trial = study.ask()
    for search in SEARCHES:
        trial.suggest_float(search.name, search.low, search.high, log=search.log)
    if noted is not None:
        trial.set_user_attr(ERROR, noted)
    if worker:
        trial.set_user_attr(WORKER, {**this_worker(), **worker})
    return trial.params


@pytest.mark.parametrize("worker", [{"pid": 2**22 + 1}, {"started": 1.0}])
def test_dead_worker_of_this_host(tmp_path, worker):
    """Its process is gone, or its number is now another's: its values come first."""
    values = dead(tmp_path, **worker)
    objective = Objective()
    go(tmp_path, objective, 2)
    assert objective.calls[0] == values
    assert len(objective.calls) == 2


def test_living_worker_and_one_of_another_host(tmp_path):
    """What they are at is theirs."""
    dead(tmp_path, host=this_worker()["host"])
    dead(tmp_path, host="far away", pid=2**22 + 1)
    objective, left = Objective(), KeyboardInterrupt()

    def leave(hosts):
        assert hosts == sorted(["far away", this_worker()["host"]])
        raise left

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, objective, 3, on_wait=leave)
    assert len(objective.calls) == 1


def test_killed_before_it_signed(tmp_path, monkeypatch):
    """A trial that is nobody's for a minute is taken over."""
    monkeypatch.setattr(lost, "UNSIGNED", 0.2)
    values, waited = dead(tmp_path), []
    objective = Objective()
    go(tmp_path, objective, 1, on_wait=waited.append)
    assert objective.calls == [values]
    assert set(map(tuple, waited)) == {("a host",)}


def test_values_that_kill_every_worker(tmp_path):
    """After the third the attempt counts as failed, and is not tried again."""
    study = opened(tmp_path)
    dead(tmp_path, pid=2**22 + 1)
    for number in range(study_module.FATAL - 1):
        lost.Lost(study).recover()
        trial = study.ask()
        assert trial.number == number + 1
        trial.set_user_attr(WORKER, {**this_worker(), "pid": 2**22 + 1})
    objective = Objective()
    go(tmp_path, objective, 1)
    [trial] = finished(study)
    assert (objective.calls, trial.error) == (
        [],
        "3 workers died of it, one after the other",
    )


def test_killed_after_it_noted_the_failure(tmp_path):
    """The trial counts as failed, and is not tried again."""
    dead(tmp_path, pid=2**22 + 1, noted="no")
    objective = Objective()
    go(tmp_path, objective, 1)
    assert objective.calls == []
    assert [trial.error for trial in finished(opened(tmp_path))] == ["no"]


def test_importance(tmp_path):
    """What the score does not depend on is last; too few trials say nothing."""
    searches = [*SEARCHES, Search("gamma", 0.0, 0.1), Search("fixed", 1.0, 1.0)]
    study = opened(tmp_path, searches)
    run(study, searches, score, trials=ENOUGH - 1, seed=0)
    assert importance(study) == {}
    run(study, searches, score, trials=25, seed=0)
    found = importance(study)
    assert set(found) >= {"lambda", "density", "gamma"}
    assert sum(found.values()) == pytest.approx(1)
    assert found["gamma"] < min(found["lambda"], found["density"]) / 2


def test_best_of_none():
    """Where nothing has a score, nothing is best."""
    failed = Trial(0, {}, None, {}, "no", 1.0, "failed")
    assert best([]) is None
    assert best([failed]) is None


def test_drawn_twice(tmp_path, monkeypatch):
    """Values that another worker is at are drawn anew, and do not count."""
    study = opened(tmp_path)
    drawn = [{"lambda": 0.5, "density": 0.25}, {"lambda": 0.75, "density": 0.25}]
    study.enqueue_trial(drawn[0])
    other = study.ask()
    other.set_user_attr(WORKER, this_worker())
    for search in SEARCHES:
        other.suggest_float(search.name, search.low, search.high, log=search.log)
    left = [drawn[0], *drawn]
    draw = SeededSampler.sample_relative
    monkeypatch.setattr(
        SeededSampler,
        "sample_relative",
        lambda *arguments: left.pop(0) if left else draw(*arguments),
    )
    objective = Objective({1: lambda: study.tell(other, 1.0) and score(drawn[1])})
    go(tmp_path, objective, 3)
    assert objective.calls[0] == drawn[1]
    assert len(objective.calls) == 2  # the other worker's is the third
    assert len(finished(opened(tmp_path))) == 3


def test_nothing_else_to_draw(tmp_path):
    """Where a range is one value, it is tried as often as is asked for."""
    fixed = [Search("lambda", 1.0, 1.0)]
    study = opened(tmp_path, fixed)
    study.enqueue_trial({"lambda": 1.0})
    study.ask().suggest_float("lambda", 1.0, 1.0)
    calls = []

    def objective(values):
        calls.append(values)
        return {"it": Score(1.0)}

    def wait(_hosts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(study, fixed, objective, trials=3, seed=0, on_wait=wait)
    assert len(calls) == 2
