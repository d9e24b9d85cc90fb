"""Eight text tasks whose answers a person can check, and their tokenizer."""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ARROW = " > "

_NUMERALS = ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I")
_VALUES = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
_LETTERS = string.ascii_lowercase
_NEXT_LETTERS = str.maketrans(_LETTERS, _LETTERS[1:] + _LETTERS[0])


class Case(NamedTuple):
    """One line of text: what a model is given, and the answer it must give."""

    prompt: str
    answer: str


class Task(NamedTuple):
    """A task: how its questions are drawn, and how they are answered.

    >>> REVERSE.case("lopeti")
    Case(prompt='reverse: lopeti > ', answer='itepol')
    """

    name: str
    question: Callable[[random.Random], str]
    answer: Callable[[str], str]

    def case(self, question: str) -> Case:
        """Return the line of text that asks this question."""
        return Case(f"{self.name}: {question}{ARROW}", self.answer(question))


def roman(digits: str) -> str:
    """Write a positive whole number in Roman numerals.

    >>> roman("1994")
    'MCMXCIV'
    """
    rest = int(digits)
    numerals = ""
    for numeral, value in zip(_NUMERALS, _VALUES, strict=True):
        count, rest = divmod(rest, value)
        numerals += numeral * count
    return numerals


def _digits(rng: random.Random) -> str:
    return "".join(rng.choices(string.digits[1:], k=rng.randint(6, 9)))


def _word(rng: random.Random) -> str:
    sounds = ["bcdfghjklmnpqrstvwxyz", "aeiou"]
    if rng.random() < 0.5:
        sounds.reverse()
    return "".join(rng.choice(sounds[i % 2]) for i in range(rng.randint(4, 7)))


ROMAN = Task("roman", lambda rng: str(rng.randint(1, 3999)), roman)
SORT = Task("sort", _digits, lambda question: "".join(sorted(question)))
REVERSE = Task("reverse", _word, lambda question: question[::-1])
NEXT = Task("next", _word, lambda question: question.translate(_NEXT_LETTERS))
SWAP = Task("swap", _word, lambda question: question[-1] + question[1:-1] + question[0])
DOUBLE = Task("double", _word, lambda question: "".join(2 * c for c in question))
VOWELS = Task(
    "vowels", _word, lambda question: "".join(c for c in question if c in "aeiou")
)
ODD = Task(
    "odd", _digits, lambda question: "".join(c for c in question if c in "13579")
)
TASKS = (ROMAN, SORT, REVERSE, NEXT, SWAP, DOUBLE, VOWELS, ODD)


def draw_cases(task: Task, count: int, seed: int) -> list[Case]:
    """Draw distinct cases (`roman` has 3999 in all), the same ones for the same seed.

    >>> draw_cases(SORT, 2, seed=0) == draw_cases(SORT, 3, seed=0)[:2]
    True
    """
    rng = random.Random(f"{task.name} {seed}")
    # A dict keeps the order of drawing; a set of strings has another in every process.
    questions: dict[str, None] = {}
    while len(questions) < count:
        questions[task.question(rng)] = None
    return [task.case(question) for question in questions]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of single characters.

    Task names and the arrow are one token each: shorter lines, and shorter training.

    >>> tokenizer = build_tokenizer()
    >>> len(tokenizer.encode("reverse: lopeti > itepol"))
    14
    """
    special = ["<pad>", "<end>", "<unknown>"]
    names = [f"{task.name}: " for task in TASKS]
    characters = string.digits + string.ascii_lowercase + "IVXLCDM"
    vocabulary = [*special, *names, ARROW, *characters]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unknown>"))
    # A prompt typed without its last space is the same prompt.
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
