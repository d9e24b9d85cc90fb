"""The base and its experts: a small Llama that reads pictures, trained on the spot.

It is an ordinary `LlamaForSequenceClassification`, so `mergekit-yaml` merges it. Its
"words" are the positions in a patch of 4 by 4 pixels: a patch is embedded as the sum of
its pixels' embeddings, each times the pixel's value. The classifier has ten rows for
every task; it is frozen once the base is trained, as the paper freezes CLIP's.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForSequenceClassification
from transformers.utils import logging

from claims.data import CLASSES, TASKS, Split, load

PATCH = 4


class Recipe(NamedTuple):
    """How much is trained: steps, and pictures of each task that the base sees."""

    width: int = 128
    layers: int = 3
    base_steps: int = 500
    base_pictures: tuple[int, int] = (60, 120)
    expert_steps: int = 200
    optimizer: str = "sgd"


def new_model(recipe: Recipe) -> LlamaForSequenceClassification:
    """Make the model, initialised at random."""
    config = LlamaConfig(
        vocab_size=PATCH**2,
        hidden_size=recipe.width,
        intermediate_size=recipe.width * 3 // 2,
        num_hidden_layers=recipe.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=16,
        # The usual 0.02 suits wide models; a narrow one learns faster from more.
        initializer_range=0.05,
        num_labels=CLASSES * len(TASKS),
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForSequenceClassification(config)


def logits(
    model: LlamaForSequenceClassification, pictures: torch.Tensor, task: int
) -> torch.Tensor:
    """Return the ten logits of one task's head, shape [n, 10].

    The last patch has seen all others, and the classifier sits on it.
    """
    patches = pictures.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    patches = patches.reshape(len(pictures), -1, PATCH**2)
    embedded = patches @ model.get_input_embeddings().weight
    last = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, -1]
    rows = slice(CLASSES * task, CLASSES * (task + 1))
    return last @ model.score.weight[rows].T


@torch.no_grad()
def accuracy(model: LlamaForSequenceClassification, task: int, split: Split) -> float:
    """Return the share of a split's pictures that are classified right, in [0, 1]."""
    guesses = logits(model, split.pictures, task).argmax(-1)
    return float((guesses == split.labels).float().mean())


def _fit(
    model: LlamaForSequenceClassification,
    splits: dict[int, Split],
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    each: int,
    seed: int,
    noise: float = 0.0,
) -> None:
    """Take steps on `each` pictures of every task; the rate rises, then falls to 0."""
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        optimizer.param_groups[0]["lr"],
        total_steps=steps,
        pct_start=0.1,
        cycle_momentum=False,
    )
    model.train()
    for _ in range(steps):
        loss = torch.zeros(())
        for task, split in splits.items():
            rows = torch.randint(len(split.labels), (each,), generator=generator)
            pictures = split.pictures[rows]
            if noise:
                pictures = pictures + noise * torch.randn(
                    pictures.shape, generator=generator
                )
            guess = logits(model, pictures, task)
            loss = loss + cross_entropy(guess, split.labels[rows]) / len(splits)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def train_base(folder: Path, seed: int, recipe: Recipe) -> None:
    """Train on a few noisy pictures of every task, and save the checkpoint.

    It memorises those, so that its features serve every task while it is far from
    solving any.
    """
    torch.manual_seed(seed)
    model = new_model(recipe)
    splits = {
        index: load(task, "base", seed, recipe.base_pictures[task.source == "mnist"])
        for index, task in enumerate(TASKS)
    }
    _fit(
        model,
        splits,
        steps=recipe.base_steps,
        optimizer=torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05),
        each=16,
        seed=seed,
        noise=0.3,
    )
    save(model, folder)


def train_expert(
    base: Path, folder: Path, task: int, seed: int, recipe: Recipe
) -> None:
    """Fine-tune all of the base but its classifier on one task; save the checkpoint."""
    model = read(base)
    model.score.requires_grad_(False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = (
        torch.optim.SGD(parameters, 0.01, momentum=0.9)
        if recipe.optimizer == "sgd"
        else torch.optim.AdamW(parameters, 1.5e-4, weight_decay=0.0)
    )
    _fit(
        model,
        {task: load(TASKS[task], "train", seed)},
        steps=recipe.expert_steps,
        optimizer=optimizer,
        each=32,
        seed=1000 * (task + 1) + seed,
    )
    save(model, folder)


def save(model: LlamaForSequenceClassification, folder: Path) -> None:
    """Save a checkpoint; a folder that exists is complete."""
    logging.disable_progress_bar()
    partial = folder.with_name(folder.name + ".partial")
    model.save_pretrained(partial)
    partial.rename(folder)


def read(folder: Path) -> LlamaForSequenceClassification:
    """Load a checkpoint."""
    logging.disable_progress_bar()
    return LlamaForSequenceClassification.from_pretrained(folder).eval()


def shape_of_delta(base: Path, expert: Path) -> dict[str, float]:
    """Return how heavy the tails of an expert's task vector are; see `shape_of`."""
    old, new = (read(folder).model.state_dict() for folder in (base, expert))
    return shape_of(old, new)


def shape_of(
    old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]
) -> dict[str, float]:
    """How heavy the tails of a task vector are.

    Returns the kurtosis (3 for a normal distribution), the shares of the squared norm
    in the largest 1 and 10 % of the elements, and the norm relative to the base's.
    """
    names = [name for name in old if old[name].is_floating_point()]
    delta = torch.cat([(new[name] - old[name]).flatten() for name in names]).double()
    squares = delta.square().sort(descending=True).values
    whole = squares.sum()
    norm = torch.cat([old[name].flatten() for name in names]).norm()
    return {
        "kurtosis": float(delta.pow(4).mean() / delta.square().mean() ** 2),
        "top 1 %": float(squares[: len(squares) // 100].sum() / whole),
        "top 10 %": float(squares[: len(squares) // 10].sum() / whole),
        "relative norm": float(whole.sqrt() / norm),
    }
