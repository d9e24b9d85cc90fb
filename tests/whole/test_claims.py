"""The course over many tasks: what is merged with what, and how it is counted."""

import importlib
import math
import sys

import pytest
import torch
from support.repository import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))
arms, bed, course_of, record, report, results = (
    importlib.import_module(f"claims.{name}")
    for name in ("arms", "bed", "course", "record", "report", "results")
)
ARMS, SPACES, merged, searches = arms.ARMS, arms.SPACES, arms.merged, arms.searches
courses, counts = course_of.courses, course_of.counts

PLAN = course_of.Plan(
    tasks=12, seeds=(0, 1), orders=3, counts=(4, 8), scales=(0.5, 1.0)
)


def known_for(plan):
    """Return accuracies of experts; to task 3 the base comes too near."""
    found = {}
    for group in course_of.groups(plan):
        for task in range(plan.tasks):
            found[f"expert {group} {task}"] = {
                "base validation": 0.8 if task == 3 else 0.4,
                "base test": 0.3,
                "expert validation": 0.9,
                "expert test": 0.5 + task / 100,
            }
    return found


def all_known(accuracy):
    """Return results of everything, those of merges as a function of them says.

    In tuning, breadcrumbs by row score higher than by tensor.
    """
    known = known_for(PLAN)
    found = list(courses(PLAN, known))
    for course in found:
        for space in SPACES:
            for place, arm in enumerate(course_of.arms_in(space)):
                values = dict.fromkeys(ARMS[arm].searched, 0.1 + place / 100)
                score = 0.9 if arm == "breadcrumbs, row" else 0.8
                key = course_of.tuning_key(course, arm, space)
                known[key] = {"values": values, "score": score}
        known[course_of.shape_key(course)] = {"kurtosis": 3.0}
    jobs = {
        **dict(course_of._frozen(found, PLAN, known)),
        **dict(course_of._settings(found, PLAN)),
    }
    for key, (_, (merge, part)) in jobs.items():
        assert part == "test"
        own = [0.5 + task / 100 for task in merge.tasks]
        shares = [accuracy(merge, task) for task in merge.tasks]
        pairs = zip(shares, own, strict=True)
        distance = dict(merge.values)["lambda"] / 4
        known[key] = {"accuracy": [s * o for s, o in pairs], "distance": distance}
    for key, (_, (merge,)) in course_of._console(found, known):
        draws = merge.arm == "DARE"
        known[key] = {"same": not draws, "random": draws}
    return found, known


def by_arm(merge, task):
    """Breadcrumbs are ahead, on some tasks more; of equal arms none is."""
    best = {"breadcrumbs": 0.9, "breadcrumbs, row": 0.9, "gamma 0": 0.9}
    return best.get(merge.arm, 0.7) + task / 1000


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


def test_every_arm_has_the_same_budget():
    """Each is tuned on the same four tasks with as many trials."""
    found = list(courses(PLAN, known_for(PLAN)))
    jobs = dict(course_of._tunings(found, PLAN))
    for course in found:
        first = course.tasks[:4], course.validation[:4], PLAN.trials
        for arm in ARMS:
            _, arguments = jobs[course_of.tuning_key(course, arm, course_of.MAIN)]
            assert arguments == (course.group, arm, course_of.MAIN, *first)


def test_kept():
    """Accuracies are divided by the experts' own, and averaged."""
    known = known_for(PLAN)
    [course, *_] = courses(PLAN, known)
    merge = bed.Merge(bed.Group("AdamW", 0), "TIES", course.tasks[:2], ())
    first, second = course.test[:2]
    known[repr(merge)] = {"accuracy": [first / 2, second]}
    assert results.kept(course, merge, known) == pytest.approx(0.75)
    expected = (0.3 / first + 0.3 / second) / 2
    assert results.base_keeps(course, 2, known) == pytest.approx(expected)


def test_lead():
    """Errors are those of means over orders, task by task, and over tasks."""
    known = known_for(PLAN)
    found = [course for course in courses(PLAN, known) if course.group.seed == 0][:2]

    def merge(arm):
        return lambda course: bed.Merge(course.group, arm, course.tasks[:2], ())

    wins = [(0.1, 0.3), (0.1, 0.1)]  # of the first task of each order, and the second
    for course, pair in zip(found, wins, strict=True):
        own = course.test[:2]
        for arm, more in (("one", pair), ("other", (0, 0))):
            accuracy = [(0.5 + m) * best for m, best in zip(more, own, strict=True)]
            known[repr(merge(arm)(course))] = {"accuracy": accuracy}
    assert not set(found[0].tasks[:2]) & set(found[1].tasks[:2])
    by = results.lead(found, merge("one"), merge("other"), known)
    assert by.mean == pytest.approx(0.15)
    assert by.over_orders == pytest.approx(0.05)  # of 0.2 and 0.1
    assert by.over_tasks == pytest.approx(0.05)  # of 0.1, 0.3, 0.1 and 0.1
    assert by.ahead
    assert results.percent(by) == "+15.0 ± 5.0"
    single = results.lead(found[:1], merge("one"), merge("other"), known)
    assert single.over_orders == math.inf
    assert not single.ahead


def test_verdicts():
    """A claim holds where the lead is over twice its error, and for no other reason."""
    found, known = all_known(by_arm)
    own = [course for course in found if course.group.recipe == "SGD"]
    assert results.better(own[0], course_of.MAIN, known) == "breadcrumbs, row"
    held = {v.claim: v.holds for v in results.verdicts(own, PLAN, known)}
    assert held == {
        "better as tasks are added": True,
        "one setting keeps working": True,
        "because of the large": False,
        "because of the small": True,
    }
    found, known = all_known(
        lambda merge, task: (
            by_arm(merge, task) + (dict(merge.values)["lambda"] == 1) / 40
        )
    )
    own = [course for course in found if course.group.recipe == "SGD"]
    held = {v.claim: v.holds for v in results.verdicts(own, PLAN, known)}
    assert not held["one setting keeps working"]


def test_scales_and_distances():
    """The best scale is the one that keeps most; between two, a line is drawn."""
    found, known = all_known(lambda merge, task: 1 - dict(merge.values)["lambda"] / 2)
    (course, _) = course_of.with_settings(found)
    assert results.best_scale(course, "TIES 0.2", 8, PLAN, known) == (
        pytest.approx(0.75),
        0.5,
    )
    at = [results.at_distance(course, "TIES 0.2", d, PLAN, known) for d in (0.2, 0.3)]
    assert at == [pytest.approx(0.6), None]


def test_report():
    """It has every method, and is written again from its JSON without a change."""
    found, known = all_known(by_arm)
    lines = list(report.markdown(found, PLAN, known))
    text = "\n".join(lines)
    for arm in ARMS:
        assert sum(line.startswith(f"| {arm} | ") for line in lines) >= 2
    assert "| better as tasks are added | yes: +20.0" in text
    assert "wrote the same tensors in 36 of 36 merges" in text
    saved = record.Record("here", PLAN, ["a", "b"], known)
    again = record.from_json(saved.to_json())
    assert again == saved
    found = list(courses(again.plan, again.known))
    assert list(report.markdown(found, again.plan, again.known)) == lines


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
