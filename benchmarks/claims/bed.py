"""What the worker processes do: train an expert, tune an arm, measure a merge."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from claims.arms import ARMS, by_console_script, merged, searches
from claims.encoder import RECIPES, Batch, Encoder, State, save_base
from claims.texts import Task, all_tasks
from mergekit_breadcrumbs.tune.scores import Score
from mergekit_breadcrumbs.tune.search import Values
from mergekit_breadcrumbs.tune.storage import open_study
from mergekit_breadcrumbs.tune.study import run
from mergekit_breadcrumbs.tune.trials import best, finished


class Group(NamedTuple):
    """Experts that are merged with one another: one recipe, one training seed."""

    recipe: str
    seed: int


class Place(NamedTuple):
    """Where everything is kept, and how much of it there is."""

    folder: Path
    tasks: int
    steps: int

    @property
    def base(self) -> Path:
        return self.folder / "base"

    def expert(self, group: Group, task: int) -> Path:
        return self.folder / f"{group.recipe}-{group.seed}" / f"task-{task}"


@cache
def encoder(place: Place) -> Encoder:
    """Return the base, loaded once in a process."""
    torch.set_num_threads(1)
    return Encoder(place.base)


@cache
def task_of(place: Place, task: int) -> Task:
    """Return a task by its number."""
    return all_tasks(place.folder)[task]


@cache
def head(place: Place, task: int) -> torch.Tensor:
    """Return a task's head."""
    return encoder(place).head(task_of(place, task).labels)


@cache
def data(place: Place, task: int, part: str) -> Batch:
    """Return the texts of a part of a task, below the trained layers."""
    return encoder(place).below(getattr(task_of(place, task), part))


@cache
def upper(place: Place, group: Group, task: int) -> State:
    """Return the upper layers of an expert's checkpoint."""
    loaded = load_file(place.expert(group, task) / "model.safetensors")
    return {name: loaded[name] for name in encoder(place).base}


def accuracies(
    place: Place, weights: State, tasks: Sequence[int], part: str
) -> list[float]:
    """Return how many texts of each task a model gets right, in [0, 1]."""
    encoder(place).use(weights)
    return [
        encoder(place).accuracy(data(place, task, part), head(place, task))
        for task in tasks
    ]


def make_base(place: Place) -> dict[str, Any]:
    """Write the base's checkpoint, and fetch what the tasks are made of."""
    all_tasks(place.folder)
    if not place.base.exists():
        save_base(place.base)
    return {}


def make_expert(place: Place, group: Group, task: int) -> dict[str, Any]:
    """Train an expert; return its accuracies, and the base's, on both parts."""
    start, folder = time.process_time(), place.expert(group, task)
    if not folder.exists():
        recipe = RECIPES[group.recipe]._replace(steps=place.steps)
        seed = 1000 * group.seed + task
        own = encoder(place).train(
            task_of(place, task), head(place, task), recipe, seed
        )
        folder.parent.mkdir(parents=True, exist_ok=True)
        encoder(place).save(own, folder)
    result: dict[str, Any] = {"cpu": time.process_time() - start}
    for name, weights in (
        ("base", encoder(place).base),
        ("expert", upper(place, group, task)),
    ):
        for part in ("validation", "test"):
            result[f"{name} {part}"] = accuracies(place, weights, [task], part)[0]
    upper.cache_clear()
    return result


class Merge(NamedTuple):
    """A merge of some of a group's experts."""

    group: Group
    arm: str
    tasks: tuple[int, ...]
    values: tuple[tuple[str, float], ...]

    def made(self, place: Place) -> State:
        """Return its upper layers."""
        experts = [upper(place, self.group, task) for task in self.tasks]
        return merged(encoder(place).base, experts, self.arm, dict(self.values))


def tune_arm(
    place: Place,
    group: Group,
    arm: str,
    space: str,
    tasks: tuple[int, ...],
    own: tuple[float, ...],
    trials: int,
) -> dict[str, Any]:
    """Search an arm's values with `tune`'s engine, on validation data of a few tasks.

    Args:
        place: of everything.
        group: of the experts.
        arm: to tune.
        space: to search.
        tasks: to merge, and to measure.
        own: accuracies of their experts, which those of merges are divided by.
        trials: how many.
    """
    start = time.process_time()

    def score(values: Values) -> dict[str, Score]:
        merge = Merge(group, arm, tasks, tuple(values.items()))
        found = accuracies(place, merge.made(place), tasks, "validation")
        return {
            str(task): Score(accuracy / best_known)
            for task, accuracy, best_known in zip(tasks, found, own, strict=True)
        }

    folder = place.folder / "studies"
    folder.mkdir(exist_ok=True)
    name = " ".join(map(str, (*group, arm, space, *tasks)))
    out = folder / name.replace(" ", "-").replace(",", "")
    out.mkdir(exist_ok=True)
    wanted = searches(arm, space)
    study = open_study(wanted, name=name, storage=None, out=out, identity={})
    run(study, wanted, score, trials=trials, seed=0)
    found = best(finished(study))
    assert found is not None
    return {
        "values": found.values,
        "score": found.score,
        "cpu": time.process_time() - start,
    }


def measure(place: Place, merge: Merge, part: str) -> dict[str, Any]:
    """Return a merge's accuracies on its tasks, and its distance from the base.

    The latter is the norm of the summed change as a share of the base's.
    """
    start, base = time.process_time(), encoder(place).base
    weights = merge.made(place)
    change = sum(float((weights[n] - base[n]).square().sum()) for n in base)
    whole = sum(float(tensor.square().sum()) for tensor in base.values())
    return {
        "accuracy": [
            round(a, 5) for a in accuracies(place, weights, merge.tasks, part)
        ],
        "distance": round((change / whole) ** 0.5, 5),
        "cpu": time.process_time() - start,
    }


def compare_with_console(place: Place, merge: Merge) -> dict[str, Any]:
    """Whether `mergekit-yaml` writes what `measure` measures, and else the base."""
    out = place.folder / "console" / f"{abs(hash(merge))}"
    shutil.rmtree(out, ignore_errors=True)
    experts = [place.expert(merge.group, task) for task in merge.tasks]
    there = by_console_script(place.base, experts, merge.arm, dict(merge.values), out)
    shutil.rmtree(out)
    here = merge.made(place)
    rest = load_file(place.base / "model.safetensors")
    same = all(torch.equal(there[n], here.get(n, rest[n])) for n in rest)
    return {"same": same and there.keys() == rest.keys(), "random": _draws(merge.arm)}


def _draws(arm: str) -> bool:
    """Whether an arm draws random numbers, which come in another order there."""
    return ARMS[arm].random or ARMS[arm].merge_method.startswith("dare")


LARGE = 0.006
"""The share of a task vector's elements that are its large ones."""


def shapes(place: Place, group: Group, tasks: tuple[int, ...]) -> dict[str, float]:
    """Return how heavy the tails of a group's task vectors are, and how alike.

    That is, on average: the kurtosis (3 for a normal distribution); the share of the
    squared norm in the largest elements; and the cosine between two of the experts, of
    the largest elements of each, and of the rest.
    """
    base = encoder(place).base
    kurtosis, share = [], []
    sums = {name: torch.zeros(()) for name in ("large", "rest")}
    for task in tasks:
        own = upper(place, group, task)
        delta = torch.cat([(own[name] - base[name]).flatten() for name in base])
        squares = delta.double().square()
        kurtosis.append(float(squares.square().mean() / squares.mean() ** 2))
        count = round(LARGE * len(delta))
        cut = delta.abs().topk(count).values[-1]
        large = torch.where(delta.abs() >= cut, delta, 0.0)
        share.append(float(large.double().square().sum() / squares.sum()))
        for name, part in (("large", large), ("rest", delta - large)):
            sums[name] = sums[name] + part / part.norm()
    number = len(tasks)
    cosines = {
        f"cosine of the {name}": (float(total.double().square().sum()) - number)
        / (number * (number - 1))
        for name, total in sums.items()
    }
    return {
        "kurtosis": sum(kurtosis) / number,
        "share of the large": sum(share) / number,
        **cosines,
    }
