"""What the worker processes do: train one model, or measure one merge."""

from __future__ import annotations

import os
import shutil
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaForSequenceClassification

from claims.data import TASKS, Split, load
from claims.experts import (
    Recipe,
    accuracy,
    new_model,
    read,
    shape_of_delta,
    train_base,
    train_expert,
)
from claims.merging import METHODS, by_console_script, configuration, merge

BASE, EXPERT = "base", "expert"
LIMIT = 400
"""Test pictures of each task; the smaller collection has 450."""


class Job(NamedTuple):
    """One model to measure: a merge, or a checkpoint as it is (`BASE`, `EXPERT`)."""

    stage: str
    seed: int
    method: str
    parameters: tuple[tuple[str, float], ...] = ()
    weight: float = 1.0
    tasks: tuple[int, ...] = tuple(range(len(TASKS)))
    part: str = "validation"

    @property
    def key(self) -> str:
        """What distinguishes it from other jobs, whichever stage asks for it."""
        return repr(tuple(self)[1:])


class Place(NamedTuple):
    """Where checkpoints are, and how they were made."""

    folder: Path
    recipe: Recipe

    def base(self, seed: int) -> Path:
        return self.folder / f"seed-{seed}" / "base"

    def expert(self, seed: int, task: int) -> Path:
        return self.folder / f"seed-{seed}" / TASKS[task].name.replace(" ", "-")


def start_worker() -> None:
    """Use one thread: sums of matrix products depend on how many share them."""
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"


def make(place: Place, seed: int, task: int | None) -> float:
    """Train the base or an expert unless it exists; return the CPU seconds."""
    start = time.process_time()
    base = place.base(seed)
    folder = base if task is None else place.expert(seed, task)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        if task is None:
            train_base(folder, seed, place.recipe)
        else:
            train_expert(base, folder, task, seed, place.recipe)
    return time.process_time() - start


@cache
def _split(task: int, part: str, seed: int) -> Split:
    return load(TASKS[task], part, seed, LIMIT)


def _config(place: Place, job: Job) -> dict[str, object]:
    experts = [place.expert(job.seed, task) for task in job.tasks]
    method = METHODS[job.method]
    base = place.base(job.seed)
    return configuration(base, experts, method, dict(job.parameters), job.weight)


def _scratch(place: Place, name: str) -> Path:
    return place.folder / "scratch" / f"{name}-{os.getpid()}"


@torch.no_grad()
def measure(place: Place, job: Job) -> dict[str, Any]:
    """Merge, and return the accuracy on each of the job's tasks."""
    start = time.process_time()
    result: dict[str, Any] = {"finite": True}
    if job.method == EXPERT:
        scores = [
            accuracy(read(place.expert(job.seed, t)), t, _split(t, job.part, job.seed))
            for t in job.tasks
        ]
        result["shapes"] = [
            shape_of_delta(place.base(job.seed), place.expert(job.seed, t))
            for t in job.tasks
        ]
    else:
        if job.method == BASE:
            model = read(place.base(job.seed))
        else:
            model = _blank(place.recipe)
            out = _scratch(place, "merged")
            tensors = merge(_config(place, job), out, job.seed)
            model.load_state_dict(tensors)
            result["finite"] = all(bool(t.isfinite().all()) for t in tensors.values())
        scores = [accuracy(model, t, _split(t, job.part, job.seed)) for t in job.tasks]
    result["accuracy"] = [round(score, 6) for score in scores]
    result["cpu"] = round(time.process_time() - start, 3)
    return result


@cache
def _blank(recipe: Recipe) -> LlamaForSequenceClassification:
    return new_model(recipe).eval()


def compare_with_console(place: Place, job: Job) -> dict[str, Any]:
    """Whether `mergekit-yaml` writes the tensors that `measure` measures."""
    start = os.times()
    outs = [_scratch(place, name) for name in ("merged", "console")]
    config = _config(place, job)
    here = merge(config, outs[0], job.seed)
    there = by_console_script(config, outs[1], job.seed)
    same = here.keys() == there.keys() and all(
        torch.equal(here[name], there[name]) for name in here
    )
    shutil.rmtree(outs[1])
    end = os.times()
    cpu = sum(end[:4]) - sum(start[:4])
    return {"same tensors": same, "tensors": len(here), "cpu": round(cpu, 3)}
