"""All that can be wrong with a config, found before any tensor is read."""

from __future__ import annotations

from dataclasses import dataclass

from mergekit.architecture import ModelArchitecture, get_architecture_info
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.config_file import read_source
from mergekit_breadcrumbs.check.header import (
    check_base,
    check_header,
    other_methods,
)
from mergekit_breadcrumbs.check.layers import check_settings, check_sources
from mergekit_breadcrumbs.check.layout import add_rows, lay_out
from mergekit_breadcrumbs.check.models import (
    Found,
    check_architectures,
    find_models,
)
from mergekit_breadcrumbs.check.parameters import (
    check_parameters,
    without_errors,
)
from mergekit_breadcrumbs.check.plan import check_plan, logged
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.references import model_places
from mergekit_breadcrumbs.check.resolved import check_resolved
from mergekit_breadcrumbs.check.schema import check_keys, parse
from mergekit_breadcrumbs.check.tensors import check_tensors
from mergekit_breadcrumbs.host.notices import NOTICES


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
        check_header(source.data, problems)
        # The parameters of another method are none of ours.
        foreign = str(source.data.get("merge_method")) in other_methods()
        if not foreign:
            check_parameters(source.data, problems)
        checked.config = parse(source.data, problems)
        places = model_places(source.data, problems)
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
    check_base(config, problems)
    if not any(found.config for found in models.values()):
        return
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


def _kind(models: dict[ModelReference, Found]) -> str:
    return next(found.kind for found in models.values() if found.config)
