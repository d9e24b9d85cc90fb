"""What is searched."""

from dataclasses import dataclass

Values = dict[str, float]
"""The value of each search, by its name."""


@dataclass(frozen=True)
class Search:
    """A parameter, and the range in which its value is searched."""

    name: str
    low: float
    high: float
    log: bool = False
