"""A tiny Llama, how it is trained, and how it is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from mergekit_breadcrumbs.demo.tasks import Case

BATCH = 126
"""Lines in one step of training; a multiple of the number of tasks."""

_NO_LABEL = -100


class Encoded(NamedTuple):
    """Cases as tensors of token numbers, one row each, padded on the right.

    `labels` is `ids` where a token belongs to the answer or ends it, else -100.
    """

    ids: torch.Tensor
    labels: torch.Tensor


def encode(tokenizer: PreTrainedTokenizerFast, cases: Sequence[Case]) -> Encoded:
    """Turn cases into tensors.

    >>> from mergekit_breadcrumbs.demo.tasks import ROMAN, build_tokenizer
    >>> encode(build_tokenizer(), [ROMAN.case("4"), ROMAN.case("9")]).labels.tolist()
    [[-100, -100, -100, 43, 44, 1], [-100, -100, -100, 43, 45, 1]]
    """
    end = [tokenizer.eos_token_id]
    ids, labels = [], []
    for case in cases:
        prompt = tokenizer.encode(case.prompt)
        answer = tokenizer.encode(case.answer) + end
        ids.append(torch.tensor(prompt + answer))
        labels.append(torch.tensor([_NO_LABEL] * len(prompt) + answer))
    return _pad(ids, labels)


def _pad(ids: list[torch.Tensor], labels: list[torch.Tensor]) -> Encoded:
    # Any token would do: causal attention does not see what stands on the right.
    return Encoded(
        pad_sequence(ids, batch_first=True),
        pad_sequence(labels, batch_first=True, padding_value=_NO_LABEL),
    )


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed torch and use one thread; leave the caller's state as it was.

    The sums of a matrix product depend on how many threads share them, and at this
    size more threads save little and, where the machine is busy, cost a lot.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars of transformers' own, which here would each last a moment."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make a Llama of 0.2 million parameters, initialised at random."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        # The usual 0.02 suits wide models; so narrow a one learns faster from more.
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def train(
    model: PreTrainedModel,
    data: Sequence[Encoded],
    *,
    steps: int,
    rate: float,
    seed: int,
    name: str,
) -> None:
    """Train a model in place on equal parts of several data sets.

    Args:
        model: The model.
        data: The data sets, one per task.
        steps: How many steps of `BATCH` lines.
        rate: The highest learning rate; it rises to this and falls to 0.
        seed: Which lines are drawn, and in what order.
        name: What the progress bar says.
    """
    ids, labels = _join(data)
    sizes = [len(part.ids) for part in data]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    model.train()
    for _ in tqdm(
        range(steps),
        desc=f"{name:<14}",
        unit="step",
        bar_format="{desc} {percentage:3.0f}%|{bar}{r_bar}",
        # Where stderr is a file, a line of it need not hold hundreds of bars.
        mininterval=0.1 if sys.stderr.isatty() else 10,
    ):
        rows = _draw(sizes, generator)
        loss = _loss(model, ids[rows], labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()  # type: ignore[no-untyped-call]


def _join(data: Sequence[Encoded]) -> Encoded:
    return _pad(
        [row for part in data for row in part.ids],
        [row for part in data for row in part.labels],
    )


def _draw(sizes: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    first, rows = 0, []
    for size in sizes:
        each = BATCH // len(sizes)
        rows.append(first + torch.randint(size, (each,), generator=generator))
        first += size
    return torch.cat(rows)


def _loss(
    model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    wanted = labels[:, 1:]
    answers = wanted != _NO_LABEL
    return cross_entropy(model(ids).logits[:, :-1][answers], wanted[answers])


def accuracy(model: PreTrainedModel, data: Encoded) -> float:
    """The percentage of cases that greedy decoding answers exactly, to the end token.

    One forward pass is enough: decoding gives the whole answer exactly if each of its
    tokens is the likeliest one after the right tokens before it.
    """
    with torch.no_grad():
        guesses = model(data.ids).logits[:, :-1].argmax(-1)
    wanted = data.labels[:, 1:]
    right = ((guesses == wanted) | (wanted == _NO_LABEL)).all(dim=1)
    return 100 * int(right.sum()) / len(right)
