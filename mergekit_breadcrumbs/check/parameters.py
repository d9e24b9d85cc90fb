"""Parameters as they are written: their names, values, filters, and where they stand.

mergekit ignores a parameter whose name it does not know, and one that it does not read
at the level where it stands. All that is needed here is the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mergekit.common import ModelReference
from mergekit.merge_methods.base import ParameterScope

from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.host.parameters import PARAMETERS, CheckedParameter
from mergekit_breadcrumbs.wording import did_you_mean, one_line

_KNOWN = {parameter.name: parameter for parameter in PARAMETERS}
# Names from the paper, from its authors' code and from other methods.
_HINTS = {
    "alpha": "the paper's alpha is lambda here",
    "beta": "three code bases give it three meanings: write density for the fraction"
    " kept, gamma for the fraction of the largest dropped",
    "epsilon": "that is a parameter of della; here density and gamma say what is"
    " dropped",
    "scale": "the scale of the summed task vectors is lambda",
    "scaling": "the scale of the summed task vectors is lambda",
    "scaling_factor": "the scale of the summed task vectors is lambda",
    "lambda_": "in a config it is written lambda",
    "t": "that is a parameter of slerp; here each model has a weight",
    "select_topk": "that is a parameter of sce; here it is density",
    "top_k": "the fraction kept is density",
    "topk": "the fraction kept is density",
    "sparsity": "the fraction dropped is what density and gamma leave",
    "drop_rate": "the fraction dropped is what density and gamma leave",
}


@dataclass(frozen=True)
class Block:
    """One `parameters:` of the file; `model` and `base` only beside a model."""

    place: Place
    settings: dict[Any, Any]
    model: Any = None
    base: Any = None


def parameter_blocks(data: dict[Any, Any]) -> Iterator[Block]:
    """Yield every `parameters:` of a config as it was written."""
    base = data.get("base_model")
    yield from _block((), data)
    yield from _section_blocks((), data, base)
    for name, module in mappings_in(data.get("modules")):
        yield from _block(("modules", name), module)
        yield from _section_blocks(("modules", name), module, base)


def _section_blocks(place: Place, data: dict[Any, Any], base: Any) -> Iterator[Block]:
    for i, entry in mappings_in(data.get("models")):
        yield from _block((*place, "models", i), entry, base)
    for i, entry in mappings_in(data.get("slices")):
        here = (*place, "slices", i)
        yield from _block(here, entry)
        for j, source in mappings_in(entry.get("sources")):
            slice_base = entry.get("base_model") or base
            yield from _block((*here, "sources", j), source, slice_base)


def _block(place: Place, entry: dict[Any, Any], base: Any = None) -> Iterator[Block]:
    settings = entry.get("parameters")
    if isinstance(settings, dict):
        yield Block((*place, "parameters"), settings, entry.get("model"), base)


def mappings_in(value: Any) -> list[tuple[Any, dict[Any, Any]]]:
    """Return the mappings in a list or a mapping, with their positions or keys."""
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    return [(key, inner) for key, inner in pairs if isinstance(inner, dict)]


def check_parameters(data: dict[Any, Any], problems: Problems) -> None:
    """Report every parameter that is unknown, misplaced, without effect or invalid."""
    for block in parameter_blocks(data):
        beside_model = "models" in block.place or "sources" in block.place
        is_base = beside_model and _same(block.model, block.base)
        for name, setting in block.settings.items():
            place = (*block.place, name)
            parameter = _KNOWN.get(name)
            if parameter is None:
                problems.error(place, f"unknown parameter{_hint(name)}")
            elif is_base:
                problems.warning(place, "has no effect: this is the base model")
            elif beside_model and parameter.scope is ParameterScope.SHARED:
                # A flag that changes nothing where it is read changes nothing here.
                if name != "int8_mask":
                    problems.error(
                        place,
                        "is ignored beside a model: it is one value for all, write it"
                        " under the parameters of the file",
                    )
            else:
                _check_setting(parameter, setting, place, problems)


def without_errors(data: Any, problems: Problems, place: Place = ()) -> Any:
    """Return a config without the parameters at whose place an error is known.

    So the rest of the file can be checked in the same run.
    """
    # No more than these keys, because an anchor may lead back to where it stands.
    sections = ("parameters", "models", "slices", "sources", "modules")
    if len(place) > 8:
        return data
    if isinstance(data, list):
        return [
            without_errors(inner, problems, (*place, i)) for i, inner in enumerate(data)
        ]
    if not isinstance(data, dict):
        return data
    if place and place[-1] == "parameters":
        return {k: v for k, v in data.items() if not problems.covers((*place, k))}
    named = bool(place) and place[-1] == "modules"
    return {
        key: without_errors(inner, problems, (*place, key))
        if named or key in sections
        else inner
        for key, inner in data.items()
    }


def _same(model: Any, base: Any) -> bool:
    try:
        a, b = map(ModelReference.model_validate, (model, base))
    except Exception:  # told elsewhere, where the reference itself is checked
        return False
    return bool(a == b)


def _hint(name: Any) -> str:
    if name in _HINTS:
        return f"; {_HINTS[name]}"
    return did_you_mean(name, _KNOWN)


def _check_setting(
    parameter: CheckedParameter, setting: Any, place: Place, problems: Problems
) -> None:
    if isinstance(setting, dict):
        setting, entries = [], [(place, setting)]
    elif isinstance(setting, list) and any(isinstance(e, dict) for e in setting):
        entries = [((*place, i), entry) for i, entry in enumerate(setting)]
    else:
        _check_values(parameter, setting, place, problems)
        return
    catch_all: Place | None = None
    for here, entry in entries:
        if not isinstance(entry, dict):
            problems.error(
                here,
                "a list is either of values (a gradient) or of entries with value and"
                f" filter, not of both; got {one_line(entry)}",
            )
            continue
        if catch_all is not None:
            problems.warning(
                here, "is never used: an entry before it is for every tensor"
            )
        if "value" not in entry:
            problems.error(here, f"value is missing; got {one_line(entry)}")
        else:
            _check_values(parameter, entry["value"], (*here, "value"), problems)
        wanted = entry.get("filter")
        if wanted is not None and not isinstance(wanted, str):
            text = f"must be text, a part of tensor names; got {one_line(wanted)}"
            problems.error((*here, "filter"), text)
        if wanted in (None, "*"):
            catch_all = here


def _check_values(
    parameter: CheckedParameter, value: Any, place: Place, problems: Problems
) -> None:
    """Check one value, or each of a gradient, by the rule that a merge has."""
    values = [(place, value)]
    if isinstance(value, list):
        values = [((*place, i), inner) for i, inner in enumerate(value)]
        if not value:
            problems.warning(place, "is empty: as if it were not set")
    for here, scalar in values:
        if not isinstance(scalar, (bool, int, float, str)):
            problems.error(
                here,
                f"{parameter.name} must be {parameter.must_be}; got"
                f" {'nothing' if scalar is None else one_line(scalar)}",
            )
            continue
        try:
            number = parameter.validate(scalar)
        except ValueError as error:
            problems.error(here, f"{error}{_percent(parameter, scalar)}")
        # An integer of more digits than a float can have.
        except OverflowError as error:
            problems.error(here, f"{parameter.name}: {error}")
        else:
            if parameter.name == "weight" and abs(number) >= 10:
                text = f"a weight of {number:g} makes the task vector that much longer"
                problems.warning(here, text + _as_fraction(number))


def _percent(parameter: CheckedParameter, value: Any) -> str:
    if parameter.must_be != "in [0, 1]" or isinstance(value, (bool, str)):
        return ""
    if not 1 < value <= 100:
        return ""
    return _as_fraction(value)


def _as_fraction(value: float) -> str:
    return f" (as a fraction, {value:g} percent is {value / 100:g})"
