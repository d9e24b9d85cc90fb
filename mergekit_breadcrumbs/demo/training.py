"""A tiny Llama, how it is trained, and how it is measured."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from tqdm import trange
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from mergekit_breadcrumbs.demo.tasks import Case

_NO_LABEL = -100  # which transformers' own loss leaves out


class Encoded(NamedTuple):
    """Cases as lines of token numbers, padded on the right.

    `labels` holds -100 where `ids` is not part of the answer or the end token.
    """

    ids: torch.Tensor
    labels: torch.Tensor


def encode(tokenizer: PreTrainedTokenizerFast, cases: Sequence[Case]) -> Encoded:
    """Turn cases into tensors.

    >>> from mergekit_breadcrumbs.demo.tasks import ROMAN, build_tokenizer
    >>> encode(build_tokenizer(), [ROMAN.case("4"), ROMAN.case("9")]).labels.tolist()
    [[-100, -100, -100, 48, 49, 1], [-100, -100, -100, 48, 50, 1]]
    """
    lines = []
    for case in cases:
        prompt = tokenizer.encode(case.prompt)
        answer = [*tokenizer.encode(case.answer), tokenizer.eos_token_id]
        labels = [_NO_LABEL] * len(prompt) + answer
        lines.append((torch.tensor(prompt + answer), torch.tensor(labels)))
    return _pad(lines)


def _pad(lines: Iterable[tuple[torch.Tensor, ...]]) -> Encoded:
    ids, labels = zip(*lines, strict=True)
    # Any token can pad `ids`: causal attention does not see what stands on the right.
    return Encoded(
        pad_sequence(list(ids), batch_first=True),
        pad_sequence(list(labels), batch_first=True, padding_value=_NO_LABEL),
    )


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed torch and use one thread, then restore the caller's state.

    The sums in a matrix product depend on how many threads share them. At this size
    more threads save little, and cost a lot on a busy machine.
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
    """Hide transformers' own progress bars, which here would each last a moment."""
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
    batch: int,
    seed: int,
    name: str,
) -> None:
    """Train a model in place, on batches that draw equally from all data sets.

    `batch` is the number of lines in a step, a multiple of that of the data sets.
    The learning rate rises to `rate` and falls to 0; `name` is for the progress bar.
    """
    ids, labels = _pad(line for part in data for line in zip(*part, strict=True))
    sources = torch.split(torch.arange(len(ids)), [len(part.ids) for part in data])
    each = batch // len(data)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    model.train()
    for _ in trange(
        steps,
        desc=f"{name:<14}",
        unit="step",
        bar_format="{desc} {percentage:3.0f}%|{bar}{r_bar}",
        # Spare a log file hundreds of bars on one line.
        mininterval=0.1 if sys.stderr.isatty() else 10,
    ):
        lines = torch.cat(
            [s[torch.randint(len(s), (each,), generator=generator)] for s in sources]
        )
        optimizer.zero_grad()
        model(ids[lines], labels=labels[lines]).loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()  # type: ignore[no-untyped-call]


def accuracy(model: PreTrainedModel, data: Encoded) -> float:
    """Return the percentage of cases that greedy decoding gets right to the last token.

    One forward pass is enough: greedy decoding gives the whole answer if each of its
    tokens is the likeliest one after the correct tokens before it.
    """
    with torch.no_grad():
        guesses = model(data.ids).logits[:, :-1].argmax(-1)
    wanted = data.labels[:, 1:]
    right = ((guesses == wanted) | (wanted == _NO_LABEL)).all(dim=1)
    return 100 * int(right.sum()) / len(right)


def measure(model: PreTrainedModel, data: dict[str, Encoded]) -> dict[str, float]:
    """Return the percentage of each task's cases that a model gets right."""
    return {task: accuracy(model, cases) for task, cases in data.items()}
