"""Wall time and memory of a whole `mergekit-yaml` run, imports and files included.

Makes a Llama of 200 million parameters and three fine-tunings of it in bfloat16, then
merges them with `task_arithmetic`, with our `breadcrumbs`, by tensor and by row, and
with mergekit's built-in one (`MERGEKIT_BREADCRUMBS=0`), taking turns; what ours made is
verified. Prints Markdown.

    python benchmarks/whole_merge.py
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path

import click
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

ROW = {"granularity": "row"}
CONTESTANTS: dict[str, tuple[str, str | None, dict[str, str]]] = {
    "task arithmetic": ("task_arithmetic", None, {}),
    "ours": ("breadcrumbs", "require", {}),
    "ours, by row": ("breadcrumbs", "require", ROW),
    "built-in": ("breadcrumbs", "0", {}),
}
VERIFIED = "verify ours"


def make_models(folder: Path, layers: int, width: int, count: int = 4) -> list[str]:
    """Save a base and its fine-tunings as ordinary checkpoints; return their paths."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=16,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = []
    for index in range(count):
        if index:
            for name, tensor in model.state_dict().items():
                delta = torch.randn(tensor.shape).pow_(3).mul_(1e-3)
                delta[torch.rand(tensor.shape) < 0.2] = 0
                tensor.copy_(delta.add_(base[name]))
        path = folder / ("base" if not index else f"tuned-{index}")
        model.save_pretrained(path)
        paths.append(str(path))
    return paths


def write_config(
    folder: Path, method: str, paths: list[str], more: dict[str, str]
) -> Path:
    """Write the config of one merge and return its path."""
    config = {
        "merge_method": method,
        "base_model": paths[0],
        "models": [
            {"model": path, "parameters": {"weight": 1 / len(paths[1:])}}
            for path in paths[1:]
        ],
        "dtype": "bfloat16",
    }
    if method == "breadcrumbs":
        config["parameters"] = {"density": 0.9, "gamma": 0.01, **more}
    file = folder / f"{method}.yml"
    file.write_text(yaml.safe_dump(config))
    return file


def run_once(name: str, *arguments: str | Path, switch: str | None) -> float:
    """Run a console script once and return the seconds it took."""
    env = dict(os.environ, HF_HUB_OFFLINE="1")
    if switch is not None:
        env["MERGEKIT_BREADCRUMBS"] = switch
    script = Path(sysconfig.get_path("scripts")) / name
    start = time.perf_counter()
    run = subprocess.run(
        [str(script), *map(str, arguments), "--quiet"],
        env=env,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if run.returncode:
        raise SystemExit(run.stdout + run.stderr)
    return seconds


def merge_once(config: Path, out: Path, switch: str | None) -> dict[str, float]:
    """Merge once, verify what ours made, and return the seconds of each."""
    seconds = {"merge": run_once("mergekit-yaml", config, out, switch=switch)}
    card = (out / "README.md").read_text()
    if ("(mergekit-breadcrumbs)" in card) != (switch == "require"):
        raise SystemExit(f"{config} was merged by the wrong method")
    if switch == "require":
        seconds["verify"] = run_once(
            "mergekit-breadcrumbs", "verify", out, switch=switch
        )
    shutil.rmtree(out)
    return seconds


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--layers", type=click.IntRange(min=1), default=11, show_default=True)
@click.option("--width", type=click.IntRange(min=16), default=1024, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    runs: int, warmup: int, layers: int, width: int, json_file: Path | None
) -> None:
    """Compare whole runs of mergekit-yaml."""
    seconds: dict[str, list[float]] = {name: [] for name in (*CONTESTANTS, VERIFIED)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = make_models(folder, layers, width)
        parameters = (Path(paths[0]) / "model.safetensors").stat().st_size // 2
        for turn in range(warmup + runs):
            for name, (method, switch, more) in CONTESTANTS.items():
                config = write_config(folder, method, paths, more)
                taken = merge_once(config, folder / "merged", switch)
                if turn < warmup:
                    continue
                seconds[name].append(taken["merge"])
                if "verify" in taken and not more:
                    seconds[VERIFIED].append(taken["verify"])
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    print(
        f"{parameters / 1e6:.0f}M parameters in bfloat16, base and {len(paths) - 1}"
        f" fine-tunings, {torch.get_num_threads()} threads, medians of {runs} runs\n"
    )
    print(
        "| method | wall, s | times task arithmetic | times ours |\n|---|---|---|---|"
    )
    for name, median in medians.items():
        print(
            f"| {name} | {median:.1f} | {median / medians['task arithmetic']:.2f}"
            f" | {median / medians['ours']:.2f} |"
        )
    if json_file:
        json_file.write_text(
            json.dumps({"parameters": parameters, "seconds": seconds}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
