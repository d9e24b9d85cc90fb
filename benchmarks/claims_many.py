"""Do breadcrumbs keep what many experts know? A course over 40 tasks.

Experts of one pretrained encoder (`claims/encoder.py`), each trained on one of 40 tasks
of real texts (`claims/texts.py`), with AdamW and with SGD. An expert to which the base
comes within 85 % on validation data is left out. In several orders of the tasks, every
merge method is tuned on the first four (validation data, the same number of trials, by
the engine of `mergekit-breadcrumbs tune`), in the space that the authors' code searches
and in a wide one. Its values are then frozen, and 4, 8, 16, 24 and all experts merged
and measured on test data: accuracy over the expert's own, averaged over the tasks.

Written before the run, what counts as the paper's claims holding, in the authors'
space, for each recipe, over all orders and seeds:

- "better as tasks are added": with all tasks, breadcrumbs (by tensor or by row, the one
  that scored higher in tuning) are ahead of task arithmetic by more than twice the
  standard error of the paired differences over orders and seeds;
- "one setting keeps working": with all tasks the frozen setting loses at most two
  points of what the best scale at all tasks reaches;
- "because of the large": the same with gamma 0 is behind by more than twice the
  standard error;
- "because of the small": a random mask of the same density is behind likewise.

Everything is kept in `--cache`, and an interrupted run goes on from there. Prints JSON
lines of what was measured into DIR/results.jsonl, and Markdown.

    python benchmarks/claims_many.py
"""

from __future__ import annotations

import math
import os
import random
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

# Before torch is imported, here and in the workers: one thread for each of them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import click
from claims.arms import ARMS, SPACES
from claims.bed import (
    Group,
    Merge,
    Place,
    compare_with_console,
    make_base,
    make_expert,
    measure,
    shapes,
    tune_arm,
)
from claims.encoder import RECIPES
from claims.run import Runner

TUNED_ON = 4
TOO_EASY = 0.85
SCALES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)


class Plan(NamedTuple):
    """How much is measured."""

    tasks: int = 40
    seeds: tuple[int, ...] = (0, 1)
    orders: int = 3
    trials: int = 20
    steps: int = 40
    counts: tuple[int, ...] = (4, 8, 16, 24)


QUICK = Plan(tasks=6, seeds=(0,), orders=1, trials=3, steps=10, counts=(4,))


class Course(NamedTuple):
    """One order of a group's tasks; `own` are the experts' accuracies."""

    group: Group
    order: int
    tasks: tuple[int, ...]
    validation: tuple[float, ...]
    test: tuple[float, ...]


def courses(plan: Plan, known: dict[str, dict[str, Any]]) -> Iterator[Course]:
    """Yield every order for each recipe, of the tasks that are not too easy.

    The training seeds take turns.
    """
    for recipe, order in product(RECIPES, range(plan.orders)):
        group = Group(recipe, plan.seeds[order % len(plan.seeds)])
        results = {t: known[f"expert {group} {t}"] for t in range(plan.tasks)}
        hard = [
            task
            for task, found in results.items()
            if found["base validation"] <= TOO_EASY * found["expert validation"]
        ]
        tasks = random.Random(order).sample(hard, len(hard))
        yield Course(
            group,
            order,
            tuple(tasks),
            tuple(results[task]["expert validation"] for task in tasks),
            tuple(results[task]["expert test"] for task in tasks),
        )


def groups(plan: Plan) -> list[Group]:
    """Return all groups of experts."""
    return [Group(recipe, seed) for recipe, seed in product(RECIPES, plan.seeds)]


def run_all(runner: Runner, plan: Plan) -> list[Course]:
    """Train, tune, freeze and measure; whatever is known already is not done again."""
    runner("base", {"base": (make_base, ())})
    experts = product(groups(plan), range(plan.tasks))
    runner("experts", {f"expert {g} {t}": (make_expert, (g, t)) for g, t in experts})
    found = list(courses(plan, runner.known))
    runner("tuning", dict(_tunings(found, plan)))
    runner("frozen", dict(_frozen(found, plan, runner.known)))
    runner("scales", dict(_scales(found, runner.known)))
    runner("mergekit-yaml", dict(_console(found, runner.known)))
    runner("shapes", {shape_key(c): (shapes, (c.group, c.tasks)) for c in found})
    return found


def shape_key(course: Course) -> str:
    """Return what names the shapes of a course's task vectors."""
    return f"shapes {course.group} {course.order}"


def tuning_key(course: Course, arm: str, space: str) -> str:
    """Return what names the tuning of an arm on a course."""
    return f"tuned {course.group} {course.order} {arm} {space}"


def frozen_merge(
    course: Course, arm: str, space: str, count: int, known: dict[str, Any]
) -> Merge:
    """Return the merge of the first experts of a course with what tuning found."""
    values = known[tuning_key(course, arm, space)]["values"]
    return Merge(course.group, arm, course.tasks[:count], tuple(sorted(values.items())))


def _tunings(found: list[Course], plan: Plan) -> Iterator[tuple[str, Any]]:
    for course, arm, space in product(found, ARMS, SPACES):
        first = course.tasks[:TUNED_ON], course.validation[:TUNED_ON]
        arguments = (course.group, arm, space, *first, plan.trials)
        yield tuning_key(course, arm, space), (tune_arm, arguments)


def counts(course: Course, plan: Plan) -> list[int]:
    """Return how many experts of a course are merged, the last time all of them."""
    return [*(n for n in plan.counts if n < len(course.tasks)), len(course.tasks)]


def _frozen(
    found: list[Course], plan: Plan, known: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    for course, arm, space in product(found, ARMS, SPACES):
        for count in counts(course, plan):
            merge = frozen_merge(course, arm, space, count, known)
            yield repr(merge), (measure, (merge, "test"))


def scaled_merges(
    course: Course, arm: str, known: dict[str, Any]
) -> Iterator[tuple[float, Merge]]:
    """Yield merges of all experts at many scales, all else as tuning found it."""
    merge = frozen_merge(course, arm, "authors", len(course.tasks), known)
    for scale in SCALES:
        values = {**dict(merge.values), "lambda": scale}
        yield scale, merge._replace(values=tuple(sorted(values.items())))


def _scales(found: list[Course], known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for course, arm in product(found, ARMS):
        if course.order == 0:  # one for each recipe
            for _, merge in scaled_merges(course, arm, known):
                yield repr(merge), (measure, (merge, "test"))


def _console(found: list[Course], known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for course, arm in product(found, ARMS):
        if not ARMS[arm].random:
            merge = frozen_merge(course, arm, "authors", TUNED_ON, known)
            yield f"console {merge!r}", (compare_with_console, (merge,))


def kept(course: Course, merge: Merge, known: dict[str, Any]) -> float:
    """Return a merge's accuracy over the experts' own, averaged over its tasks."""
    own = course.test[: len(merge.tasks)]
    pairs = zip(known[repr(merge)]["accuracy"], own, strict=True)
    return statistics.fmean(accuracy / best for accuracy, best in pairs)


def paired(differences: list[float]) -> tuple[float, float]:
    """Return the mean of paired differences, and its standard error."""
    error = math.inf
    if len(differences) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences), error


def markdown(found: list[Course], plan: Plan, known: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the tables, in percent."""
    for recipe, space in product(RECIPES, SPACES):
        own = [course for course in found if course.group.recipe == recipe]
        least = min(len(course.tasks) for course in own)
        columns = [*(n for n in plan.counts if n < least), 0]
        names = [str(n) if n else "all" for n in columns]
        yield f"\n## {recipe}, {space} space: {least} tasks or more\n"
        yield f"| method | {' | '.join(names)} | all, less task arithmetic |"
        yield f"|---|{'---|' * (len(columns) + 1)}"
        for arm in ARMS:
            cells = []
            for n in columns:
                values = [_kept(course, arm, space, n, known) for course in own]
                cells.append(f"{100 * statistics.fmean(values):.1f}")
            mean, error = paired(
                [
                    _kept(course, arm, space, 0, known)
                    - _kept(course, "task arithmetic", space, 0, known)
                    for course in own
                ]
            )
            cells.append(f"{100 * mean:+.1f} ± {100 * error:.1f}")
            yield f"| {arm} | {' | '.join(cells)} |"
    yield "\n## Task vectors\n"
    names = list(known[shape_key(found[0])])
    yield f"| recipe | {' | '.join(names)} |\n|---|{'---|' * len(names)}"
    for recipe in RECIPES:
        own = [known[shape_key(c)] for c in found if c.group.recipe == recipe]
        cells = [f"{statistics.fmean(one[n] for one in own):.3g}" for n in names]
        yield f"| {recipe} | {' | '.join(cells)} |"
    same = [v for k, v in known.items() if k.startswith("console") and not v["random"]]
    equal = sum(one["same"] for one in same)
    yield f"\n`mergekit-yaml` wrote the same tensors in {equal} of {len(same)} merges."


def _kept(
    course: Course, arm: str, space: str, count: int, known: dict[str, Any]
) -> float:
    number = count or len(course.tasks)
    return kept(course, frozen_merge(course, arm, space, number, known), known)


@click.command()
@click.option("--quick", is_flag=True, help="A few tasks, once: to see that it runs.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path(".claims-many"),
    show_default=True,
    help="Checkpoints and results, kept for the next run.",
)
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
def main(quick: bool, cache: Path, processes: int) -> None:
    """Measure what the paper claims, over many tasks."""
    plan = QUICK if quick else Plan()
    place = Place(cache.resolve(), plan.tasks, plan.steps)
    place.folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        runner = Runner(place, pool)
        found = run_all(runner, plan)
    for line in markdown(found, plan, runner.known):
        click.echo(line)


if __name__ == "__main__":
    main()
