"""All stages in order, by worker processes, with every result kept on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from typing import Any

from tqdm import tqdm

from claims import protocol
from claims.merging import METHODS
from claims.protocol import Measured, Plan
from claims.work import Job, Place, compare_with_console, make, measure, start_worker


@dataclass
class Outcome:
    """Everything that was measured, and in which stage."""

    measured: Measured
    jobs: list[Job]
    tuned: protocol.Settings
    console: dict[str, dict[str, Any]]
    cpu: float

    def stage(self, name: str) -> list[Job]:
        """The jobs of one stage."""
        return [job for job in self.jobs if job.stage == name]


class Runner:
    """Runs jobs, and keeps their results in a file, one line for each."""

    def __init__(self, place: Place, pool: ProcessPoolExecutor) -> None:
        self.place = place
        self.pool = pool
        self.file = place.folder / "results.jsonl"
        self.known: dict[str, dict[str, Any]] = {}
        if self.file.exists():
            whole, _, cut = self.file.read_text().rpartition("\n")
            for line in whole.splitlines():
                entry = json.loads(line)
                self.known[entry.pop("key")] = entry
            if cut:
                # The start of a line that an interrupted run has left.
                self.file.write_text(whole + "\n")

    def __call__(
        self, name: str, tasks: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]
    ) -> None:
        """Run what is not known yet."""
        missing = {key: task for key, task in tasks.items() if key not in self.known}
        bar = tqdm(
            total=len(tasks),
            initial=len(tasks) - len(missing),
            desc=f"{name:<14}",
            bar_format="{desc} {percentage:3.0f}%|{bar}{r_bar}",
            mininterval=0.1 if sys.stderr.isatty() else 20,
        )
        with bar, self.file.open("a") as stream:
            running = {
                self.pool.submit(function, self.place, *arguments): key
                for key, (function, arguments) in missing.items()
            }
            for done in as_completed(running):
                entry = done.result()
                self.known[running[done]] = entry
                stream.write(json.dumps({"key": running[done], **entry}) + "\n")
                stream.flush()
                bar.update()

    def measure(self, name: str, jobs: Sequence[Job]) -> None:
        """Measure every job."""
        self(name, {job.key: (measure, (job,)) for job in jobs})

    def train(self, seeds: Sequence[int]) -> None:
        """Make every checkpoint that is missing."""
        self("bases", {f"base {s}": (_make, (s, None)) for s in seeds})
        pairs = product(seeds, protocol.ALL)
        self("experts", {f"expert {s} {t}": (_make, (s, t)) for s, t in pairs})


def _make(place: Place, seed: int, task: int | None) -> dict[str, float]:
    return {"cpu": make(place, seed, task)}


def run(place: Place, plan: Plan, processes: int) -> Outcome:
    """Train, tune, freeze, measure."""
    place.folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=start_worker
    ) as pool:
        runner = Runner(place, pool)
        measured = Measured()
        measured.results = runner.known
        runner.train(plan.seeds)
        reference = protocol.reference_jobs(plan)
        runner.measure("reference", reference)
        tuning = protocol.tuning_jobs(plan)
        runner.measure("tuning", tuning)
        tuned = measured.best(tuning, of=lambda job: (job.seed, job.method))
        frozen = protocol.frozen_jobs(plan, tuned)
        runner.measure("frozen", frozen)
        shared = protocol.shared_jobs(tuned)
        sensitivity = protocol.sensitivity_jobs(plan, tuned)
        runner.measure("sensitivity", [*shared, *sensitivity])
        best = measured.best(sensitivity, of=lambda job: (job.seed, job.method))
        rescaled = protocol.rescaled_jobs(best)
        runner.measure("rescaled", rescaled)
        ablation = protocol.ablation_jobs(plan)
        runner.measure("ablation", ablation)
        whole = [job for job in shared if job.method in METHODS]
        console = {f"console {job.key}": job for job in whole}
        runner(
            "mergekit-yaml",
            {key: (compare_with_console, (job,)) for key, job in console.items()},
        )
    jobs = [*reference, *tuning, *frozen, *shared, *sensitivity, *rescaled, *ablation]
    used = {job.key for job in jobs} | set(console) | set(_trained(plan.seeds))
    return Outcome(
        measured,
        jobs,
        tuned,
        {
            f"{job.method}, seed {job.seed}": runner.known[key]
            for key, job in console.items()
        },
        sum(runner.known[key]["cpu"] for key in used),
    )


def _trained(seeds: Sequence[int]) -> list[str]:
    experts = [f"expert {s} {t}" for s, t in product(seeds, protocol.ALL)]
    return [f"base {s}" for s in seeds] + experts
