"""The shape of a config: keys that nobody reads, and what mergekit cannot parse."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from pydantic import BaseModel, ValidationError

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.config_file import ConfigFile, is_index
from mergekit_breadcrumbs.check.problems import Place, Problems, place_name
from mergekit_breadcrumbs.check.sections import Section, sections
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.parameters import PARAMETERS
from mergekit_breadcrumbs.wording import did_you_mean, missing_space, one_line

_PLAIN = {
    "missing": "missing",
    "model_type": "must be a mapping (name: value)",
    "model_attributes_type": "must be a mapping (name: value)",
    "dict_type": "must be a mapping (name: value)",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "string_type": "must be text",
}


def check_keys(file: ConfigFile, problems: Problems) -> None:
    """Report keys that nobody reads, and sections that are not what mergekit needs."""
    data = file.data
    # By custom what begins with x- holds anchors, too.
    aside = {k for k in data if str(k).startswith("x-") or str(k) in file.shelves}
    aside -= MergeConfiguration.model_fields.keys()
    read = {key: value for key, value in data.items() if key not in aside}
    _check_keys([MergeConfiguration], read, (), problems)
    for section in sections(data):
        if section.kind in ("file", "module"):
            _check_one_of(section, problems)
    if data.get("tokenizer_source") and data.get("tokenizer"):
        problems.add(
            Code.CONFLICTING_KEYS,
            ("tokenizer_source",),
            "tokenizer is set as well: only one of the two may be",
        )


def report_refusal(
    error: Exception, data: Any, place: Place, problems: Problems
) -> None:
    """Report why mergekit cannot parse what stands at a place.

    Nothing is said of a value whose error has been said.
    """
    if isinstance(error, ValidationError):
        _report_each(error, data, place, problems)
    elif place:
        text = str(error)
        if text.startswith("Can't parse"):
            text = f"must be MODEL or MODEL+ADAPTER; got {one_line(data)}"
        problems.add(Code.WRONG_VALUE, place, text)
    # mergekit's validators raise RuntimeError, which pydantic passes on without a
    # place; what they refuse has been found above, unless mergekit has learnt more.
    elif not problems.count("error"):
        problems.add(Code.WRONG_VALUE, place, str(error))


def read_reference(value: Any) -> tuple[ModelReference | None, Exception | None]:
    """Return a reference to a model as mergekit reads it, or why it cannot."""
    return attempt(ModelReference.model_validate, value)


def _check_one_of(section: Section, problems: Problems) -> None:
    keys = ["models", "slices"]
    if section.kind == "file":
        keys.append("modules")
    present = [key for key in keys if section.get(key)]
    if len(present) != 1:
        one_of = f"exactly one of {', '.join(keys[:-1])} and {keys[-1]}"
        got = " and ".join(present) or "none"
        text = f"{one_of} must be present and not empty; got {got}"
        problems.add(Code.CONFLICTING_KEYS, section.place, text)


def _check_keys(
    classes: list[type[BaseModel]], value: Any, place: Place, problems: Problems
) -> None:
    """Report keys that none of the classes knows: pydantic ignores them silently."""
    known = {n: f.annotation for c in classes for n, f in c.model_fields.items()}
    for key, inner in value.items():
        here = (*place, key)
        if key in known:
            _descend(known[key], inner, here, problems)
        elif not place and key == "name":
            reason = "has no effect: only mergekit-multi reads it"
            problems.add(Code.KEY_WITHOUT_EFFECT, here, reason)
        elif key in PARAMETERS and "parameters" in known:
            where = place_name((*place, "parameters"))
            text = f"is a parameter: write it under {where}"
            problems.add(Code.MISPLACED_PARAMETER, here, text)
        else:
            names = f" (known here: {', '.join(known)})"
            text = did_you_mean(key, known) or names
            text = f"unknown key, ignored by mergekit{text}"
            problems.add(Code.UNKNOWN_KEY, here, text)


def _descend(annotation: Any, value: Any, place: Place, problems: Problems) -> None:
    kinds = list(_alternatives(annotation))
    if isinstance(value, dict):
        models = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        if models:
            _check_keys(models, value, place, problems)
            return
        for kind in kinds:
            if get_origin(kind) is dict:
                for key, inner in value.items():
                    _descend(get_args(kind)[1], inner, (*place, key), problems)
    elif isinstance(value, list):
        for kind in kinds:
            if get_origin(kind) is list:
                for i, inner in enumerate(value):
                    _descend(get_args(kind)[0], inner, (*place, i), problems)
    elif isinstance(value, str) and ModelReference in kinds:
        _, error = read_reference(value)
        if error is not None:
            report_refusal(error, value, place, problems)


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        for inner in get_args(annotation):
            yield from _alternatives(inner)
    else:
        yield annotation


def _report_each(
    error: ValidationError, data: Any, around: Place, problems: Problems
) -> None:
    for found in error.errors():
        place, inner = around, data
        # What does not lead further is the name of a type among several.
        for step in found["loc"]:
            listed = isinstance(inner, list) and is_index(step, inner)
            if listed or (isinstance(inner, dict) and step in inner):
                inner = inner[step]
            else:
                if found["type"] == "missing" and step == found["loc"][-1]:
                    place = (*place, step)
                break
            place = (*place, step)
        if problems.cover(place):
            continue
        code, text = Code.WRONG_VALUE, _PLAIN.get(found["type"]) or found["msg"]
        if text == "missing":
            code = Code.MISSING_KEY
            if place == ("merge_method",):
                text += ": write merge_method: breadcrumbs, or breadcrumbs_ties"
        else:
            text = f"{text[0].lower()}{text[1:]}; got {one_line(inner)}"
            text += missing_space(inner)
        problems.add(code, place, text)
