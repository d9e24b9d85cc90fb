"""What must hold whoever wins: the checks that a run makes on itself."""

from __future__ import annotations

from collections import Counter, defaultdict

from claims.merging import METHODS
from claims.protocol import Plan
from claims.run import Outcome
from claims.work import BASE, EXPERT, Job


def violations(outcome: Outcome, plan: Plan) -> list[str]:
    """Return a sentence for everything that is not as it must be."""
    return [
        *_experts(outcome),
        *_merges(outcome),
        *_budgets(outcome, plan),
        *_frozen(outcome),
        *_parts(outcome),
    ]


def _experts(outcome: Outcome) -> list[str]:
    wrong = []
    for seed in {job.seed for job in outcome.jobs}:
        base, expert = (
            outcome.measured.results[Job("reference", seed, who, part="test").key]
            for who in (BASE, EXPERT)
        )
        pairs = zip(base["accuracy"], expert["accuracy"], strict=True)
        for task, (before, after) in enumerate(pairs):
            if not before < after:
                wrong.append(
                    f"expert {task} of seed {seed} is no better than the base:"
                    f" {after} against {before}"
                )
    return wrong


def _merges(outcome: Outcome) -> list[str]:
    wrong = [
        f"not finite: {job}"
        for job in outcome.jobs
        if not outcome.measured.results[job.key]["finite"]
    ]
    for name, found in outcome.console.items():
        if not found["same tensors"]:
            wrong.append(f"mergekit-yaml writes other tensors: {name}")
    methods = Counter(name.partition(", seed")[0] for name in outcome.console)
    if set(methods) != set(METHODS):
        wrong.append(f"mergekit-yaml was run for {sorted(methods)} only")
    return wrong


def _budgets(outcome: Outcome, plan: Plan) -> list[str]:
    tried: dict[tuple[int, str], set] = defaultdict(set)
    for job in outcome.stage("tuning"):
        tried[job.seed, job.method].add((job.parameters, job.tasks))
    wanted = plan.trials * len(plan.pairs)
    wrong = [
        f"{who} was tuned with {len(trials)} merges, not {wanted}"
        for who, trials in tried.items()
        if len(trials) != wanted
    ]
    if {method for _, method in tried} != set(METHODS):
        wrong.append(f"tuned were only {sorted(tried)}")
    return wrong


def _frozen(outcome: Outcome) -> list[str]:
    used = defaultdict(set)
    for job in outcome.stage("frozen"):
        used[job.seed, job.method].add(job.parameters)
    return [
        f"{who} was measured with {len(settings)} settings"
        for who, settings in used.items()
        if settings != {tuple(sorted(outcome.tuned[who].items()))}
    ]


def _parts(outcome: Outcome) -> list[str]:
    chosen_on = ("tuning", "sensitivity", "ablation")
    wrong = [
        f"{job.stage} looked at test data: {job}"
        for job in outcome.jobs
        if job.stage in chosen_on and job.part != "validation"
    ]
    wrong += [
        f"tuned on more than a pair: {job}"
        for job in outcome.stage("tuning")
        if len(job.tasks) != 2
    ]
    wrong += [
        f"reported on validation data: {job}"
        for job in outcome.jobs
        if job.stage in ("frozen", "shared weights", "rescaled") and job.part != "test"
    ]
    return wrong
