"""What a config asks of layers and tensor names: ranges, filters, gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mergekit.common import ModelReference
from mergekit.config import ConditionalParameter

from mergekit_breadcrumbs.check.layout import Member, Slice
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.host.parameters import PARAMETERS
from mergekit_breadcrumbs.wording import counted, did_you_mean, one_line

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
                    text += f" {one_line(wanted)} in its name ({kind})"
                    text += _filter_hint(wanted, names)
                    problems.error((*here, "filter"), text)


def _entries(place: Place, setting: Any) -> Iterator[tuple[Place, str | None, Any]]:
    if isinstance(setting, ConditionalParameter):
        yield place, setting.filter, setting.value
    elif isinstance(setting, list) and _is_conditional(setting):
        for i, entry in enumerate(setting):
            yield (*place, i), entry.filter, entry.value
    else:
        yield place, None, setting


def _is_conditional(setting: list[Any]) -> bool:
    return bool(setting) and isinstance(setting[0], ConditionalParameter)


def _filter_hint(wanted: str, names: set[str]) -> str:
    if re.search(r"[\\*^$|()\[\]]", wanted):
        return ": a filter is a part of the name, not a pattern"
    parts = {part for name in names for part in name.split(".")}
    # Part of the name it may be, but of one that another slice has.
    return "" if parts & set(wanted.split(".")) else did_you_mean(wanted, sorted(parts))
