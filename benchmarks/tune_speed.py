"""What merging takes of a trial of `mergekit-breadcrumbs tune`.

Makes a Llama of 135 million parameters in bfloat16 and three fine-tunings of it, 60 %
of whose changes are zero. A trial merges them and scores the merged model as `tune`
does, with tasks of lm-eval: 100 questions of 40 tokens whose answer is generated, of 16
tokens; 100 with four answers of five tokens to choose from; and 100 with answers of one
token, which takes one pass for each question; one at a time, which is the default.
Merging is timed in memory, as `tune` merges: ours by tensor and by row, mergekit's
built-in, and task arithmetic; and by `mergekit-yaml`, a new process for each merge. All
take turns. Prints Markdown. Needs the extra `lm-eval`.

    python benchmarks/tune_speed.py
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
import yaml
from mergekit.options import MergeOptions
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging
from whole_merge import run_once

from mergekit_breadcrumbs.host.repeat import other_implementation
from mergekit_breadcrumbs.tune.lm_eval_tasks import LmEvalScorer
from mergekit_breadcrumbs.tune.merging import Merger

ZEROS, AIM = 0.6, 0.1
LENGTH, GENERATED = 40, 16
PROCESS = "mergekit-yaml with ours, a process"
# What is asked, and how many tokens an answer to choose has.
TASKS = {"generated": 0, "four answers": 5, "answers of one token": 1}


class Size(NamedTuple):
    """Of the models, and how often everything is done."""

    layers: int
    width: int
    rows: int
    questions: int
    runs: int


FULL = Size(30, 576, 49152, 100, 5)
QUICK = Size(2, 72, 512, 10, 1)


def make_models(folder: Path, size: Size, count: int = 4) -> list[str]:
    """Save a base and its fine-tunings with their tokenizers; return their paths."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.rows,
        hidden_size=size.width,
        intermediate_size=size.width * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    words = WordLevel({f"word{i}": i for i in range(size.rows)}, unk_token="word0")
    splitting = Tokenizer(words)
    splitting.pre_tokenizer = WhitespaceSplit()
    marks = {"unk_token": "word0", "bos_token": "word1", "eos_token": "word2"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=splitting, **marks)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    base = {name: tensor.clone() for name, tensor in model.named_parameters()}
    paths = [str(folder / name) for name in ("base", "one", "two", "three")][:count]
    for index, path in enumerate(paths):
        for name, tensor in model.named_parameters() if index else ():
            delta = torch.randn(tensor.shape).pow_(3).mul_(1e-3)
            delta[torch.rand(tensor.shape) < ZEROS] = 0
            tensor.data.copy_(delta.add_(base[name]))
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return paths


def config_of(method: str, paths: list[str], turn: int, **more: Any) -> dict[str, Any]:
    """Return the config of one trial, whose parameters are like no other's."""
    config: dict[str, Any] = {
        "merge_method": method,
        "base_model": paths[0],
        "models": [
            {"model": path, "parameters": {"weight": 0.3 + 0.01 * turn}}
            for path in paths[1:]
        ],
        "dtype": "bfloat16",
    }
    if method != "task_arithmetic":
        parameters = {"density": 0.5 + 0.02 * turn, "gamma": 0.01}
        config["parameters"] = {**parameters, **more}
    return config


def write_tasks(folder: Path, size: Size) -> None:
    """Write the tasks, each a YAML and a JSON file."""
    for name, tokens in TASKS.items():
        questions = [
            {
                "text": words(LENGTH, size),
                "answers": [words(tokens, size) for _ in range(4)],
            }
            for _ in range(size.questions)
        ]
        task = name.replace(" ", "_")
        file = folder / f"{task}.json"
        file.write_text("".join(f"{json.dumps(one)}\n" for one in questions))
        choosing = {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{answers}}",
            "doc_to_target": 0,
            "metric_list": [{"metric": "acc"}],
        }
        generating = {
            "output_type": "generate_until",
            "doc_to_target": "{{text}}",
            "generation_kwargs": {"max_gen_toks": GENERATED, "until": ["\n"]},
            "metric_list": [{"metric": "exact_match"}],
        }
        settings = {
            "task": task,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(file)},
                "cache_dir": str(folder / "cache"),
            },
            "test_split": "test",
            "doc_to_text": "{{text}}",
            **(choosing if tokens else generating),
        }
        (folder / f"{task}.yaml").write_text(yaml.safe_dump(settings))


def words(count: int, size: Size) -> str:
    """Return so many words of the tokenizer's."""
    picked = torch.randint(size.rows, (count,)).tolist()
    return " ".join(f"word{number}" for number in picked)


@contextmanager
def contestants(
    paths: list[str], folder: Path
) -> Iterator[dict[str, Callable[[int], Any]]]:
    """Yield what merges in a trial, by its name; those in memory return a model."""
    with (
        Merger(MergeOptions(), folder) as merger,
        other_implementation("breadcrumbs") as builtin,
    ):
        assert builtin is not None

        def in_memory(method: str, **more: Any) -> Callable[[int], Any]:
            def merge(turn: int) -> Any:
                candidate = merger.candidate(config_of(method, paths, turn, **more))
                candidate.load()
                return candidate

            return merge

        def process(turn: int) -> None:
            file, out = folder / "config.yml", folder / "merged"
            file.write_text(yaml.safe_dump(config_of("breadcrumbs", paths, turn)))
            run_once("mergekit-yaml", file, out, switch="require")
            shutil.rmtree(out)

        yield {
            "ours": in_memory("breadcrumbs"),
            "ours, by row": in_memory("breadcrumbs", granularity="row"),
            "built-in": in_memory(builtin),
            "task arithmetic": in_memory("task_arithmetic"),
            PROCESS: process,
        }


def measured(paths: list[str], folder: Path, size: Size) -> dict[str, list[float]]:
    """Return the seconds of each way to merge, and of scoring, turn after turn."""
    seconds: dict[str, list[float]] = {}
    tasks = folder / "tasks"
    tasks.mkdir()
    write_tasks(tasks, size)
    scorers = {
        name: LmEvalScorer(name.replace(" ", "_"), tasks_folder=tasks) for name in TASKS
    }
    with contestants(paths, folder) as merging:
        for turn in range(1 + size.runs):
            for name, merge in merging.items():
                start = time.perf_counter()
                candidate = merge(turn)
                taken = time.perf_counter() - start
                if turn:
                    seconds.setdefault(name, []).append(taken)
                for task, score in scorers.items() if turn and name == "ours" else ():
                    start = time.perf_counter()
                    score(candidate)
                    taken = time.perf_counter() - start
                    seconds.setdefault(task, []).append(taken)
                if candidate is not None:
                    candidate.close()
    return seconds


def table(seconds: dict[str, list[float]]) -> str:
    """Format the medians, and what is merging of a trial."""
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    scoring = {name: medians.pop(name) for name in TASKS}
    lines = [
        f"| merging | seconds | times ours | {' | '.join(scoring)} |",
        f"|---|---|---|{'---|' * len(scoring)}",
        f"| scoring | | | {' | '.join(f'{s:.1f} s' for s in scoring.values())} |",
    ]
    for name, median in medians.items():
        shares = [f"{median / (median + taken):.1%}" for taken in scoring.values()]
        times = median / medians["ours"]
        lines.append(f"| {name} | {median:.2f} | {times:.1f} | {' | '.join(shares)} |")
    lines.append("\nThe last columns say what part of a trial is merging.")
    for name, taken in scoring.items():
        share = medians["ours"] / (medians["ours"] + taken)
        verdict = "as aimed at" if share <= AIM else "too much"
        lines.append(f"{name}: {share:.1%}, {verdict} (at most {AIM:.0%})")
    return "\n".join(lines)


@click.command()
@click.option("--quick", is_flag=True, help="Tiny models, once: to see that it runs.")
@click.option("--runs", type=click.IntRange(min=1), help="How often; 5 by default.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(quick: bool, runs: int | None, json_file: Path | None) -> None:
    """Compare the times of merging and scoring in a trial."""
    size = QUICK if quick else FULL
    size = size._replace(runs=runs or size.runs)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = make_models(folder, size)
        parameters = (Path(paths[0]) / "model.safetensors").stat().st_size // 2
        seconds = measured(paths, folder, size)
    print(
        f"{parameters / 1e6:.0f}M parameters in bfloat16, {len(paths) - 1} inputs,"
        f" {size.questions} questions, {torch.get_num_threads()} threads, medians of"
        f" {size.runs} runs\n\n{table(seconds)}"
    )
    if json_file:
        record = {"parameters": parameters, "seconds": seconds}
        json_file.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
