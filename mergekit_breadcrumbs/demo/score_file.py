"""The scorer that the demo leaves for `mergekit-breadcrumbs tune`, and to copy."""

from __future__ import annotations

from pathlib import Path

from mergekit_breadcrumbs.demo.folder import SCORE

QUESTIONS = 200
"""Of each task, for each of the two functions."""

_TEXT = '''\
"""Scores for mergekit-breadcrumbs tune: the share of {questions} lines of each task
that a model gets right, and its standard error.

No model was trained on these lines, and the demo's own table is about others.
"""

import math

from mergekit_breadcrumbs.demo.tasks import TASKS, draw_cases
from mergekit_breadcrumbs.demo.training import accuracy, encode

LINES = {{task.name: draw_cases(task, {last}, seed={seed}) for task in TASKS}}


def score(model):
    return measure(model, range({first}, {middle}))


def validate(model):
    return measure(model, range({middle}, {last}))


def measure(model, numbers):
    model, tokenizer = model.load()
    scores = {{}}
    for name, lines in LINES.items():
        asked = [lines[number] for number in numbers]
        right = accuracy(model, encode(tokenizer, asked)) / 100
        error = math.sqrt(right * (1 - right) / len(asked))
        scores[name] = right, error
    return scores
'''


def write_score_file(out_dir: Path, *, seed: int, used: int) -> None:
    """Write a scorer that asks what neither training nor the demo's table asked.

    Args:
        out_dir: of the demo.
        seed: of the demo.
        used: cases of each task that have been drawn.

    Raises:
        OSError: if it cannot be written.
    """
    text = _TEXT.format(
        questions=QUESTIONS,
        seed=seed,
        first=used,
        middle=used + QUESTIONS,
        last=used + 2 * QUESTIONS,
    )
    (out_dir / SCORE).write_text(text, encoding="utf-8")
