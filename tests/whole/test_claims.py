"""The course over many tasks: what is merged with what, and how it is counted."""

import importlib
import math
import sys

import pytest
import torch
from support.repository import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))
claims_many = importlib.import_module("claims_many")
arms, bed = (importlib.import_module(f"claims.{name}") for name in ("arms", "bed"))
ARMS, SPACES, merged, searches = arms.ARMS, arms.SPACES, arms.merged, arms.searches
counts, courses, kept = claims_many.counts, claims_many.courses, claims_many.kept
paired = claims_many.paired

PLAN = claims_many.Plan(tasks=12, seeds=(0, 1), orders=3, counts=(4, 8))


def known_for(plan):
    """Return accuracies of experts; to task 3 the base comes too near."""
    found = {}
    for group in claims_many.groups(plan):
        for task in range(plan.tasks):
            found[f"expert {group} {task}"] = {
                "base validation": 0.8 if task == 3 else 0.4,
                "expert validation": 0.9,
                "expert test": 0.5 + task / 100,
            }
    return found


def test_courses():
    """Each recipe has every order, seeds take turns, and easy tasks are left out."""
    found = list(courses(PLAN, known_for(PLAN)))
    assert [(c.group.recipe, c.group.seed, c.order) for c in found] == [
        *(("AdamW", 0, 0), ("AdamW", 1, 1), ("AdamW", 0, 2)),
        *(("SGD", 0, 0), ("SGD", 1, 1), ("SGD", 0, 2)),
    ]
    for course in found:
        assert sorted(course.tasks) == [0, 1, 2, *range(4, 12)]
        assert course.test == tuple(0.5 + task / 100 for task in course.tasks)
        assert counts(course, PLAN) == [4, 8, 11]
    assert len({course.tasks for course in found}) == PLAN.orders


def test_every_arm_has_the_same_spaces():
    """What two arms both search they search in the same range."""
    for space, ranges in SPACES.items():
        for arm in ARMS:
            assert [s.name for s in searches(arm, space)] == list(ARMS[arm].searched)
            assert all(search == ranges[search.name] for search in searches(arm, space))


def test_kept():
    """Accuracies are divided by the experts' own, and averaged."""
    [course, *_] = courses(PLAN, known_for(PLAN))
    merge = claims_many.Merge(bed.Group("AdamW", 0), "TIES", course.tasks[:2], ())
    first, second = course.test[:2]
    known = {repr(merge): {"accuracy": [first / 2, second]}}
    assert kept(course, merge, known) == pytest.approx(0.75)


def test_paired():
    """The standard error is that of the mean of differences; of one it is not known."""
    mean, error = paired([0.1, 0.3])
    assert (mean, error) == (pytest.approx(0.2), pytest.approx(0.1))
    assert paired([0.1]) == (0.1, math.inf)


def state(seed, scale=1.0):
    """Return some weights."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(40, 50, generator=generator) for name in ("a", "b")
    }


@pytest.mark.parametrize("arm", ARMS)
def test_merges(arm):
    """Kept whole, every method adds the task vectors; the same every time."""
    base = state(0)
    expert = {name: base[name] + tensor for name, tensor in state(1, 0.01).items()}
    values = {"lambda": 0.5, "density": 1.0, "gamma": 0.0}
    values = {name: values[name] for name in ARMS[arm].searched}
    whole = merged(base, [expert], arm, values)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, base[name].lerp(expert[name], 0.5))
    if "density" not in values:
        return
    few = merged(base, [expert], arm, {**values, "density": 0.25})
    changed = [float((few[name] != base[name]).float().mean()) for name in base]
    assert all(0.2 < share < 0.3 for share in changed)
    again = merged(base, [expert], arm, {**values, "density": 0.25})
    assert all(torch.equal(few[name], again[name]) for name in base)


def test_random_mask_is_random():
    """It keeps small elements as well as large ones, unlike breadcrumbs."""
    base, delta = state(0), state(1, 0.01)
    expert = {name: base[name] + tensor for name, tensor in delta.items()}
    sizes = {}
    for arm in ("random mask", "gamma 0"):
        few = merged(base, [expert], arm, {"lambda": 1.0, "density": 0.25})
        kept_ones = [delta[n][few[n] != base[n]].abs().mean() for n in base]
        sizes[arm] = float(sum(kept_ones)) / 2
    assert sizes["random mask"] == pytest.approx(0.008, rel=0.15)  # the mean of all
    assert sizes["gamma 0"] > 1.5 * sizes["random mask"]
