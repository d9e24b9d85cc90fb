"""What a config asks of layers and tensor names: ranges, filters, gradients."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from mergekit.common import ModelReference
from mergekit.config import ConditionalParameter

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.layout import OutputSlice, Source
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.host.parameters import PARAMETERS
from mergekit_breadcrumbs.wording import counted, did_you_mean, one_line

_MOST_SOURCES = 300  # mergekit's planner takes the square of it


def check_sources(outputs: list[OutputSlice], problems: Problems) -> bool:
    """Report bases, doubles and layer ranges that mergekit cannot make slices of.

    Returns:
        Whether every layer range is one.
    """
    valid = True
    for output in outputs:
        if not output.sources:
            if output.complete:
                text = "must not be empty"
                problems.add(Code.NOTHING_TO_MERGE, (*output.place, "sources"), text)
            valid = False
            continue
        if len(output.sources) > _MOST_SOURCES:
            text = f"has {len(output.sources):,} models: that is no config"
            problems.add(Code.TOO_LARGE, output.place, text)
            return False
        wanted = _depth(output)
        seen: set[ModelReference] = set()
        once: list[Source] = []
        for source in output.sources:
            if source.model in seen:
                text = "listed twice: mergekit uses a model only once per tensor"
                problems.add(Code.MODEL_TWICE, source.place, text)
            else:
                once.append(source)
            seen.add(source.model)
            by_layers = output.place[-1] != "models"
            if by_layers:
                valid &= _check_range(source, output, problems)
            else:
                valid &= _check_depth(source, wanted, problems)
        output.sources = once
        _check_inputs(output, seen, problems)
    if valid:
        _check_lengths(outputs, problems)
        for output in outputs:
            _check_partners(output, problems)
    return valid


def _check_inputs(
    output: OutputSlice, models: set[ModelReference], problems: Problems
) -> None:
    """Report a slice without its base model, or with nothing else."""
    base, place = output.base, output.place
    if base is None or not output.complete:
        return
    if base not in models:
        text = f"the base model is missing: add {base} with its layer_range"
        problems.add(Code.NO_BASE, (*place, "sources"), text)
    elif len(models) == 1:
        text = f"nothing but the base model {base}"
        problems.add(Code.NOTHING_TO_MERGE, place, text)


def _depth(output: OutputSlice) -> int:
    """Return how many layers the base has, or else the first source."""
    return next(
        (s.total_layers for s in output.sources if s.model == output.base),
        output.sources[0].total_layers,
    )


def _check_depth(source: Source, wanted: int, problems: Problems) -> bool:
    if source.total_layers == wanted:
        return True
    problems.add(
        Code.OTHER_LAYER_COUNT,
        source.place,
        f"has {counted(source.total_layers, 'layer')}, the base has {wanted}: write"
        " slices that say which layers belong together",
    )
    return False


def _check_range(source: Source, output: OutputSlice, problems: Problems) -> bool:
    place = (*source.section.place, "layer_range")
    first, end = source.layers
    # From no layers mergekit may still take what is outside of all of them.
    empty = 0 <= first == end
    if not (empty or 0 <= first < end <= source.total_layers):
        problems.add(
            Code.WRONG_LAYER_RANGE,
            place,
            f"must be [first, end] with 0 <= first < end <= {source.total_layers}, the"
            f" layers of this model; got [{first}, {end}]",
        )
    elif end - first != output.length:
        problems.add(
            Code.WRONG_LAYER_RANGE,
            place,
            f"has {end - first} layers, but the slice's first source has"
            f" {output.length}: all sources of a slice have the same number",
        )
    else:
        return True
    return False


def _check_partners(output: OutputSlice, problems: Problems) -> None:
    """Warn of layers that are merged into other ones of the base.

    In a model of another depth that may be meant.
    """
    base = next((s for s in output.sources if s.model == output.base), None)
    if base is None:
        return
    for source in output.finetuned:
        if source.total_layers == base.total_layers and source.layers != base.layers:
            problems.add(
                Code.OTHER_LAYERS,
                (*source.section.place, "layer_range"),
                f"{list(source.layers)} is merged into the base's {list(base.layers)}:"
                " a task vector is the difference of the same layer",
            )


def check_empty(outputs: list[OutputSlice], problems: Problems) -> None:
    """Report slices of no layers that nothing else is taken from.

    mergekit takes what comes before the layers from the first slice of a module, and
    what comes after them from its last one.
    """
    for output in outputs:
        if not output.length and not output.tensors:
            text = "has no effect: no layer, and no other tensor, is taken from it"
            problems.add(Code.IDLE_SLICE, output.place, text)


def made_layers(outputs: list[OutputSlice]) -> dict[str, int]:
    """Return how many layers the slices of each module make."""
    made = dict.fromkeys((output.module for output in outputs), 0)
    for output in outputs:
        made[output.module] += output.length
    return made


def _check_lengths(outputs: list[OutputSlice], problems: Problems) -> None:
    for module, made in made_layers(outputs).items():
        parts = [part for part in outputs if part.module == module]
        totals = [s.total_layers for p in parts for s in p.sources if s.model == p.base]
        if totals and made != totals[0]:
            problems.add(
                Code.OTHER_TOTAL_OF_LAYERS,
                parts[0].place[:-1],
                f"the slices make {counted(made, 'layer')}, the base has {totals[0]}"
                " (a layer_range ends before its second number)",
            )


class _Reach(NamedTuple):
    """Where settings take effect: names of tensors, and the most layers of a slice."""

    settings: dict[str, Any]
    names: set[str]
    layers: int


def check_settings(
    outputs: list[OutputSlice], architecture_name: str, problems: Problems
) -> None:
    """Report filters that match nothing, and gradients with unused points."""
    reached: dict[Place, _Reach] = {}
    for output in outputs:
        output_names = {tensor.weight.name for tensor in output.tensors}
        for source in output.sources:
            names = {t.called_in(source.model).name for t in output.tensors}
            for place, settings in source.settings():
                _, known, layers = reached.get(place, (None, set(), 0))
                longest = max(layers, output.length)
                reached[place] = _Reach(settings, known | names | output_names, longest)
    for place, reach in reached.items():
        for name in reach.settings.keys() & PARAMETERS.keys():
            for here, wanted, value in _entries((*place, name), reach.settings[name]):
                if isinstance(value, list) and len(value) > max(reach.layers, 1):
                    problems.add(
                        Code.UNUSED_GRADIENT,
                        here,
                        f"a gradient of {len(value)} values over {reach.layers} layers:"
                        " some are never used",
                    )
                if wanted in (None, "", "*") or any(wanted in n for n in reach.names):
                    continue
                problems.add(
                    Code.FILTER_WITHOUT_MATCH,
                    (*here, "filter"),
                    f"no tensor that this applies to has {one_line(wanted)} in its name"
                    f" ({architecture_name}){_filter_hint(str(wanted), reach.names)}",
                )


def _entries(place: Place, setting: Any) -> Iterator[tuple[Place, str | None, Any]]:
    first = setting[0] if isinstance(setting, list) and setting else None
    if isinstance(setting, ConditionalParameter):
        yield place, setting.filter, setting.value
    elif isinstance(first, ConditionalParameter):
        for i, entry in enumerate(setting):
            yield (*place, i), entry.filter, entry.value
    else:
        yield place, None, setting


def _filter_hint(wanted: str, names: set[str]) -> str:
    if re.search(r"[\\*^$|()\[\]]", wanted):
        return ": a filter is part of a name, not a pattern"
    parts = {part for name in names for part in name.split(".")}
    # Part of the name it may be, but of one that another slice has.
    return "" if parts & set(wanted.split(".")) else did_you_mean(wanted, sorted(parts))
