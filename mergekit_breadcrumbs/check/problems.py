"""What is wrong with a config: errors and warnings, each with its place in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from mergekit_breadcrumbs.check.codes import Code, Severity
from mergekit_breadcrumbs.wording import one_line

# The keys and list positions that lead to a value, from the top of the file.
Place: TypeAlias = tuple[Any, ...]


class Mark(NamedTuple):
    """Where something stands in the file: line and column from 1, and its length."""

    line: int
    column: int
    length: int


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
        if isinstance(step, str) and step.isidentifier() and len(step) <= 60:
            name += f".{step}"
        else:
            name += f"[{one_line(step)}]"
    return name.removeprefix(".")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where; `mark` is None if no line is to blame."""

    code: Code
    place: Place
    text: str
    mark: Mark | None = None

    @property
    def severity(self) -> Severity:
        """Whether it is an error or a warning."""
        return self.code.severity

    @property
    def line(self) -> int | None:
        """The line of the file, from 1."""
        return self.mark.line if self.mark else None

    def __str__(self) -> str:
        name = place_name(self.place)
        return f"{name}: {self.text}" if name else self.text


class Problems:
    """The problems of one config, in the order of its lines."""

    def __init__(self) -> None:
        self.mark_of: Callable[[Place], Mark | None] = lambda _: None
        self._names: dict[str, str] = {}
        self._found: dict[Problem, None] = {}
        self._counts: Counter[Severity] = Counter()
        # Where problems stand, and all places around them.
        self._places: dict[Severity, set[Place]] = {"error": set(), "warning": set()}
        self._around: dict[Severity, set[Place]] = {"error": set(), "warning": set()}

    def __iter__(self) -> Iterator[Problem]:
        by_line = sorted(self._found, key=lambda p: (p.line or 0, place_name(p.place)))
        return iter(by_line)

    def add(
        self, code: Code, place: Place, text: str, mark: Mark | None = None
    ) -> None:
        """Add a problem; an equal one is there only once.

        An error is what makes the merge fail, or do something else than was written; a
        warning is what works, but is hardly meant.
        """
        for path, name in self._names.items():
            text = text.replace(path, name)
        problem = Problem(code, place, text, mark or self.mark_of(place))
        if problem in self._found:
            return
        self._found[problem] = None
        self._counts[code.severity] += 1
        if place:
            self._places[code.severity].add(place)
            self._around[code.severity].update(place[:n] for n in range(len(place)))

    def rename(self, path: str, name: str) -> None:
        """Say a model's name from now on where a text has the path of its files."""
        self._names |= {one_line(path): one_line(name), path: name}

    def count(self, severity: Severity) -> int:
        """Return how many problems there are of one severity."""
        return self._counts[severity]

    def cover(self, *places: Place, warnings: bool = False) -> bool:
        """Whether what is wrong at one of these places has been said.

        That is so if an error, or on request a warning, stands there, inside of it or
        around it. Whoever could say the same again, in other words, asks this first.
        """
        severities: list[Severity] = ["error", "warning"] if warnings else ["error"]
        return any(
            place in self._around[severity]
            or any(place[:n] in self._places[severity] for n in range(len(place) + 1))
            for severity in severities
            for place in places
        )
