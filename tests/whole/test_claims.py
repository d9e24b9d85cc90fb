"""The parts of the benchmark of the paper's claims: its protocol, never who wins."""

import importlib
import sys
from collections import defaultdict

import pytest
import torch
from support.repository import BENCHMARKS


@pytest.fixture(scope="module")
def part():
    """A function that imports one of the benchmark's modules."""
    sys.path.insert(0, str(BENCHMARKS))
    # Importing mergekit takes it from warnings to know: see `pyproject.toml`.
    yield lambda name: importlib.import_module(f"claims.{name}")
    sys.path.remove(str(BENCHMARKS))


@pytest.mark.slow
def test_parts_share_no_picture(part):
    """Parts are disjoint, whichever seed, and the tasks of a collection share them."""
    data = part("data")
    for source, count in (("uci", 1797), ("mnist", 5000)):
        for seed in (0, 1):
            parts = [set(data.rows(source, p, seed).tolist()) for p in data.PARTS]
            assert sum(map(len, parts)) == count
            assert set().union(*parts) == set(range(count))
    by_source = defaultdict(list)
    for task in data.TASKS:
        by_source[task.source].append(data.load(task, "test", 0).labels)
    for labels in by_source.values():
        assert all(torch.equal(labels[0], other) for other in labels)


@pytest.mark.slow
def test_tasks_show_different_pictures(part):
    """Tasks of a collection show the same pictures, each in its own way."""
    data = part("data")
    by_source = defaultdict(list)
    for task in data.TASKS:
        by_source[task.source].append(data.load(task, "test", 0, 5).pictures)
    for shown in by_source.values():
        ink = [p.abs().flatten(1).sort().values for p in shown]
        for index, pictures in enumerate(shown[1:], start=1):
            assert torch.equal(ink[0], ink[index])
            assert not any(torch.equal(pictures, other) for other in shown[:index])


def _outcome(part, change):
    """The outcome of a protocol with nothing wrong but what `change` does to it."""
    protocol, work = part("protocol"), part("work")
    plan = protocol.QUICK
    tuning = protocol.tuning_jobs(plan)
    tuned = {(job.seed, job.method): dict(job.parameters) for job in tuning}
    jobs = [
        *protocol.reference_jobs(plan),
        *tuning,
        *protocol.frozen_jobs(plan, tuned),
        *protocol.sensitivity_jobs(plan, tuned),
    ]
    measured = protocol.Measured()
    console = {
        f"{name}, seed 0": {"same tensors": True} for name in part("merging").METHODS
    }
    outcome = part("run").Outcome(measured, jobs, tuned, console, 0.0)
    for job in jobs:
        accuracy = [0.5 if job.method == work.BASE else 0.9] * len(job.tasks)
        measured.results[job.key] = {"finite": True, "accuracy": accuracy}
    change(outcome)
    return part("sanity").violations(outcome, plan)


def _replace(stage, **changes):
    def change(outcome):
        index = next(i for i, job in enumerate(outcome.jobs) if job.stage == stage)
        job = outcome.jobs[index]._replace(**changes)
        outcome.measured.results[job.key] = {
            "finite": True,
            "accuracy": [0.9] * len(job.tasks),
        }
        outcome.jobs[index] = job

    return change


def _spoil(method, **changes):
    def change(outcome):
        key = next(job.key for job in outcome.jobs if job.method == method)
        outcome.measured.results[key].update(changes)

    return change


def _weak_expert(outcome):
    key = next(
        job.key for job in outcome.jobs if (job.method, job.part) == ("expert", "test")
    )
    outcome.measured.results[key]["accuracy"] = [0.9] * 7 + [0.5]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_weak_expert, "expert 7 of seed 0 is no better"),
        (_spoil("TIES", finite=False), "not finite"),
        (lambda o: o.console.pop("TIES, seed 0"), "mergekit-yaml was run for"),
        (
            lambda o: o.console.update({"TIES, seed 0": {"same tensors": False}}),
            "writes other tensors: TIES, seed 0",
        ),
        (lambda o: o.jobs.pop(4), "was tuned with 3 merges, not 4"),
        (_replace("tuning", part="test"), "tuning looked at test data"),
        (_replace("sensitivity", part="test"), "sensitivity looked at test data"),
        (_replace("tuning", tasks=(0, 1, 2)), "tuned on more than a pair"),
        (_replace("frozen", parameters=(("lambda", 9.0),)), "with 2 settings"),
        (_replace("frozen", part="validation"), "reported on validation data"),
    ],
)
def test_a_broken_protocol_is_told(part, change, says):
    """Each of the run's own checks can fail, and alone is enough to fail."""
    assert _outcome(part, lambda outcome: None) == []
    assert any(says in sentence for sentence in _outcome(part, change))
