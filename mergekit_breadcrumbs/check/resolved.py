"""What the parameters of a config resolve to, for each tensor of each model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mergekit.parameter_resolver import resolve_parameter

from mergekit_breadcrumbs.check.layout import Member, Slice
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.host.parameters import PARAMETERS
from mergekit_breadcrumbs.wording import listed

_SPECS = {parameter.name: parameter for parameter in PARAMETERS}


def check_resolved(slices: list[Slice], problems: Problems) -> None:
    """Report weights that are missing, and fractions that do not fit together.

    Resolves them as mergekit does, for each tensor of each model.
    """
    densities, weights = set(), set()
    for part in slices:
        for i, member in part.finetuned:
            missing: list[str] = []
            too_much: list[tuple[str, float]] = []
            for row in part.rows:
                name = row.inputs[i].name
                weight, density, gamma = (
                    _resolve(key, member, name, row.depth)
                    for key in ("weight", "density", "gamma")
                )
                densities.add(density)
                weights.add(weight)
                if weight == "missing":
                    missing.append(name)
                told = density is None or gamma is None
                if not told and density < 1 and density + gamma > 1:
                    too_much.append((name, density + gamma))
            place = (*member.place, "parameters")
            if missing and not _told(member, "weight", problems):
                where = (
                    "" if len(missing) == len(part.rows) else f" for {listed(missing)}"
                )
                problems.error((*place, "weight"), f"missing{where}: set it")
            if too_much:
                problems.warning(
                    _nearest_setting(member, ("density", "gamma")),
                    f"density + gamma is {too_much[0][1]:g}, more than 1,"
                    f" for {listed([name for name, _ in too_much])}: density wins, and fewer"
                    " of the largest elements are dropped",
                )
    for key, values, only, meaning in (
        (
            "density",
            densities,
            1.0,
            "nothing is masked: this merge is plain task arithmetic",
        ),
        ("density", densities, 0.0, "nothing is kept: this merge is the base model"),
        ("weight", weights, 0.0, "nothing is added: this merge is the base model"),
    ):
        if values == {only}:
            members = [member for part in slices for _, member in part.finetuned]
            problems.warning(
                _nearest_setting(members[0], (key,)),
                f"every {key} is {only:g}, so {meaning}",
            )


def _resolve(key: str, member: Member, tensor: str, depth: float) -> Any:
    """Return a value, None where it is invalid (told already), or "missing"."""
    settings = [settings for _, settings in member.scopes]
    try:
        return resolve_parameter(
            _SPECS[key], settings, tensor_name=tensor, t=depth, model=member.model
        )
    except (ValueError, OverflowError):
        return None
    except RuntimeError:
        return "missing"


def _told(member: Member, key: str, problems: Problems) -> bool:
    places = [(*member.place, key), *((*p, key) for p in _levels(member))]
    return any(map(problems.covers, places))


def _levels(member: Member) -> Iterator[Place]:
    """Yield where parameters of a source may stand, from the nearest on."""
    place = member.place
    for length in range(len(place), -1, -1):
        yield (*place[:length], "parameters")


def _nearest_setting(member: Member, keys: tuple[str, ...]) -> Place:
    for place, settings in member.scopes:
        for key in keys:
            if key in settings:
                return (*place, key)
    return (*member.place, "parameters")
