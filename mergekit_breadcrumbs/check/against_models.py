"""A config against the models that it names: layers, tensors, tokenizers, the plan."""

from __future__ import annotations

from mergekit.architecture import ModelArchitecture, get_architecture_info
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.dtypes import check_dtypes
from mergekit_breadcrumbs.check.file_limits import check_limits
from mergekit_breadcrumbs.check.header import (
    check_base,
)
from mergekit_breadcrumbs.check.layers import (
    check_empty,
    check_settings,
    check_sources,
)
from mergekit_breadcrumbs.check.layout import OutputSlice, count_layers, lay_out
from mergekit_breadcrumbs.check.merged_config import check_merged_config
from mergekit_breadcrumbs.check.models import (
    ModelFiles,
)
from mergekit_breadcrumbs.check.numbering import check_numbering
from mergekit_breadcrumbs.check.plan import (
    add_tensors,
    check_plan,
    why_not_planned,
)
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.resolved import check_resolved
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
from mergekit_breadcrumbs.host.planner import output_config

Models = dict[ModelReference, ModelFiles]


def check_against_models(
    config: MergeConfiguration,
    models: Models,
    options: MergeOptions,
    problems: Problems,
) -> tuple[list[OutputSlice], int]:
    """Check what needs the models: their layers, tensors and tokenizers.

    Returns what will be written, and how many tensors that is; nothing, and 0, where
    errors keep that from being told.
    """
    check_base(config, problems)
    tokenizers = Tokenizers(options)
    vocabularies = read_vocabularies(config, models, tokenizers, options, problems)
    check_copy(config, models, tokenizers, options, problems)
    check_numbering(config, models, tokenizers, problems)
    known = [files for files in models.values() if files.config]
    if not known:
        return [], 0
    outputs: list[OutputSlice] = []
    architecture, error = _architecture(config, models, options)
    if architecture is not None:
        _check_modules(config, architecture, problems)
        counts, error = count_layers(architecture, models)
        outputs = lay_out(config, architecture, counts)
    if outputs and error is None:
        if not check_sources(outputs, problems):
            return [], 0
        error = add_tensors(outputs, config, architecture, models, options)
    if error is not None and not problems.count("error"):
        text = "mergekit cannot tell the layers of these models: "
        text += why_not_planned(error, known[0].architecture_name)
        problems.add(Code.CANNOT_PLAN, (), text)
    if architecture is None or error is not None or not outputs:
        return [], 0
    check_empty(outputs, problems)
    check_settings(outputs, known[0].architecture_name, problems)
    check_resolved(outputs, problems)
    check_limits(outputs, models, config, problems)
    _check_tensors(config, architecture, outputs, models, options, problems)
    if vocabularies is not None:
        check_vocabulary(config, vocabularies, models, outputs, problems)
    check_merged_config(config, architecture, options, problems)
    # Without an index mergekit's planner would download the weights.
    whole = all(files.config and files.weights.index for files in models.values())
    if not whole or problems.count("error"):
        return outputs, 0
    return outputs, check_plan(config, architecture, models, options, problems)


def _check_tensors(
    config: MergeConfiguration,
    architecture: ModelArchitecture,
    outputs: list[OutputSlice],
    models: Models,
    options: MergeOptions,
    problems: Problems,
) -> None:
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
