"""What the parameters of a config resolve to, for each tensor of each model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mergekit.merge_methods.base import MISSING
from mergekit.parameter_resolver import resolve_parameter

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.layout import OutputSlice, Source
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.parameters import (
    DEFAULT_DENSITY,
    DENSITY_IS_UNSET,
    PARAMETERS,
    sum_over_one,
    too_dense,
)
from mergekit_breadcrumbs.host.planner import PlannedTensor
from mergekit_breadcrumbs.wording import listed

_MISSING, _REFUSED = object(), object()
# A density that nobody set is to be told from one that was set to the default.
_DENSITY = replace(PARAMETERS["density"], default=MISSING)  # type: ignore[call-arg]
_SPECS = PARAMETERS | {"density": _DENSITY}


def check_resolved(outputs: list[OutputSlice], problems: Problems) -> None:
    """Report weights that are missing, and fractions that do not fit together.

    Resolves them as mergekit does, for each tensor of each model.
    """
    weights: set[Any] = set()
    densities: set[Any] = set()
    sources = [(source, part) for part in outputs for source in part.finetuned]
    for source, output in sources:
        tensors = output.tensors
        names = [tensor.called_in(source.model).name for tensor in tensors]
        weight, density, gamma = (
            [resolve(name, source, tensor) for tensor in tensors]
            for name in ("weight", "density", "gamma")
        )
        _check_weights(names, weight, source, problems)
        _check_fractions(names, density, gamma, source, problems)
        weights.update(weight)
        densities.update(density)
    _check_many(outputs, problems)
    for name, values, only, done, result in (
        ("density", densities, 1, "masked", "plain task arithmetic"),
        ("density", densities, 0, "kept", "the base model"),
        ("weight", weights, 0, "added", "the base model"),
    ):
        if values == {only}:
            problems.add(
                Code.IDLE_MERGE,
                sources[0][0].setting_place(name),
                f"every {name} is {only}, so nothing is {done}: this merge is {result}",
            )


def _check_many(outputs: list[OutputSlice], problems: Problems) -> None:
    """Warn of many models that are merged with little dropped, once."""
    for part in outputs:
        if part.tensors and part.finetuned and (text := _too_dense(part)):
            place = part.finetuned[0].setting_place("density")
            if place[-1] != "density":  # it is set nowhere
                place = ("parameters", "density")
            problems.add(Code.DENSE_MANY, place, text)
            return


def _too_dense(part: OutputSlice) -> str:
    tensor, sources = part.tensors[0], part.finetuned
    weights, densities = (
        [resolve(name, source, tensor) for source in sources]
        for name in ("weight", "density")
    )
    densities = [DEFAULT_DENSITY if d is _MISSING else d for d in densities]
    shared = [resolve(name, sources[0], tensor) for name in ("lambda", "normalize")]
    if {_MISSING, _REFUSED} & {*weights, *densities, *shared}:
        return ""
    return too_dense(weights, densities, *shared)


def resolve(name: str, source: Source, tensor: PlannedTensor) -> Any:
    """Return what a parameter is for a tensor, or something else if that is refused."""
    try:
        value, error = attempt(
            resolve_parameter,
            _SPECS[name],
            [settings for _, settings in source.settings()],
            tensor_name=tensor.called_in(source.model).name,
            t=tensor.depth,
            model=source.model,
        )
    except ValueError:  # said where the file's own values are checked
        return _REFUSED
    if error is None:
        return value
    # With a RuntimeError mergekit says that a parameter is set nowhere.
    return _MISSING if isinstance(error, RuntimeError) else _REFUSED


def _check_weights(
    names: list[str], weights: list[Any], source: Source, problems: Problems
) -> None:
    pairs = zip(names, weights, strict=True)
    missing = [name for name, weight in pairs if weight is _MISSING]
    if missing and not problems.cover(*source.possible_places("weight")):
        which = "" if len(missing) == len(names) else f" for {listed(missing)}"
        place = (*source.section.place, "parameters", "weight")
        problems.add(Code.MISSING_WEIGHT, place, f"missing{which}: set it")


def _check_fractions(
    names: list[str],
    densities: list[Any],
    gammas: list[Any],
    source: Source,
    problems: Problems,
) -> None:
    if _MISSING in densities:
        places = source.possible_places("density")
        if not problems.cover(*places, warnings=True):
            place = ("parameters", "density")
            problems.add(Code.UNSET_DENSITY, place, DENSITY_IS_UNSET)
        densities = [DEFAULT_DENSITY if d is _MISSING else d for d in densities]
    sums = [
        (total, name)
        for density, gamma, name in zip(densities, gammas, names, strict=True)
        if _REFUSED not in (density, gamma) and (total := sum_over_one(density, gamma))
    ]
    if sums:
        problems.add(
            Code.FRACTIONS_OVER_ONE,
            source.setting_place("density", "gamma"),
            f"density + gamma is {sums[0][0]}, more than 1, for"
            f" {listed([name for _, name in sums])}: density wins, and fewer of the"
            " largest elements are dropped",
        )
