"""The keys at the top of a config that stand for the whole merge."""

from __future__ import annotations

from typing import Any

from mergekit import merge_methods
from mergekit.common import dtype_from_name
from mergekit.config import MergeConfiguration

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.sections import sections
from mergekit_breadcrumbs.host.chat_templates import chat_templates
from mergekit_breadcrumbs.host.method import METHODS, BreadcrumbsMerge
from mergekit_breadcrumbs.wording import did_you_mean, one_line

_NAMES = tuple(method.spec.name for method in METHODS)
# Keys that only they have, and that no config for them is without.
_OTHER_COMMANDS = {
    "experts": "mergekit-moe",
    "genome": "mergekit-evolve",
    "layer_slices": "bakllama",
}
_DTYPES = ("bfloat16", "float16", "float32", "float64")


def check_header(data: dict[Any, Any], problems: Problems) -> None:
    """Report a method that is not ours, and what mergekit looks at only later."""
    _check_method(data.get("merge_method"), problems)
    for key in ("dtype", "out_dtype"):
        _check_dtype(key, data.get(key), problems)
    _check_template(data.get("chat_template"), problems)


def is_for_another_command(data: dict[Any, Any], problems: Problems) -> bool:
    """Whether the keys are those of another command of mergekit, which is reported."""
    if "merge_method" in data:
        return False
    for key, command in _OTHER_COMMANDS.items():
        if key in data:
            text = f"this is a config for {command}: run that; it cannot be inspected"
            problems.add(Code.OTHER_COMMAND, (key,), text)
            return True
    return False


def check_base(config: MergeConfiguration, problems: Problems) -> None:
    """Report where there is no base model."""
    if config.base_model is not None:
        return
    found = list(sections(config))
    slices = [section for section in found if section.kind == "output slice"]
    without = [section for section in slices if section.base_model is None]
    text = "missing: write the model that the others were fine-tuned from"
    if without == slices or any(section.kind == "model" for section in found):
        problems.add(Code.NO_BASE, ("base_model",), text)
        return
    for section in without:
        problems.add(Code.NO_BASE, (*section.place, "base_model"), text)


def _check_method(name: Any, problems: Problems) -> None:
    if not isinstance(name, str):
        return
    place = ("merge_method",)
    if name not in _NAMES:
        text = f"must be {' or '.join(_NAMES)} for inspect; got {one_line(name)}"
        hint = "" if name in other_methods() else did_you_mean(name, _NAMES)
        problems.add(Code.OTHER_METHOD, place, text + hint)
    elif not isinstance(merge_methods.get(name), BreadcrumbsMerge):
        text = "another implementation is in use: see mergekit-breadcrumbs status"
        problems.add(Code.OTHER_IMPLEMENTATION, place, text)


def other_methods() -> set[str]:
    """Return the names of mergekit's methods that this package does not serve."""
    known = {method.spec.name for method in merge_methods.registered_methods()}
    return known - set(_NAMES)


def _check_dtype(key: str, name: Any, problems: Problems) -> None:
    try:
        # mergekit also knows int64, which only buffers can have.
        known = not dtype_from_name(name) or dtype_from_name(name).is_floating_point
        # It also knows the prefix, which ends up in config.json and cannot be loaded.
        known = known and not str(name).startswith("torch.")
    except RuntimeError:
        known = False
    except (AttributeError, TypeError):  # not text, which is told elsewhere
        return
    if not known:
        near = {"bf16": "bfloat16", "fp16": "float16", "half": "float16"}.get(
            name, name[6:] if name[6:] in _DTYPES else None
        )
        hint = f"; did you mean {near}?" if near else did_you_mean(name, _DTYPES)
        text = f"must be one of {', '.join(_DTYPES)}; got {one_line(name)}"
        problems.add(Code.UNKNOWN_DTYPE, (key,), text + hint)


def _check_template(template: Any, problems: Problems) -> None:
    """Apply the rule that mergekit applies when the merged model is written."""
    if not isinstance(template, str) or not template:
        return
    names = chat_templates()
    is_template = "{" in template and len(template) >= 20
    if template not in ("auto", *names) and not is_template:
        text = f"must be auto, {', '.join(names)} or a Jinja template; got"
        text += f" {one_line(template)}{did_you_mean(template, names)}"
        problems.add(Code.UNKNOWN_CHAT_TEMPLATE, ("chat_template",), text)
