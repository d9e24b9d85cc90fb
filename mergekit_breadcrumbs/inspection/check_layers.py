"""What a config asks of layers: ranges, filters, gradients, resolved parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mergekit.common import ModelReference
from mergekit.config import ConditionalParameter
from mergekit.parameter_resolver import resolve_parameter

from mergekit_breadcrumbs._parameters import PARAMETERS
from mergekit_breadcrumbs.inspection.checked_layout import Member, Slice
from mergekit_breadcrumbs.inspection.problems import (
    Place,
    Problems,
    counted,
    nearest,
    shown,
    some,
)

_SPECS = {parameter.name: parameter for parameter in PARAMETERS}


def check_sources(slices: list[Slice], problems: Problems) -> bool:
    """Report bases, doubles and layer ranges that mergekit cannot make slices of.

    Returns:
        Whether every layer range is one.
    """
    ranges = True
    for part in slices:
        if not part.members:
            if part.whole:
                problems.error((*part.place, "sources"), "must not be empty")
            ranges = False
            continue
        by_layers = part.place[-1] != "models"
        seen: dict[ModelReference, Place] = {}
        for member in part.members:
            if member.model in seen:
                text = "listed twice: mergekit takes a model once for each tensor"
                problems.error((*member.place, "model"), text)
            seen[member.model] = member.place
            if not by_layers:
                ranges &= _check_depth(member, part, problems)
            if by_layers:
                ranges &= _check_range(member, part, problems)
        if part.base is None or not part.whole:
            continue
        if part.base not in seen:
            problems.error(
                (*part.place, "sources"),
                f"the base model is missing: add {part.base} with its layer_range",
            )
        elif len(seen) == 1:
            problems.error(part.place, f"nothing but the base model {part.base}")
    if ranges:
        _check_lengths(slices, problems)
    return ranges


def _check_depth(member: Member, part: Slice, problems: Problems) -> bool:
    wanted = next(
        (m.total_layers for m in part.members if m.model == part.base),
        part.members[0].total_layers,
    )
    if member.total_layers == wanted:
        return True
    problems.error(
        (*member.place, "model"),
        f"has {counted(member.total_layers, 'layer')}, the base has {wanted}: write"
        " slices that say which layers belong together",
    )
    return False


def _check_range(member: Member, part: Slice, problems: Problems) -> bool:
    place = (*member.place, "layer_range")
    first, end = member.layers
    if not 0 <= first < end <= member.total_layers:
        problems.error(
            place,
            f"must be [first, end] with 0 <= first < end <= {member.total_layers}, the"
            f" layers of this model; got [{first}, {end}]",
        )
    elif end - first != part.length:
        problems.error(
            place,
            f"has {end - first} layers, but the slice's first source has"
            f" {part.length}: all sources of a slice have the same number",
        )
    else:
        return True
    return False


def _check_lengths(slices: list[Slice], problems: Problems) -> None:
    for module in {part.module: None for part in slices}:
        parts = [part for part in slices if part.module == module]
        totals = [m.total_layers for p in parts for m in p.members if m.model == p.base]
        made = sum(part.length for part in parts)
        if totals and made != totals[0]:
            problems.warning(
                parts[0].place[:-1],
                f"the slices make {counted(made, 'layer')}, the base has {totals[0]}"
                " (the second number of a layer_range is the first one left out)",
            )


def check_settings(slices: list[Slice], kind: str, problems: Problems) -> None:
    """Report filters that match nothing, and gradients with unused points."""
    reach: dict[Place, tuple[dict[str, Any], set[str], int]] = {}
    for part in slices:
        outputs = {row.weight.name for row in part.rows}
        for i, member in enumerate(part.members):
            names = {row.inputs[i].name for row in part.rows}
            for place, settings in member.scopes:
                _, known, layers = reach.get(place, (None, set(), 0))
                reach[place] = (
                    settings,
                    known | names | outputs,
                    max(layers, part.length),
                )
    for place, (settings, names, layers) in reach.items():
        for name, setting in settings.items():
            if name not in _SPECS:
                continue
            for here, wanted, value in _entries((*place, name), setting):
                if isinstance(value, list) and len(value) > layers:
                    problems.warning(
                        here,
                        f"a gradient of {len(value)} values over {layers} layers: some"
                        " are never used",
                    )
                if wanted and wanted != "*" and not any(wanted in n for n in names):
                    text = "no tensor that this is for has"
                    text += f" {shown(wanted)} in its name ({kind})"
                    text += _filter_hint(wanted, names)
                    problems.error((*here, "filter"), text)


def _entries(place: Place, setting: Any) -> Iterator[tuple[Place, str | None, Any]]:
    if isinstance(setting, ConditionalParameter):
        yield place, setting.filter, setting.value
    elif isinstance(setting, list) and setting and not isinstance(setting[0], str):
        if isinstance(setting[0], ConditionalParameter):
            for i, entry in enumerate(setting):
                yield (*place, i), entry.filter, entry.value
        else:
            yield place, None, setting
    elif isinstance(setting, list):
        yield place, None, setting


def _filter_hint(wanted: str, names: set[str]) -> str:
    if re.search(r"[\\*^$|()\[\]]", wanted):
        return ": a filter is a part of the name, not a pattern"
    parts = {part for name in names for part in name.split(".")}
    # Part of the name it may be, but of one that another slice has.
    return "" if parts & set(wanted.split(".")) else nearest(wanted, sorted(parts))


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
                where = "" if len(missing) == len(part.rows) else some(missing)
                problems.error((*place, "weight"), f"missing{where}: set it")
            if too_much:
                problems.warning(
                    _nearest_setting(member, ("density", "gamma")),
                    f"density + gamma is {too_much[0][1]:g}, more than 1,"
                    f"{some([name for name, _ in too_much])}: density wins, and fewer"
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
