"""The JSON with every run: written after measuring, read to write the report again."""

from __future__ import annotations

import json
from typing import Any

from claims.data import TASKS
from claims.protocol import Measured, Plan
from claims.run import Outcome
from claims.work import Job


def to_json(outcome: Outcome, plan: Plan, conditions: str) -> str:
    """Return everything that was measured, one line for each setting."""
    runs = ",\n".join(json.dumps(entry) for entry in _entries(outcome))
    head = json.dumps(
        {
            "tasks": [task.name for task in TASKS],
            "conditions": conditions,
            "plan": plan._asdict(),
            "CPU minutes": round(outcome.cpu / 60, 1),
            "mergekit-yaml": outcome.console,
        }
    )
    return f'{head[:-1]},\n"runs": [\n{runs}\n]}}\n'


def from_json(text: str) -> tuple[Outcome, Plan, str]:
    """Return what `to_json` was given, as far as tables and figures need it."""
    found = json.loads(text)
    outcome = Outcome(
        Measured(), [], {}, found["mergekit-yaml"], 60 * found["CPU minutes"]
    )
    for entry in found["runs"]:
        parameters = entry["parameters"]
        if entry["stage"] == "frozen":
            outcome.tuned[entry["seed"], entry["method"]] = parameters
        for tasks, accuracy in entry["accuracy"].items():
            job = Job(
                entry["stage"],
                entry["seed"],
                entry["method"],
                tuple(parameters.items()),
                entry["weight"],
                tuple(map(int, tasks)),
                entry["part"],
            )
            outcome.jobs.append(job)
            outcome.measured.results[job.key] = {**entry, "accuracy": accuracy}
    return outcome, Plan(**found["plan"]), found["conditions"]


def _entries(outcome: Outcome) -> list[dict[str, Any]]:
    """Return an entry for each setting, with the accuracies of each of its runs.

    A run's key is the numbers of the merged tasks, as in "025"; its value has one
    accuracy for each of them.
    """
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for job in outcome.jobs:
        entry = entries.setdefault(
            (job.stage, job.seed, job.method, job.parameters, job.weight, job.part),
            {
                "stage": job.stage,
                "seed": job.seed,
                "method": job.method,
                "parameters": dict(job.parameters),
                "weight": job.weight,
                "part": job.part,
                "accuracy": {},
            },
        )
        found = outcome.measured.results[job.key]
        entry["accuracy"]["".join(map(str, job.tasks))] = found["accuracy"]
        if "shapes" in found:
            entry["shapes"] = [
                {name: round(value, 4) for name, value in shape.items()}
                for shape in found["shapes"]
            ]
    return list(entries.values())
