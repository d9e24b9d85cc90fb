"""All that can be wrong with a config, found before any tensor is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mergekit.architecture import ModelArchitecture, get_architecture_info
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.attempt import attempt
from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.config_file import read_config, read_text
from mergekit_breadcrumbs.check.header import (
    check_base,
    check_header,
    is_for_another_command,
    other_methods,
)
from mergekit_breadcrumbs.check.layers import (
    check_empty,
    check_settings,
    check_sources,
    made_layers,
)
from mergekit_breadcrumbs.check.layout import OutputSlice, count_layers, lay_out
from mergekit_breadcrumbs.check.models import (
    ModelFiles,
    check_architectures,
    find_models,
)
from mergekit_breadcrumbs.check.parameters import check_parameters, drop_refused
from mergekit_breadcrumbs.check.plan import (
    add_tensors,
    check_plan,
    mergekit_warnings,
    why_not_planned,
)
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.resolved import check_resolved
from mergekit_breadcrumbs.check.schema import check_keys, report_refusal
from mergekit_breadcrumbs.check.tensors import check_tensors
from mergekit_breadcrumbs.host.notices import NOTICES

Models = dict[ModelReference, ModelFiles]


@dataclass
class Checked:
    """A config after its checks.

    `text` is the file's. `config` is None where mergekit cannot read it; the counts are
    0 where errors kept mergekit's planner from counting. `layers` are those of the
    merged model, in the module that has the most.
    """

    problems: Problems
    text: str = ""
    config: MergeConfiguration | None = None
    models: int = 0
    tensors: int = 0
    layers: int = 0

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return self.problems.count("error") > 0


def check_file(path: Path, options: MergeOptions) -> Checked:
    """Check a config file, as `check_text` checks its text.

    Reads from a named pipe, too, if somebody writes to it.
    """
    checked = Checked(Problems())
    text = read_text(path, checked.problems)
    return checked if text is None else check_text(text, options)


def check_text(text: str, options: MergeOptions) -> Checked:
    """Check the text of a config file.

    Reads configs, indexes and file headers of the models, and no tensor. Changes
    nothing that a merge afterwards would notice.

    Example:
        >>> checked = check_text("merge_method: slerp\\nmodels: []", MergeOptions())
        >>> for problem in checked.problems:
        ...     print(problem)
        exactly one of models, slices and modules must be present and not empty; got \
none
        merge_method: must be breadcrumbs or breadcrumbs_ties for inspect; got 'slerp'
    """
    checked = Checked(Problems(), text)
    with NOTICES.silenced(), mergekit_warnings(checked.problems):
        _check(checked, text, options)
    return checked


def _check(checked: Checked, text: str, options: MergeOptions) -> None:
    problems = checked.problems
    file = read_config(text, problems)
    if file is None:
        return
    problems.mark_of = file.mark_of
    if is_for_another_command(file.data, problems):
        return
    check_keys(file.data, problems)
    check_header(file.data, problems)
    # The parameters of another method are none of ours.
    method = file.data.get("merge_method")
    foreign = isinstance(method, str) and method in other_methods()
    if not foreign:
        check_parameters(file.data, problems)
    checked.config, error = attempt(MergeConfiguration.model_validate, file.data)
    if error is not None:
        report_refusal(error, file.data, (), problems)
    models = find_models(file.data, options, problems)
    check_architectures(models, options, problems)
    checked.models = len(models)
    config = checked.config
    if config is None:
        drop_refused(file.data, problems)
        config, _ = attempt(MergeConfiguration.model_validate, file.data)
    if config is not None and not foreign:
        _check_merge(checked, config, models, options)


def _check_merge(
    checked: Checked, config: MergeConfiguration, models: Models, options: MergeOptions
) -> None:
    """Check what needs the architecture: layers, tensors, and what they resolve to."""
    problems = checked.problems
    check_base(config, problems)
    known = [files for files in models.values() if files.config]
    if not known:
        return
    outputs: list[OutputSlice] = []
    architecture, error = _architecture(config, models, options)
    if architecture is not None:
        _check_modules(config, architecture, problems)
        counts, error = count_layers(architecture, models)
        outputs = lay_out(config, architecture, counts)
    if outputs and error is None:
        if not check_sources(outputs, problems):
            return
        error = add_tensors(outputs, config, architecture, models, options)
    if error is not None and not problems.count("error"):
        text = "mergekit cannot tell the layers of these models: "
        text += why_not_planned(error, known[0].architecture_name)
        problems.add(Code.CANNOT_PLAN, (), text)
    if error is not None or not outputs:
        return
    check_empty(outputs, problems)
    check_settings(outputs, known[0].architecture_name, problems)
    check_resolved(outputs, problems)
    aligned = bool(config.tokenizer or config.tokenizer_source)
    aligned |= options.unsafe_truncate_embeddings
    check_tensors(outputs, models, aligned=aligned, problems=problems)
    if not problems.count("error") and len(known) == len(models):
        checked.tensors = check_plan(config, architecture, models, options, problems)
    checked.layers = max(made_layers(outputs).values())


def _architecture(
    config: MergeConfiguration, models: Models, options: MergeOptions
) -> tuple[ModelArchitecture | None, Exception | None]:
    """Return what the merge goes by, or why mergekit cannot tell.

    Models that differ from it are told of already, and one that was not found does not
    keep the others from being checked.
    """
    base = models.get(config.base_model)
    known = [files for files in (base, *models.values()) if files and files.config]
    if all(files.architecture for files in known):
        return known[0].architecture, None
    return attempt(get_architecture_info, config, options)


def _check_modules(
    config: MergeConfiguration, architecture: ModelArchitecture, problems: Problems
) -> None:
    named, known = config.modules or {}, list(architecture.modules)
    for name in named.keys() - known:
        text = f"no such module: this architecture has {', '.join(known)}"
        problems.add(Code.UNKNOWN_MODULE, ("modules", name), text)
    left_out = [name for name in known if named and name not in named]
    if left_out:
        text = f"the merged model will have no {', '.join(left_out)}: add it"
        problems.add(Code.OMITTED_MODULE, ("modules",), text)
