"""Values of parameters in a config: set anew, or as the config has them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from mergekit_breadcrumbs.check.schema import read_reference
from mergekit_breadcrumbs.check.sections import Section, sections
from mergekit_breadcrumbs.tune.search import Target


def with_values(
    data: Mapping[str, Any], values: Mapping[Target, float]
) -> dict[str, Any]:
    """Return a config in which parameters have these values, and no others anywhere.

    What YAML aliases share in `data` is no longer shared.

    Example:
        >>> data = {"models": [{"model": "a", "parameters": {"density": 0.9}}]}
        >>> with_values(data, {Target("density"): 0.5})
        {'models': [{'model': 'a'}], 'parameters': {'density': 0.5}}
        >>> with_values(data, {Target("weight", "a"): 0.5})
        {'models': [{'model': 'a', 'parameters': {'density': 0.9, 'weight': 0.5}}]}
    """
    copy: dict[str, Any] = _unshared(data)
    set_values(copy, values)
    return copy


def set_values(data: dict[str, Any], values: Mapping[Target, float]) -> None:
    """Set values in a config, as `with_values` does in a copy.

    Args:
        data: in which no two sections share their parameters.
        values: by what they are written to.
    """
    found = list(sections(data))
    names = {target.parameter for target in values}
    kept = {id(section): names & _places(section, values) for section in found}
    for section in found:
        settings = section.get("parameters")
        if isinstance(settings, dict):
            for name in names & settings.keys() - kept[id(section)]:
                del settings[name]
    for section in found:
        for name in sorted(kept[id(section)]):
            if not isinstance(section.get("parameters"), dict):
                section.content["parameters"] = {}
            section.content["parameters"][name] = _value(section, name, values)
        if section.get("parameters") == {}:
            del section.content["parameters"]


def starting_values(
    data: Mapping[str, Any],
    targets: Iterable[Target],
    defaults: Mapping[str, Any],
    shared: Collection[str] = (),
) -> dict[Target, float] | None:
    """Return the values that a config itself has; None if one is not a single number.

    That is so for gradients, filters, what is not set, and what models have different
    values of, if it is searched for all of them together.

    Args:
        data: the config, as YAML has it.
        targets: what is searched.
        defaults: of the method, by their names.
        shared: names of parameters that models cannot have their own of.

    Example:
        >>> data = {"models": [{"model": "a", "parameters": {"density": 0.5}}]}
        >>> density, gamma = Target("density"), Target("gamma")
        >>> list(starting_values(data, [density, gamma], {"gamma": 0.01}).values())
        [0.5, 0.01]
    """
    found = {}
    for target in targets:
        numbers = {
            _number(_setting(section, target.parameter, defaults, shared))
            for section in sections(data)
            if _is_meant(section, target)
        }
        [number, *others] = numbers or {None}
        if number is None or others:
            return None
        found[target] = number
    return found


def replaced(
    data: Mapping[str, Any],
    targets: Iterable[Target],
    defaults: Mapping[str, Any],
    shared: Collection[str] = (),
) -> list[str]:
    """Return the parameters of which single numbers take the place of several values.

    Arguments are those of `starting_values`.

    Example:
        >>> data = {"models": [{"model": "a", "parameters": {"density": [0.3, 0.9]}}]}
        >>> replaced(data, [Target("density"), Target("gamma")], {"gamma": 0.01})
        ['density']
    """
    names = set()
    for target in targets:
        is_set = any(
            _setting(section, target.parameter, {}, shared) is not None
            for section in sections(data)
            if _is_meant(section, target)
        )
        if is_set and starting_values(data, [target], defaults, shared) is None:
            names.add(target.parameter)
    return sorted(names)


def _unshared(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _unshared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unshared(inner) for inner in value]
    return value


def _places(section: Section, values: Mapping[Target, float]) -> set[str]:
    """Return the names of the parameters whose values belong in a section."""
    if section.kind == "file":
        return {target.parameter for target in values if target.model is None}
    if not section.is_input:
        return set()
    return {
        target.parameter
        for target in values
        if target.model is not None and _is_meant(section, target)
    }


def _value(section: Section, name: str, values: Mapping[Target, float]) -> float:
    model = None if section.kind == "file" else _model(section.get("model"))
    return float(values[Target(name, model)])


def _is_meant(section: Section, target: Target) -> bool:
    """Whether a section names a model that a value is for; that is never the base."""
    if not section.is_input:
        return False
    model = _model(section.get("model"))
    if model == _model(section.base_model):
        return False
    return target.model is None or target.model == model


def _model(value: Any) -> str | None:
    """Return a model's name as mergekit has it."""
    reference, _ = read_reference(value)
    return None if reference is None else str(reference)


def _setting(
    section: Section,
    name: str,
    defaults: Mapping[str, Any],
    shared: Collection[str],
) -> Any:
    """Return what a parameter is set to for an input, the innermost setting first."""
    for settings in _levels(section, beside=name not in shared):
        if name in settings:
            return settings[name]
    return defaults.get(name)


def _levels(section: Section, *, beside: bool) -> Iterator[Mapping[str, Any]]:
    for level in section.levels:
        settings = level.get("parameters")
        if isinstance(settings, Mapping) and (beside or not level.is_input):
            yield settings


def _number(setting: Any) -> float | None:
    """Return a plain number; YAML leaves 1e-3 as text, which mergekit takes as one."""
    if isinstance(setting, bool) or not isinstance(setting, int | float | str):
        return None
    try:
        number = float(setting)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
