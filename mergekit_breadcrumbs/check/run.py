"""All that can be wrong with a config, found before any tensor is read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.against_models import check_against_models
from mergekit_breadcrumbs.check.before import Before, Inputs, look_ahead
from mergekit_breadcrumbs.check.config_file import read_config, read_text
from mergekit_breadcrumbs.check.header import (
    check_header,
    is_for_another_command,
    other_methods,
)
from mergekit_breadcrumbs.check.layers import (
    made_layers,
)
from mergekit_breadcrumbs.check.layout import OutputSlice
from mergekit_breadcrumbs.check.models import (
    check_architectures,
    find_models,
)
from mergekit_breadcrumbs.check.names import find_names
from mergekit_breadcrumbs.check.parameters import check_parameters, drop_refused
from mergekit_breadcrumbs.check.paths import check_paths
from mergekit_breadcrumbs.check.plan import (
    mergekit_warnings,
)
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.schema import check_keys, report_refusal
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.notices import NOTICES


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
    before: Before | None = None
    models: int = 0
    tensors: int = 0
    layers: int = 0

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return self.problems.count("error") > 0


def check_file(path: Path, options: MergeOptions, out: Path | None = None) -> Checked:
    """Check a config file, as `check_text` checks its text.

    Reads from a named pipe, too, if somebody writes to it.
    """
    checked = Checked(Problems())
    text = read_text(path, checked.problems)
    return checked if text is None else check_text(text, options, out)


def check_text(text: str, options: MergeOptions, out: Path | None = None) -> Checked:
    """Check the text of a config file; with `out`, also a merge of it into that folder.

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
    with (
        ExitStack() as stack,
        NOTICES.silenced(),
        mergekit_warnings(checked.problems),
    ):
        _check(checked, text, options, stack, out)
    return checked


def _check(
    checked: Checked,
    text: str,
    options: MergeOptions,
    stack: ExitStack,
    out: Path | None,
) -> None:
    problems = checked.problems
    file = read_config(text, problems)
    if file is None:
        return
    problems.mark_of = file.mark_of
    if is_for_another_command(file.data, problems):
        return
    check_keys(file, problems)
    check_header(file.data, problems)
    # The parameters of another method are none of ours.
    method = file.data.get("merge_method")
    foreign = isinstance(method, str) and method in other_methods()
    if not foreign:
        check_parameters(file.data, problems)
    checked.config, error = attempt(MergeConfiguration.model_validate, file.data)
    if error is not None:
        report_refusal(error, file.data, (), problems)
    data, hub_models = find_names(file.data, options, problems, stack)
    models = find_models(data, hub_models, options, problems)
    check_architectures(models, options, problems)
    check_paths([(model, files.place) for model, files in models.items()], problems)
    checked.models = len(models)
    if checked.config is None:
        drop_refused(data, problems)
    config, _ = attempt(MergeConfiguration.model_validate, data)
    outputs: list[OutputSlice] = []
    if config is not None and not foreign:
        outputs, checked.tensors = check_against_models(
            config, models, options, problems
        )
        checked.layers = max(made_layers(outputs).values(), default=0)
    if out is not None:
        inputs = Inputs(models, hub_models)
        checked.before = look_ahead(out, outputs, config, inputs, options, problems)
