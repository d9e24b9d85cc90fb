"""Three tasks on lines of text that a person can check, and their tokenizer."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ARROW = " > "

_NUMERALS = {
    "M": 1000,
    "CM": 900,
    "D": 500,
    "CD": 400,
    "C": 100,
    "XC": 90,
    "L": 50,
    "XL": 40,
    "X": 10,
    "IX": 9,
    "V": 5,
    "IV": 4,
    "I": 1,
}


class Case(NamedTuple):
    """One line of text: what a model is given, and what it must answer."""

    prompt: str
    answer: str


class Task(NamedTuple):
    """A task: how its questions are drawn, and what answers them.

    >>> REVERSE.case("lopeti")
    Case(prompt='reverse: lopeti > ', answer='itepol')
    """

    name: str
    question: Callable[[random.Random], str]
    answer: Callable[[str], str]

    def case(self, question: str) -> Case:
        """The line of text that puts this question."""
        return Case(f"{self.name}: {question}{ARROW}", self.answer(question))


def roman(digits: str) -> str:
    """Write a whole number of at least 1 in Roman numerals.

    >>> roman("1994")
    'MCMXCIV'
    """
    rest = int(digits)
    numerals = ""
    for numeral, value in _NUMERALS.items():
        count, rest = divmod(rest, value)
        numerals += numeral * count
    return numerals


def _number(rng: random.Random) -> str:
    return str(rng.randint(1, 3999))


def _digits(rng: random.Random) -> str:
    return "".join(rng.choices(string.digits[1:], k=rng.randint(6, 9)))


def _word(rng: random.Random) -> str:
    sounds = ["bcdfghjklmnpqrstvwxyz", "aeiou"]
    if rng.random() < 0.5:
        sounds.reverse()
    return "".join(rng.choice(sounds[i % 2]) for i in range(rng.randint(4, 7)))


ROMAN = Task("roman", _number, roman)
SORT = Task("sort", _digits, lambda question: "".join(sorted(question)))
REVERSE = Task("reverse", _word, lambda question: question[::-1])
TASKS = (ROMAN, SORT, REVERSE)


def draw_cases(task: Task, count: int, seed: int) -> list[Case]:
    """Draw cases of a task, no two of them alike.

    Args:
        task: The task.
        count: How many cases. `roman` has 3999 questions in all.
        seed: The same seed gives the same cases in the same order.

    >>> draw_cases(SORT, 2, seed=0) == draw_cases(SORT, 3, seed=0)[:2]
    True
    """
    rng = random.Random(f"{task.name} {seed}")
    # A dict, because it keeps the order of drawing: a set of strings is in another
    # order in every process.
    questions: dict[str, None] = {}
    while len(questions) < count:
        questions[task.question(rng)] = None
    return [task.case(question) for question in questions]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of single characters.

    A task's name and the arrow are one token each, which makes the lines, and so the
    training, shorter.

    >>> tokenizer = build_tokenizer()
    >>> len(tokenizer.encode("reverse: lopeti > itepol"))
    14
    """
    special = ["<pad>", "<end>", "<unknown>"]
    names = [f"{task.name}: " for task in TASKS]
    characters = string.digits + string.ascii_lowercase + "IVXLCDM"
    vocabulary = [*special, *names, ARROW, *characters]
    tokenizer = Tokenizer(
        models.WordLevel(
            {token: number for number, token in enumerate(vocabulary)},
            unk_token="<unknown>",
        )
    )
    # A prompt typed without the last space is the same prompt.
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s*>\s*"), ARROW)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex("|".join([*names, ARROW, "."])), behavior="isolated"
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
