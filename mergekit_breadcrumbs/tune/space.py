"""Which parameters of a config are searched, and in which ranges."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from mergekit.common import ModelReference

from mergekit_breadcrumbs.check.schema import read_reference
from mergekit_breadcrumbs.check.sections import sections
from mergekit_breadcrumbs.measure.model_names import short_names
from mergekit_breadcrumbs.tune.methods import Method
from mergekit_breadcrumbs.tune.search import Search, Target, Values
from mergekit_breadcrumbs.wording import did_you_mean, listed, one_line, visible

USUAL = (
    Search("lambda", 0.05, 2.0, log=True),
    Search("density", 0.02, 0.95),
    Search("gamma", 0.0, 0.05),
)
"""What is searched where nothing is asked for, as far as the method has it.

The more models, the less of each there is room for: of 35, all kept, lambda 0.2 was the
best in `benchmarks/claims.py`.
"""

_FORM = re.compile(r"\s*([^=:\s]+)\s*=\s*([^:\s]+)\s*:\s*([^:\s]+?)\s*(:\s*log\s*)?")
_EACH = "weight"  # of which every model has its own
_CORNERS_OF = 3  # parameters, whose corners are all tried; of more, the main ones


@dataclass(frozen=True)
class Space:
    """What is searched: the ranges, and by their names what is set in a config."""

    searches: tuple[Search, ...]
    targets: dict[str, Target]

    def settings(self, values: Values) -> dict[Target, float]:
        """Return the values by what they are written to."""
        return {self.targets[name]: value for name, value in values.items()}

    def holds(self, values: Values) -> bool:
        """Whether each value is within its range."""
        return all(s.low <= values[s.name] <= s.high for s in self.searches)


def read_search(text: str) -> Search:
    """Return the search that `NAME=LOW:HIGH` or `NAME=LOW:HIGH:log` stands for.

    Raises:
        ValueError: if it is neither, or the range is none.

    Example:
        >>> read_search("lambda=0.2:2:log")
        Search(name='lambda', low=0.2, high=2.0, log=True)
        >>> read_search("density=0.9:0.1")
        Traceback (most recent call last):
        ...
        ValueError: density: low must be at most high; got 0.9:0.1
    """
    found = _FORM.fullmatch(text)
    try:
        name, low, high, log = found.groups()  # type: ignore[union-attr]
        ends = float(low), float(high)
    except (AttributeError, ValueError):
        raise ValueError(
            "must be NAME=LOW:HIGH or NAME=LOW:HIGH:log, such as density=0.1:0.9; got"
            f" {visible(one_line(text))}"
        ) from None
    what = f"{visible(name)}: "
    if not all(map(math.isfinite, ends)):
        raise ValueError(f"{what}low and high must be finite; got {low}:{high}")
    if ends[0] > ends[1]:
        raise ValueError(f"{what}low must be at most high; got {low}:{high}")
    if log and not ends[0] > 0:
        raise ValueError(f"{what}low must be more than 0 with :log; got {low}")
    return Search(name, *ends, log=bool(log))


def space_of(
    data: Mapping[str, Any], method: Method, wanted: Sequence[Search]
) -> Space:
    """Return the space of a config.

    `weight` is searched for each model by itself, all others with one value for all.

    Args:
        data: the config, as YAML has it.
        method: its own.
        wanted: what the user asks for; if that is nothing, `USUAL`.

    Raises:
        ValueError: if the method has no such parameter, one is there twice, or there is
            nothing to search.
    """
    chosen = wanted or [search for search in USUAL if search.name in method.numbers]
    if not chosen:
        raise ValueError(
            f"say what to search with --search NAME=LOW:HIGH: {method.name} has"
            f" {', '.join(method.numbers) or 'no parameter that is a number'}"
        )
    searches: list[Search] = []
    targets: dict[str, Target] = {}
    for search in chosen:
        if search.name not in method.numbers:
            raise ValueError(
                f"{method.name} has no parameter {visible(search.name)} that is a"
                f" number{did_you_mean(search.name, method.numbers)}"
            )
        for name, target in _named(search.name, data, method):
            if name in targets:
                raise ValueError(f"{name} is searched twice")
            targets[name] = target
            searches.append(replace(search, name=name))
    return Space(tuple(searches), targets)


def _named(
    parameter: str, data: Mapping[str, Any], method: Method
) -> Iterator[tuple[str, Target]]:
    if parameter != _EACH or parameter in method.shared:
        yield parameter, Target(parameter)
        return
    models = inputs_of(data)
    for model, short in short_names(models).items():
        yield f"{parameter} of {short}", Target(parameter, model)


def inputs_of(data: Mapping[str, Any]) -> list[str]:
    """Return the names of the models that are merged, the base not among them."""
    names: dict[str, None] = {}
    for section in sections(data):
        model, _ = read_reference(section.get("model"))
        if section.is_input and model is not None and model != _base_of(section):
            names[str(model)] = None
    return list(names)


def _base_of(section: Any) -> ModelReference | None:
    base = section.base_model
    return None if base is None else read_reference(base)[0]


def corners(space: Space) -> Iterator[Values]:
    """Yield the corners of a space: all of them, or those that say the most.

    Example:
        >>> one = Space((Search("lambda", 0.2, 2.0),), {"lambda": Target("lambda")})
        >>> list(corners(one))
        [{'lambda': 0.2}, {'lambda': 2.0}]
    """
    ends = [(search.low, search.high) for search in space.searches]
    names = [search.name for search in space.searches]
    if len(names) <= _CORNERS_OF:
        picks = list(itertools.product((0, 1), repeat=len(names)))
    else:
        size = range(len(names))
        alone = [tuple(int(i == one) for i in size) for one in size]
        picks = [tuple(0 for _ in size), tuple(1 for _ in size), *alone]
    for pick in picks:
        yield {n: ends[i][p] for i, (n, p) in enumerate(zip(names, pick, strict=True))}


def cut_for_files(
    space: Space, held: Mapping[str, float], fixed: Mapping[str, float]
) -> tuple[Space, str]:
    """Cut density and gamma so that their sum is at most what breadcrumb files hold.

    Of that gamma gets a quarter at most, if both are searched. Returns the space, and
    a sentence if it is another one now.

    Args:
        space: of the config.
        held: the fraction that each file holds, by the model's name.
        fixed: density and gamma where they are not searched.

    Raises:
        ValueError: if nothing is left.
    """
    ranges = {search.name: search for search in space.searches}
    searched = ranges.keys() & {"density", "gamma"}
    if not held or not searched:
        return space, ""
    model, fraction = min(held.items(), key=lambda item: item[1])
    high = {
        name: ranges[name].high if name in ranges else fixed.get(name, 0.0)
        for name in ("density", "gamma")
    }
    if high["density"] + high["gamma"] <= fraction + 1e-12:
        return space, ""
    if len(searched) == 2:
        high["gamma"] = min(high["gamma"], max(fraction / 4, ranges["gamma"].low))
    last = "density" if "density" in searched else "gamma"
    other = high["gamma" if last == "density" else "density"]
    high[last] = float(Decimal(repr(fraction)) - Decimal(repr(other)))
    cut = {name: replace(ranges[name], high=high[name]) for name in searched}
    name = next(iter(short_names([model]).values()))
    what = f"The file of {name} holds {fraction:g} of each slice, of the largest"
    for search in cut.values():
        if search.low > search.high:
            raise ValueError(
                f"{what}: density + gamma must be at most that, so {search.name} cannot"
                f" be {search.low:g} or more"
            )
    ends = [
        f"{name} is searched up to {search.high:g}"
        for name, search in sorted(cut.items())
        if search != ranges[name]
    ]
    changed = tuple(cut.get(search.name, search) for search in space.searches)
    return replace(space, searches=changed), f"{what}: {listed(ends, 2)}."
