"""What is asked for, and what has to be right before the first merge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.config_file import read_config, read_text
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.run import Checked
from mergekit_breadcrumbs.check.text import show
from mergekit_breadcrumbs.tune.checks import (
    ImpossibleConfig,
    check,
    check_corners,
    check_values,
    held_by_files,
)
from mergekit_breadcrumbs.tune.methods import Method, method_of
from mergekit_breadcrumbs.tune.rivals import as_rival, space_of_rival
from mergekit_breadcrumbs.tune.search import Search, Target, Values
from mergekit_breadcrumbs.tune.space import (
    Space,
    corners,
    cut_for_files,
    space_of,
)
from mergekit_breadcrumbs.tune.values import replaced, starting_values


@dataclass(frozen=True)
class Request:
    """What the command is asked for; see its help text."""

    config: Path
    out: Path
    score: str
    searches: tuple[Search, ...] = ()
    trials: int = 30
    seed: int = 0
    storage: str | None = None
    name: str | None = None
    validate_with: str | None = None
    against: tuple[str, ...] = ()
    relative: bool = False
    repeats: int = 1
    timeout: float | None = None
    scratch: Path | None = None
    lm_eval: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tuned:
    """A config whose parameters are searched.

    `start` is what it sets itself, None if that is no point of the space.
    """

    method: str
    data: dict[str, Any]
    space: Space
    start: Values | None

    @property
    def checksum(self) -> str:
        """What tells the content of this config from others'."""
        text = json.dumps(self.data, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Plan:
    """The user's config, its rivals, and what there is to say of them.

    `mergeable` says whether the config can be merged as it is given.
    """

    text: str
    config: MergeConfiguration
    own: Tuned
    rivals: list[Tuned]
    notes: list[str]
    mergeable: bool


def prepare(request: Request, options: MergeOptions, stream: TextIO) -> Plan:
    """Read and check a config, and find out what is searched, here and in rivals.

    Args:
        request: of the user.
        options: mergekit's own.
        stream: where the config's problems are shown.

    Raises:
        ImpossibleConfig: if it cannot be merged, or not all over the space.
        ValueError: if the search or a rival is none.
    """
    problems = Problems()
    text = read_text(request.config, problems)
    if text is None:
        raise _shown(Checked(problems), request, stream)
    checked = check(text, options)
    file = read_config(text, Problems())
    if file is None or checked.config is None:
        raise _shown(checked, request, stream)
    method = method_of(checked.config.merge_method)
    space = space_of(file.data, method, request.searches)
    held = held_by_files(file.data, checked.config, options.transformers_cache)
    space, note = cut_for_files(space, held, _fixed(file.data, method))
    mergeable = not checked.failed
    if not mergeable:
        # Another density may be all that it takes.
        first = check_values(file.data, space, next(corners(space)), options)
        if first.failed:
            raise _shown(checked, request, stream)
    else:
        show(checked, request.config, stream, closing=False)
    check_corners(file.data, space, options, request.config, stream)
    own = Tuned(method.name, file.data, space, _start(file.data, method, space))
    rivals = [
        _rival(own, name, request, options, stream)
        for name in dict.fromkeys(request.against)
    ]
    notes = [note] if note else []
    targets = space.targets.values()
    if lost := replaced(file.data, targets, method.defaults, method.shared):
        notes.append(
            f"The config has several values of {' and '.join(lost)}, by model, layer or"
            " filter; they are replaced by the single numbers that are searched"
            " (--search NAME=LOW:HIGH searches nothing else)."
        )
        click.echo(notes[-1], file=stream)
    return Plan(text, checked.config, own, rivals, notes, mergeable)


def _shown(checked: Checked, request: Request, stream: TextIO) -> ImpossibleConfig:
    show(checked, request.config, stream, closing=False)
    return ImpossibleConfig("the config cannot be merged")


def _fixed(data: Mapping[str, Any], method: Method) -> dict[str, float]:
    """Return density and gamma as the config sets them, where all models have one."""
    fixed: dict[str, float] = {}
    for name in ("density", "gamma"):
        if name in method.numbers:
            target = Target(name)
            found = starting_values(data, [target], method.defaults, method.shared)
            if found is not None:
                fixed[name] = found[target]
    return fixed


def _start(data: Mapping[str, Any], method: Method, space: Space) -> Values | None:
    targets = space.targets
    found = starting_values(data, targets.values(), method.defaults, method.shared)
    if found is None:
        return None
    values = {name: found[target] for name, target in targets.items()}
    return values if space.holds(values) else None


def _rival(
    own: Tuned, name: str, request: Request, options: MergeOptions, stream: TextIO
) -> Tuned:
    method = method_of(name)
    if name == own.method:
        raise ValueError(f"--against must be another method than {name}")
    data = as_rival(own.data, method)
    space = space_of_rival(data, method, request.searches)
    check_corners(data, space, options, request.config, stream)
    return Tuned(name, data, space, _start(data, method, space))
