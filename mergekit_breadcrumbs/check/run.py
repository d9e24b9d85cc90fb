"""All that can be wrong with a config, found before any tensor is read."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mergekit.architecture import ModelArchitecture, get_architecture_info
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.before import Before, Inputs, look_ahead
from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.config_file import read_config
from mergekit_breadcrumbs.check.dtypes import check_dtypes
from mergekit_breadcrumbs.check.header import check_base, check_header, other_methods
from mergekit_breadcrumbs.check.layers import (
    check_settings,
    check_sources,
    made_layers,
)
from mergekit_breadcrumbs.check.layout import OutputSlice, count_layers, lay_out
from mergekit_breadcrumbs.check.merged_config import check_merged_config
from mergekit_breadcrumbs.check.models import (
    ModelFiles,
    check_architectures,
    find_models,
)
from mergekit_breadcrumbs.check.names import find_names
from mergekit_breadcrumbs.check.parameters import check_parameters, drop_refused
from mergekit_breadcrumbs.check.paths import check_paths
from mergekit_breadcrumbs.check.plan import add_tensors, check_plan, mergekit_warnings
from mergekit_breadcrumbs.check.problems import Mark, Problems
from mergekit_breadcrumbs.check.resolved import check_resolved
from mergekit_breadcrumbs.check.schema import check_keys, report_refusal
from mergekit_breadcrumbs.check.tensors import (
    check_losses,
    check_tensors,
    checkpoints_of,
)
from mergekit_breadcrumbs.check.tokenizer_copy import check_copy
from mergekit_breadcrumbs.check.tokenizer_files import Tokenizers
from mergekit_breadcrumbs.check.vocabularies import read_vocabularies
from mergekit_breadcrumbs.check.vocabulary import check_vocabulary
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.notices import NOTICES
from mergekit_breadcrumbs.host.planner import output_config

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

    Raises:
        OSError: if the file cannot be read.
    """
    content = path.read_bytes()
    try:
        return check_text(content.decode("utf-8-sig"), options, out)
    except UnicodeDecodeError as error:
        checked = Checked(Problems())
        line = content[: error.start].count(b"\n") + 1
        byte = f"{content[error.start]:#04x}"
        text = f"not UTF-8 text: the byte {byte} cannot stand there"
        checked.problems.add(Code.NOT_YAML, (), text, Mark(line, 1, 1))
        return checked


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
    check_keys(file.data, problems)
    check_header(file.data, problems)
    # The parameters of another method are none of ours.
    foreign = str(file.data.get("merge_method")) in other_methods()
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
        outputs = _check_merge(checked, config, models, options)
    if out is not None:
        inputs = Inputs(models, hub_models)
        checked.before = look_ahead(out, outputs, config, inputs, options, problems)


def _check_merge(
    checked: Checked, config: MergeConfiguration, models: Models, options: MergeOptions
) -> list[OutputSlice]:
    """Check what needs the architecture: layers, tensors, and what they resolve to.

    Returns what will be written, nothing if that cannot be told.
    """
    problems = checked.problems
    check_base(config, problems)
    tokenizers = Tokenizers(options)
    vocabularies = read_vocabularies(config, models, tokenizers, options, problems)
    check_copy(config, models, tokenizers, options, problems)
    known = [files for files in models.values() if files.config]
    if not known:
        return []
    outputs: list[OutputSlice] = []
    architecture, error = _architecture(config, models, options)
    if architecture is not None:
        _check_modules(config, architecture, problems)
        counts, error = count_layers(architecture, models)
        outputs = lay_out(config, architecture, counts)
    if outputs and error is None:
        if not check_sources(outputs, problems):
            return []
        error = add_tensors(outputs, config, architecture, models, options)
    if error is not None and not problems.count("error"):
        text = f"mergekit cannot tell the layers of these models: {error}"
        problems.add(Code.CANNOT_PLAN, (), text)
    if error is not None or not outputs:
        return []
    check_settings(outputs, known[0].architecture_name, problems)
    check_resolved(outputs, problems)
    aligned = bool(config.tokenizer or config.tokenizer_source)
    aligned |= options.unsafe_truncate_embeddings
    checkpoints = checkpoints_of(models)
    quantised = check_dtypes(outputs, models, checkpoints, problems)
    check_tensors(
        outputs, checkpoints, skip=quantised, aligned=aligned, problems=problems
    )
    base = config.base_model or outputs[0].base
    if base in checkpoints and not problems.cover(("modules",)):
        merged, _ = attempt(output_config, config, architecture, options)
        check_losses(
            outputs, base, checkpoints, merged, skip=quantised, problems=problems
        )
    if vocabularies is not None:
        check_vocabulary(config, vocabularies, models, outputs, problems)
    check_merged_config(config, architecture, options, problems)
    # Without an index mergekit's planner would download the weights.
    whole = all(files.config and files.weights.index for files in models.values())
    if whole and not problems.count("error"):
        checked.tensors = check_plan(config, architecture, models, options, problems)
    checked.layers = max(made_layers(outputs).values())
    return outputs


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
