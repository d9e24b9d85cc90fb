"""Parameters as they are written: their names, values, filters, and where they stand.

mergekit ignores a parameter whose name it does not know, and one that it does not read
at the level where it stands. All that is needed here is the file.
"""

from __future__ import annotations

import re
from typing import Any

from mergekit.merge_methods.base import ParameterScope

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.check.schema import read_reference
from mergekit_breadcrumbs.check.sections import sections
from mergekit_breadcrumbs.host.parameters import PARAMETERS, CheckedParameter
from mergekit_breadcrumbs.wording import did_you_mean, one_line

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
_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")
_COMMA = re.compile(r"[0-9]+,[0-9]+")


def check_parameters(data: dict[Any, Any], problems: Problems) -> None:
    """Report every parameter that is unknown, misplaced, without effect or invalid."""
    for section in sections(data):
        settings = section.get("parameters")
        if not isinstance(settings, dict):
            continue
        is_base = section.is_input and _same(section.get("model"), section.base_model)
        for name, setting in settings.items():
            place = (*section.place, "parameters", name)
            parameter = PARAMETERS.get(name)
            if parameter is None:
                text = f"unknown parameter{_hint(name, setting)}"
                problems.add(Code.UNKNOWN_PARAMETER, place, text)
            elif is_base:
                text = "has no effect: this is the base model"
                problems.add(Code.PARAMETER_OF_BASE, place, text)
            elif section.is_input and parameter.scope is ParameterScope.SHARED:
                # A flag that changes nothing where it is read changes nothing here.
                if name != "int8_mask":
                    problems.add(
                        Code.SHARED_BESIDE_MODEL,
                        place,
                        "is ignored beside a model: it applies to the whole merge, so"
                        " write it under the parameters of the file",
                    )
            else:
                _check_setting(parameter, setting, place, problems)


def drop_refused(data: dict[Any, Any], problems: Problems) -> None:
    """Take out of a config the parameters at whose place an error is known.

    So the rest of the file can be checked in the same run.
    """
    for section in sections(data):
        settings, place = section.get("parameters"), (*section.place, "parameters")
        if isinstance(settings, dict):
            section.content["parameters"] = {
                name: setting
                for name, setting in settings.items()
                if not problems.cover((*place, name))
            }


def _same(model: Any, base: Any) -> bool:
    reference, _ = read_reference(model)
    return reference is not None and reference == read_reference(base)[0]


def _hint(name: Any, setting: Any) -> str:
    if name in _HINTS:
        return f"; {_HINTS[name]}"
    if isinstance(name, int) and setting is None:  # as 9 is in {density: 0,9}
        return "; in numbers write a point, not a comma"
    return did_you_mean(name, PARAMETERS)


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
            problems.add(
                Code.WRONG_CONDITION,
                here,
                "a list holds either values (a gradient) or entries with value and"
                f" filter, not both; got {one_line(entry)}",
            )
            continue
        if catch_all is not None:
            text = "is never used: an earlier entry matches every tensor"
            problems.add(Code.UNREACHED_CONDITION, here, text)
        if "value" not in entry:
            text = f"value is missing; got {one_line(entry)}"
            problems.add(Code.WRONG_CONDITION, here, text)
        else:
            _check_values(parameter, entry["value"], (*here, "value"), problems)
        wanted = entry.get("filter")
        if wanted is not None and not isinstance(wanted, str):
            text = f"must be text, part of a tensor's name; got {one_line(wanted)}"
            problems.add(Code.WRONG_CONDITION, (*here, "filter"), text)
        if wanted in (None, "", "*"):
            catch_all = here


def _check_values(
    parameter: CheckedParameter, value: Any, place: Place, problems: Problems
) -> None:
    """Check one value, or each of a gradient, by the rule that a merge has."""
    values = [(place, value)]
    if isinstance(value, list):
        values = [((*place, i), inner) for i, inner in enumerate(value)]
        if not value:
            text = "is empty, which is the same as not set"
            problems.add(Code.EMPTY_SETTING, place, text)
    for here, scalar in values:
        if not isinstance(scalar, (bool, int, float, str)):
            problems.add(
                Code.WRONG_PARAMETER_VALUE,
                here,
                f"{parameter.name} must be {parameter.must_be}; got"
                f" {'nothing' if scalar is None else one_line(scalar)}",
            )
            continue
        try:
            number = parameter.validate(scalar)
        except ValueError as error:
            text = f"{error}{_likely_meant(parameter, scalar)}"
            problems.add(Code.WRONG_PARAMETER_VALUE, here, text)
        # An integer of more digits than a float can have.
        except OverflowError as error:
            text = f"{parameter.name}: {error}"
            problems.add(Code.WRONG_PARAMETER_VALUE, here, text)
        else:
            if parameter.name in ("weight", "lambda") and abs(number) >= 10:
                problems.add(
                    Code.LARGE_WEIGHT,
                    here,
                    f"a {parameter.name} of {number:g} makes the task vector that many"
                    f" times longer{_as_fraction(number)}",
                )


def _likely_meant(parameter: CheckedParameter, value: Any) -> str:
    if isinstance(value, str) and parameter.value_type is float:
        if found := _PERCENT.fullmatch(value):
            return _as_fraction(float(found[1]))
        if _COMMA.fullmatch(value):
            return f" (with a point: {value.replace(',', '.')})"
    if not parameter.is_fraction or isinstance(value, (bool, str)):
        return ""
    return _as_fraction(value) if 1 < value <= 100 else ""


def _as_fraction(value: float) -> str:
    return (
        f" (as a fraction, {value:g} percent is {value / 100:g})"
        if abs(value) <= 1000
        else ""
    )
