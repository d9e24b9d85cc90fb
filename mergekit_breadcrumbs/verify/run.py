"""A whole verification: what is in a folder, beside what its config says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.host.planning import losses_of
from mergekit_breadcrumbs.host.repeat import own_loaders
from mergekit_breadcrumbs.verify.faults import Fault
from mergekit_breadcrumbs.verify.merge_config import open_models, read_merge_config
from mergekit_breadcrumbs.verify.model_config import (
    check_head,
    check_rows,
    compare_configs,
    read_model_config,
)
from mergekit_breadcrumbs.verify.order import as_merged
from mergekit_breadcrumbs.verify.remake import (
    Comparison,
    Plan,
    tried,
)
from mergekit_breadcrumbs.verify.tensor_faults import (
    card_note,
    tensor_faults,
    verdict_on,
)
from mergekit_breadcrumbs.verify.tokenizer import check_tokenizer
from mergekit_breadcrumbs.verify.weights import Weights, find_weights
from mergekit_breadcrumbs.wording import visible


@dataclass
class Verified:
    """What was found in a folder, and how much of it was compared.

    `notes` are sentences to add; they are no faults.
    """

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tensors: int = 0
    elements: int = 0


def verify(folder: Path, options: MergeOptions, config: Path | None = None) -> Verified:
    """Compare a merged folder with what the config that lies in it says.

    Every tensor is made again as the merge made it, and dropped once it is compared.
    Nothing is written, but for LoRA adapters, which are merged into
    `lora_merge_cache`, as for a merge.

    Args:
        folder: what a merge wrote.
        options: mergekit's own options, as for the merge.
        config: the merge's config, where the folder's cannot be used.

    Raises:
        OSError: if the folder cannot be read.
    """
    verified = Verified()
    model_config, faults = read_model_config(folder, options.trust_remote_code)
    weights, found = find_weights(folder)
    verified.faults += faults + found
    if any(fault.code == Code.NOT_FINISHED for fault in verified.faults):
        return verified
    merge_config, faults = read_merge_config(folder, config)
    verified.faults += faults
    if merge_config is None or weights is None:
        return verified
    with own_loaders():
        verified.faults += open_models(merge_config, folder, options)
        if not any(fault.code == Code.CANNOT_REPEAT for fault in verified.faults):
            _compare(verified, folder, merge_config, options, weights, model_config)
    return verified


def _compare(
    verified: Verified,
    folder: Path,
    config: MergeConfiguration,
    options: MergeOptions,
    weights: Weights,
    model_config: Any,
) -> None:
    config = as_merged(config, folder, options)
    comparison = Comparison(weights)
    plan, error = tried(Plan, config, options, comparison)
    if error is None:
        tokenizer, error = tried(plan.execute)
    if error is not None:
        text = f"mergekit cannot repeat this merge: {visible(first_line(error))}"
        verified.faults.append(Fault(Code.CANNOT_REPEAT, text))
        return
    verified.tensors = len(comparison.elements)
    verified.elements = sum(comparison.elements.values())
    donors = [config.base_model] if config.base_model else config.referenced_models()
    faults = verified.faults
    faults += tensor_faults(comparison)
    verdict = verdict_on(config, options, comparison)
    faults += verdict
    note = "" if verdict else card_note(folder, config.merge_method)
    if note:
        same = "" if comparison.differing else " Its tensors are the same to the bit."
        verified.notes.append(note + same)
    _lost(verified, plan, donors, weights)
    if model_config is not None:
        written = [plan.written_config(donor, tokenizer) for donor in donors]
        apart = [compare_configs(model_config, one) for one in written]
        faults += next((one for one in apart if not one), apart[0])
        shapes = comparison.shapes
        faults += check_rows(model_config, plan.architecture, plan.saved, shapes)
        known, _ = attempt(plan.architecture.all_weights, model_config)
        names = [weight.name for weight in known or ()]
        faults += check_head(model_config, weights, names)
    places = [(donor, _folder_of(donor)) for donor in donors]
    faults += check_tokenizer(
        folder, config, places, tokenizer, options.trust_remote_code
    )


def _folder_of(model: ModelReference) -> Path:
    path = Path(model.model.path)
    return path if path.is_dir() else Path(LoaderCache().get(model).index.base_path)


def _lost(
    verified: Verified, plan: Plan, donors: Sequence[ModelReference], weights: Weights
) -> None:
    """Say what the base has and the merged model lacks, because nothing reads it."""
    found = [attempt(losses_of, plan.planner, model)[0] for model in donors]
    losses = next((one for one in found if one), None)
    if losses is None or not all(found):
        return
    if not losses.needed:
        verified.notes.append(f"Note: {losses}.")
        return
    verified.faults += [
        Fault(Code.TENSOR_LOST, visible(name))
        for name in losses.names
        if name not in weights.file_of
    ]
