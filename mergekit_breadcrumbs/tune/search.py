"""What is searched."""

from dataclasses import dataclass
from typing import NamedTuple

Values = dict[str, float]
"""The value of each search, by its name."""


class Target(NamedTuple):
    """What a value is written to: a parameter, of one model alone or of all of them.

    `model` is its name as mergekit writes it.
    """

    parameter: str
    model: str | None = None


@dataclass(frozen=True)
class Search:
    """A parameter, and the range in which its value is searched."""

    name: str
    low: float
    high: float
    log: bool = False
