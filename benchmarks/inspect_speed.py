"""Time of inspecting models, compared with that of merging them.

Makes checkpoints of a Llama and its fine-tunings, and takes their tensors one after the
other, as `mergekit-yaml` would. Reading is not timed: only what is done with the
tensors is compared. Both take turns in one process. Prints Markdown.

    python benchmarks/inspect_speed.py
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import load_file
from whole_merge import make_models

from mergekit_breadcrumbs.core.merge import merge_task_vectors
from mergekit_breadcrumbs.measure.measure import measure

LIMITS = {"tensor": 3.0, "row": 2.0}
"""How many times the merge's own time an inspection may take, by granularity."""

CASES: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
    ("bfloat16, 3 models", "bfloat16", 3, {}),
    ("bfloat16, 1 model", "bfloat16", 1, {}),
    ("bfloat16, 8 models", "bfloat16", 8, {}),
    ("float16, 3 models", "float16", 3, {}),
    ("float32, 3 models", "float32", 3, {}),
    ("bfloat16, density 0.15", "bfloat16", 3, {"density": 0.15, "gamma": 0.006}),
    ("bfloat16, 1 model, by row", "bfloat16", 1, {"granularity": "row"}),
    ("bfloat16, 3 models, by row", "bfloat16", 3, {"granularity": "row"}),
    ("float32, 3 models, by row", "float32", 3, {"granularity": "row"}),
)


def weights(paths: list[str], dtype: str, models: int) -> Iterator[list[torch.Tensor]]:
    """Yield each tensor of the base and of `models` fine-tunings."""
    wanted = getattr(torch, dtype)
    # Where there are fewer than asked for, they are used more than once.
    chosen = [paths[0], *(paths[1 + i % (len(paths) - 1)] for i in range(models))]
    states = [load_file(Path(path) / "model.safetensors") for path in chosen]
    for name in states[0]:
        yield [state[name].to(wanted) for state in states]


def measured(
    paths: list[str], dtype: str, models: int, options: dict[str, Any], runs: int
) -> dict[str, list[float]]:
    """Return the seconds of each run over all tensors, after one that warms up."""
    how: dict[str, Any] = {
        "weight": [1 / models] * models,
        "density": [options.get("density", 0.9)] * models,
        "gamma": [options.get("gamma", 0.01)] * models,
        "granularity": options.get("granularity", "tensor"),
    }
    seconds: dict[str, list[float]] = {"merge": [], "inspect": []}
    for turn in range(runs + 1):
        taken = dict.fromkeys(seconds, 0.0)
        for base, *tuned in weights(paths, dtype, models):
            for name, work in (("merge", merge_task_vectors), ("inspect", measure)):
                start = time.perf_counter()
                with torch.no_grad():
                    work(base, tuned, **how)
                taken[name] += time.perf_counter() - start
        if turn:
            for name, value in taken.items():
                seconds[name].append(value)
    return seconds


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--layers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--width", type=click.IntRange(min=16), default=1024, show_default=True)
@click.option("--only", default="", help="Only cases whose name contains this.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(runs: int, layers: int, width: int, only: str, json_file: Path | None) -> None:
    """Compare inspecting with merging, tensor by tensor."""
    record: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        paths = make_models(Path(temporary), layers, width)
        size = (Path(paths[0]) / "model.safetensors").stat().st_size // 2
        print(
            f"{size / 1e6:.0f}M parameters, {torch.get_num_threads()} threads, medians"
            f" of {runs} runs; ns per element and model\n\n"
            "| case | merge, ns | inspect, ns | times the merge |\n|---|---|---|---|"
        )
        for name, dtype, models, options in CASES:
            if only not in name:
                continue
            seconds = measured(paths, dtype, models, options, runs)
            record[name] = seconds
            merge, inspect = (statistics.median(seconds[w]) for w in seconds)
            scale = 1e9 / size / models
            limit = LIMITS[options.get("granularity", "tensor")]
            print(
                f"| {name} | {merge * scale:.2f} | {inspect * scale:.2f}"
                f" | {inspect / merge:.2f} (at most {limit:g}) |",
                flush=True,
            )
    if json_file:
        json_file.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
