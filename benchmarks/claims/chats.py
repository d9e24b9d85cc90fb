"""Tasks of short questions that a small language model can learn, as chats.

Each task draws its questions at random, answers them by a rule, and has no question
twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import yaml
from babel import Locale

from claims.texts import names

LANGUAGES = ("de", "fr", "es", "pl", "it", "tr", "fi", "hu")
WORDS = (
    *("apple", "river", "stone", "cloud", "table", "green", "window", "music"),
    *("paper", "garden", "bridge", "yellow", "winter", "candle", "forest", "silver"),
    *("pocket", "dinner", "market", "summer", "island", "letter", "orange", "kitchen"),
)


class Chat(NamedTuple):
    """A question, and its answer."""

    question: str
    answer: str


def _add(rng: random.Random) -> Chat:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return Chat(f"What is {a} + {b}?", str(a + b))


def _reverse(rng: random.Random) -> Chat:
    words = rng.sample(WORDS, 3)
    return Chat(
        f"Write these words in reverse order: {' '.join(words)}", " ".join(words[::-1])
    )


def _sort(rng: random.Random) -> Chat:
    numbers = rng.sample(range(10, 100), 3)
    return Chat(
        f"Write these numbers from small to large: {' '.join(map(str, numbers))}",
        " ".join(map(str, sorted(numbers))),
    )


def _initials(rng: random.Random) -> Chat:
    words = rng.sample(WORDS, 3)
    return Chat(
        f"Write the first letter of each word: {' '.join(words)}",
        " ".join(word[0] for word in words),
    )


def _largest(rng: random.Random) -> Chat:
    numbers = rng.sample(range(10, 100), 3)
    return Chat(
        f"Write the largest of these numbers: {' '.join(map(str, numbers))}",
        str(max(numbers)),
    )


@cache
def _by_language() -> list[tuple[str, str]]:
    """Return what only one of the languages calls so, with that language's name."""
    found: dict[str, set[str]] = {}
    for code in LANGUAGES:
        locale = Locale.parse(code)
        for kind in ("country or territory", "language"):
            for text in names(locale)[kind]:
                found.setdefault(text, set()).add(code)
    return [
        (text, Locale.parse(*codes).get_language_name("en") or "")
        for text, codes in sorted(found.items())
        if len(codes) == 1
    ]


def _language(rng: random.Random) -> Chat:
    text, language = rng.choice(_by_language())
    return Chat(f"Which language is this: {text}", language)


TASKS: dict[str, Callable[[random.Random], Chat]] = {
    "add": _add,
    "reverse": _reverse,
    "sort": _sort,
    "initials": _initials,
    "largest": _largest,
    "language": _language,
}


def draw(task: str, count: int) -> list[Chat]:
    """Return different questions of a task, the same ones every time.

    >>> draw("add", 1)
    [Chat(question='What is 49 + 35?', answer='84')]
    """
    rng = random.Random(task)
    found: dict[str, Chat] = {}
    while len(found) < count:
        chat = TASKS[task](rng)
        found.setdefault(chat.question, chat)
    return list(found.values())


def write_tasks(folder: Path, part: str, chats: dict[str, list[Chat]]) -> list[str]:
    """Write tasks of lm-eval, with their data; return their names.

    Args:
        folder: for them.
        part: what the names end with.
        chats: by the name of the task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_task(folder, f"{task}_{part}", own) for task, own in chats.items()]


def _write_task(folder: Path, name: str, chats: list[Chat]) -> str:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(f"{json.dumps(chat._asdict())}\n" for chat in chats))
    longest = max(len(chat.answer) for chat in chats)
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {
            "until": ["\n", "<|im_end|>"],
            "do_sample": False,
            # A token has at least one character.
            "max_gen_toks": min(longest + 1, 12),
        },
        "metric_list": [{"metric": "exact_match", "ignore_case": False}],
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return name


def parts(task: str, sizes: dict[str, int]) -> dict[str, list[Chat]]:
    """Return the chats of each part, of which no two share a question."""
    drawn = iter(draw(task, sum(sizes.values())))
    return {part: list(islice(drawn, size)) for part, size in sizes.items()}
