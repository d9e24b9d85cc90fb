"""All that can be wrong with a config, found before any tensor is read."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mergekit import merge_methods
from mergekit._data import chat_templates
from mergekit.architecture import ModelArchitecture, get_architecture_info
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs._notices import NOTICES
from mergekit_breadcrumbs.inspection.check_layers import (
    check_resolved,
    check_settings,
    check_sources,
)
from mergekit_breadcrumbs.inspection.check_models import (
    Found,
    check_architectures,
    find_models,
)
from mergekit_breadcrumbs.inspection.check_parameters import (
    check_parameters,
    mappings_in,
    without_errors,
)
from mergekit_breadcrumbs.inspection.check_plan import check_plan, logged
from mergekit_breadcrumbs.inspection.check_schema import (
    check_keys,
    check_reference,
    parse,
)
from mergekit_breadcrumbs.inspection.check_tensors import check_tensors
from mergekit_breadcrumbs.inspection.check_yaml import read_source
from mergekit_breadcrumbs.inspection.checked_layout import add_rows, lay_out
from mergekit_breadcrumbs.inspection.problems import (
    Place,
    Problems,
    nearest,
    place_name,
    shown,
)
from mergekit_breadcrumbs.method import METHODS, BreadcrumbsMerge

_NAMES = tuple(method.spec.name for method in METHODS)
_DTYPES = ("bfloat16", "float16", "float32", "float64")


@dataclass
class Checked:
    """A config after its checks.

    `config` is None where mergekit cannot read the file; the counts are 0 where errors
    kept mergekit's planner from counting. `layers` are those of the merged model, in
    the module that has the most.
    """

    problems: Problems
    config: MergeConfiguration | None = None
    models: int = 0
    tensors: int = 0
    layers: int = 0


def check_text(text: str, options: MergeOptions) -> Checked:
    """Check the text of a config file.

    Reads configs, indexes and file headers of the models, and no tensor. Changes
    nothing that a merge afterwards would notice.

    Args:
        text: YAML, as `mergekit-yaml` takes it.
        options: mergekit's options, as the merge would get them.

    Returns:
        All problems that were found; the config if mergekit can read it.

    Example:
        >>> checked = check_text("merge_method: slerp\\nmodels: []", MergeOptions())
        >>> for problem in checked.problems:
        ...     print(problem)
        exactly one of models, slices and modules must be present and not empty; got \
none
        merge_method: must be breadcrumbs or breadcrumbs_ties for inspect; got 'slerp'
    """
    problems = Problems()
    checked = Checked(problems)
    source = read_source(text, problems)
    if source is None:
        return checked
    problems.line_of = source.line_of
    NOTICES.begin()
    with logged(problems):
        check_keys(source.data, problems)
        _check_method(source.data.get("merge_method"), problems)
        _check_other_keys(source.data, problems)
        # The parameters of another method are none of ours.
        foreign = str(source.data.get("merge_method")) in _other_methods()
        if not foreign:
            check_parameters(source.data, problems)
        checked.config = parse(source.data, problems)
        places = _places(source.data, problems)
        models = find_models(places, options, problems)
        check_architectures(models, places, options, problems)
        checked.models = len(models)
        config = checked.config or parse(
            without_errors(source.data, problems), Problems(lambda _: None)
        )
        if config is not None and not foreign:
            _check_merge(checked, config, models, options)
    return checked


def _check_merge(
    checked: Checked,
    config: MergeConfiguration,
    models: dict[ModelReference, Found],
    options: MergeOptions,
) -> None:
    """Check what needs the architecture: layers, tensors, and what they resolve to."""
    problems = checked.problems
    _check_base(config, problems)
    try:
        architecture = _architecture(config, models, options)
        _check_modules(config, architecture, problems)
        slices = lay_out(config, architecture, models)
        if not slices or not check_sources(slices, problems):
            return
        add_rows(slices, architecture, models)
    # An architecture that mergekit does not know and cannot make out, or a config.json
    # without the key for its layers.
    except Exception as error:
        if not problems.count("error"):
            text = f"mergekit cannot tell the layers of these models: {error}"
            problems.error((), text)
        return
    check_settings(slices, _kind(models), problems)
    check_resolved(slices, problems)
    aligned = bool(config.tokenizer or config.tokenizer_source)
    aligned |= options.unsafe_truncate_embeddings
    check_tensors(slices, models, aligned=aligned, problems=problems)
    if not problems.count("error") and all(f.config for f in models.values()):
        checked.tensors = check_plan(config, architecture, models, options, problems)
    made = dict.fromkeys((part.module for part in slices), 0)
    for part in slices:
        made[part.module] += part.length
    checked.layers = max(made.values())


def _check_base(config: MergeConfiguration, problems: Problems) -> None:
    if config.base_model is not None:
        return
    parts: list[tuple[Place, Any]] = [((), config)]
    parts += [(("modules", n), module) for n, module in (config.modules or {}).items()]
    slices = [
        ((*place, "slices", i), out)
        for place, part in parts
        for i, out in enumerate(part.slices or ())
    ]
    without = [place for place, out in slices if out.base_model is None]
    text = "missing: write the model that the others were fine-tuned from"
    if len(without) == len(slices) or any(part.models for _, part in parts):
        problems.error(("base_model",), text)
    else:
        for place in without:
            problems.error((*place, "base_model"), text)


def _architecture(
    config: MergeConfiguration,
    models: dict[ModelReference, Found],
    options: MergeOptions,
) -> ModelArchitecture:
    """Return what the merge goes by; models that differ from it are told already."""
    base = models.get(config.base_model)
    known = [base, *models.values()] if base else list(models.values())
    # One that was not found does not keep the others from being checked.
    if all(found.architecture or not found.config for found in known):
        return next(found.architecture for found in known if found.architecture)
    return get_architecture_info(config, options)


def _check_modules(
    config: MergeConfiguration, architecture: ModelArchitecture, problems: Problems
) -> None:
    known = list(architecture.modules)
    for name in config.modules or ():
        if name not in known:
            text = f"no such module: this architecture has {', '.join(known)}"
            problems.error(("modules", name), text)
    left_out = [name for name in known if config.modules and name not in config.modules]
    if left_out:
        text = f"the merged model will have no {', '.join(left_out)}: add it"
        problems.warning(("modules",), text)


def _check_method(name: Any, problems: Problems) -> None:
    if not isinstance(name, str):
        return
    place = ("merge_method",)
    if name not in _NAMES:
        text = f"must be {' or '.join(_NAMES)} for inspect; got {shown(name)}"
        hint = "" if name in _other_methods() else nearest(name, _NAMES)
        problems.error(place, text + hint)
    elif not isinstance(merge_methods.get(name), BreadcrumbsMerge):
        text = "another implementation is in use: see mergekit-breadcrumbs status"
        problems.error(place, text)


def _other_methods() -> set[str]:
    known = {method.spec.name for method in merge_methods.registered_methods()}
    return known - set(_NAMES)


def _check_other_keys(data: dict[Any, Any], problems: Problems) -> None:
    """Report values that mergekit looks at only when the merge is under way."""
    for key in ("dtype", "out_dtype"):
        try:
            dtype_from_name(data.get(key))
        except RuntimeError:
            text = f"must be one of {', '.join(_DTYPES)}; got {shown(data[key])}"
            near = {"bf16": "bfloat16", "fp16": "float16", "half": "float16"}
            hint = near.get(data[key])
            hint = f"; did you mean {hint}?" if hint else nearest(data[key], _DTYPES)
            problems.error((key,), text + hint)
        except (AttributeError, TypeError):  # not text, which is told elsewhere
            continue
    template = data.get("chat_template")
    if not isinstance(template, str) or not template:
        return
    files = importlib.resources.files(chat_templates).iterdir()
    names = sorted(f.name[:-6] for f in files if f.name.endswith(".jinja"))
    is_template = "{" in template and len(template) >= 20
    if template not in ("auto", *names) and not is_template:
        problems.error(
            ("chat_template",),
            f"must be auto, {', '.join(names)} or a Jinja template; got"
            f" {shown(template)}{nearest(template, names)}",
        )


def _places(data: dict[Any, Any], problems: Problems) -> dict[ModelReference, Place]:
    """Return every model of the merge with the first place that it stands at."""
    places: dict[ModelReference, Place] = {}
    directories: dict[str, ModelReference] = {}
    for place, value in _references(data):
        # What cannot be read is told where the file is checked as a whole.
        model = check_reference(value, place, Problems())
        if model is None or model in places:
            continue
        places[model] = place
        directory = f"{os.path.realpath(model.model.path)}+{model.lora}"
        if not os.path.exists(model.model.path):
            continue
        other = directories.setdefault(directory, model)
        if other != model:
            text = f"is the same directory as {place_name(places[other])}"
            problems.warning(place, text)
    return places


def _references(data: dict[Any, Any], place: Place = ()) -> Iterator[tuple[Place, Any]]:
    for key in ("base_model", "model"):
        if data.get(key) is not None:
            yield (*place, key), data[key]
    for key in ("models", "slices", "sources", "modules"):
        for step, entry in mappings_in(data.get(key)):
            # An anchor may lead back to where it stands.
            if len(place) < 8:
                yield from _references(entry, (*place, key, step))


def _kind(models: dict[ModelReference, Found]) -> str:
    return next(found.kind for found in models.values() if found.config)
