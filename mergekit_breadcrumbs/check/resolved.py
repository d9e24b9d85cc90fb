"""What the parameters of a config resolve to, for each tensor of each model."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from mergekit.parameter_resolver import resolve_parameter

from mergekit_breadcrumbs.check.attempt import attempt
from mergekit_breadcrumbs.check.layout import OutputSlice, Source
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.host.parameters import (
    DENSITY_IS_UNSET,
    PARAMETERS,
    UnsetDensity,
)
from mergekit_breadcrumbs.host.planner import PlannedTensor
from mergekit_breadcrumbs.wording import listed


class Resolved(NamedTuple):
    """A value of one parameter for one tensor of one model.

    `value` is None where there is none: nothing is set, or what is set is `refused`.
    """

    value: Any
    refused: bool = False


def check_resolved(slices: list[OutputSlice], problems: Problems) -> None:
    """Report weights that are missing, and fractions that do not fit together.

    Resolves them as mergekit does, for each tensor of each model.
    """
    densities: set[Any] = set()
    weights: set[Any] = set()
    for output_slice in slices:
        for source in output_slice.finetuned:
            found = {
                name: _resolve_all(name, source, output_slice)
                for name in ("weight", "density", "gamma")
            }
            densities.update(resolved.value for resolved in found["density"])
            weights.update(resolved.value for resolved in found["weight"])
            _check_weight(found["weight"], source, output_slice, problems)
            _check_fractions(
                found["density"], found["gamma"], source, output_slice, problems
            )
    sources = [source for output_slice in slices for source in output_slice.finetuned]
    for name, values, only, meaning in (
        (
            "density",
            densities,
            1,
            "nothing is masked: this merge is plain task arithmetic",
        ),
        ("density", densities, 0, "nothing is kept: this merge is the base model"),
        ("weight", weights, 0, "nothing is added: this merge is the base model"),
    ):
        if values == {only}:
            text = f"every {name} is {only}, so {meaning}"
            problems.warning(sources[0].setting_place(name), text)


def _check_weight(
    weights: list[Resolved],
    source: Source,
    output_slice: OutputSlice,
    problems: Problems,
) -> None:
    names = [tensor.called_in(source.model).name for tensor in output_slice.tensors]
    missing = [
        name
        for name, weight in zip(names, weights, strict=True)
        if weight.value is None and not weight.refused
    ]
    if missing and not problems.cover(*source.possible_places("weight")):
        which = "" if len(missing) == len(names) else f" for {listed(missing)}"
        place = (*source.section.place, "parameters", "weight")
        problems.error(place, f"missing{which}: set it")


def _check_fractions(
    densities: list[Resolved],
    gammas: list[Resolved],
    source: Source,
    output_slice: OutputSlice,
    problems: Problems,
) -> None:
    too_much: list[tuple[str, float]] = []
    for tensor, (density, _), (gamma, _) in zip(
        output_slice.tensors, densities, gammas, strict=True
    ):
        if isinstance(density, UnsetDensity):
            places = source.possible_places("density")
            if not problems.cover(*places, warnings=True):
                problems.warning(("parameters", "density"), DENSITY_IS_UNSET)
        known = density is not None and gamma is not None
        # Density 1 says plainly that everything is wanted; gamma is then its default.
        if known and density < 1 and density + gamma > 1:
            too_much.append((tensor.called_in(source.model).name, density + gamma))
    if too_much:
        names = listed([name for name, _ in too_much])
        problems.warning(
            source.setting_place("density", "gamma"),
            f"density + gamma is {too_much[0][1]:g}, more than 1, for {names}: density"
            " wins, and fewer of the largest elements are dropped",
        )


def _resolve_all(
    name: Literal["weight", "density", "gamma"],
    source: Source,
    output_slice: OutputSlice,
) -> list[Resolved]:
    settings = [settings for _, settings in source.settings()]
    return [_resolve(name, settings, source, tensor) for tensor in output_slice.tensors]


def _resolve(
    name: str, settings: list[dict[str, Any]], source: Source, tensor: PlannedTensor
) -> Resolved:
    try:
        value, error = attempt(
            resolve_parameter,
            PARAMETERS[name],
            settings,
            tensor_name=tensor.called_in(source.model).name,
            t=tensor.depth,
            model=source.model,
        )
    except ValueError:  # said where the file's own values are checked
        return Resolved(None, refused=True)
    # Of a parameter that is set nowhere mergekit says so with a RuntimeError.
    refused = error is not None and not isinstance(error, RuntimeError)
    return Resolved(value, refused)
