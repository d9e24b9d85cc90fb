"""What is wrong with a config: errors and warnings, each with its place in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mergekit_breadcrumbs.wording import one_line

# The keys and list positions that lead to a value, from the top of the file.
Place: TypeAlias = tuple[Any, ...]
Severity = Literal["error", "warning"]


def place_name(place: Place) -> str:
    """Return a place as people write it.

    Example:
        >>> place_name(("models", 1, "parameters", "gama"))
        'models[1].parameters.gama'
        >>> place_name(("modules", "a b", "slices"))
        "modules['a b'].slices"
    """
    name = ""
    for step in place:
        if isinstance(step, str) and step.isidentifier():
            name += f".{step}"
        else:
            name += f"[{one_line(step)}]"
    return name.removeprefix(".")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is, and in which line of the file (from 1)."""

    severity: Severity
    place: Place
    text: str
    line: int | None = None

    def __str__(self) -> str:
        name = place_name(self.place)
        return f"{name}: {self.text}" if name else self.text


class Problems:
    """The problems of one config, in the order of its lines."""

    def __init__(self) -> None:
        self.line_of: Callable[[Place], int | None] = lambda _: None
        self._found: dict[Problem, None] = {}

    def __iter__(self) -> Iterator[Problem]:
        by_line = sorted(self._found, key=lambda p: (p.line or 0, place_name(p.place)))
        return iter(by_line)

    def error(self, place: Place, text: str, line: int | None = None) -> None:
        """Add what makes the merge fail, or do something else than was written."""
        self._add("error", place, text, line)

    def warning(self, place: Place, text: str, line: int | None = None) -> None:
        """Add what works, but is hardly meant."""
        self._add("warning", place, text, line)

    def count(self, severity: Severity) -> int:
        """Return how many problems there are of one severity."""
        return sum(problem.severity == severity for problem in self._found)

    def cover(self, *places: Place, warnings: bool = False) -> bool:
        """Whether what is wrong at one of these places has been said.

        That is so if an error, or on request a warning, stands there, inside of it or
        around it. Whoever could say the same again, in other words, asks this first.
        """
        return any(
            (warnings or problem.severity == "error")
            and problem.place
            and all(a == b for a, b in zip(problem.place, place, strict=False))
            for problem in self._found
            for place in places
        )

    def _add(
        self, severity: Severity, place: Place, text: str, line: int | None
    ) -> None:
        line = self.line_of(place) if line is None else line
        self._found[Problem(severity, place, text, line)] = None
