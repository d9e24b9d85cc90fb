"""A whole verification: what is in a folder, beside what its config says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.attempt import attempt, first_line
from mergekit_breadcrumbs.host.repeat import own_loaders
from mergekit_breadcrumbs.verify.codes import (
    CANNOT_REPEAT,
    MADE_OTHERWISE,
    NOT_FINISHED,
    NOT_FINITE,
    TENSOR_DIFFERS,
    TENSOR_EXTRA,
    TENSOR_LOST,
    TENSOR_MISSING,
    WEIGHTS_UNREADABLE,
    Fault,
)
from mergekit_breadcrumbs.verify.lost import lost_tensors
from mergekit_breadcrumbs.verify.merge_config import open_models, read_merge_config
from mergekit_breadcrumbs.verify.model_config import (
    check_head,
    check_rows,
    compare_configs,
    read_model_config,
)
from mergekit_breadcrumbs.verify.remake import (
    Comparison,
    Plan,
    made_by_the_other,
    tried,
)
from mergekit_breadcrumbs.verify.tokenizer import check_tokenizer
from mergekit_breadcrumbs.verify.weights import Weights, find_weights
from mergekit_breadcrumbs.wording import counted, visible

_RANDOM = ("dare_", "della")


@dataclass
class Verified:
    """What was found in a folder, and how much of it was compared."""

    faults: list[Fault] = field(default_factory=list)
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
    if any(fault.code == NOT_FINISHED for fault in verified.faults):
        return verified
    merge_config, faults = read_merge_config(folder, config)
    verified.faults += faults
    if merge_config is None or weights is None:
        return verified
    with own_loaders():
        verified.faults += open_models(merge_config, folder, options)
        if not any(fault.code == CANNOT_REPEAT for fault in verified.faults):
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
    comparison = Comparison(weights)
    plan, error = tried(Plan, config, options, comparison)
    if error is None:
        tokenizer, error = tried(plan.execute)
    if error is not None:
        text = f"mergekit cannot repeat this merge: {visible(first_line(error))}"
        verified.faults.append(Fault(CANNOT_REPEAT, text))
        return
    verified.tensors = len(comparison.elements)
    verified.elements = sum(comparison.elements.values())
    donors = [config.base_model] if config.base_model else config.referenced_models()
    faults = verified.faults
    faults += _tensor_faults(comparison)
    faults += _verdict(config, options, comparison)
    faults += _extra(comparison)
    faults += _lost(config, plan, donors, weights, options)
    if model_config is not None:
        written = [plan.written_config(donor, tokenizer) for donor in donors]
        apart = [compare_configs(model_config, one) for one in written]
        faults += next((one for one in apart if not one), apart[0])
        faults += check_rows(model_config, plan.architecture, plan.saved, weights)
        names = {w.name: w for w in plan.architecture.all_weights(model_config)}
        faults += check_head(model_config, weights, names)
    places = [(donor, _folder_of(donor)) for donor in donors]
    faults += check_tokenizer(
        folder, config, places, tokenizer, options.trust_remote_code
    )


def _folder_of(model: ModelReference) -> Path:
    path = Path(model.model.path)
    return path if path.is_dir() else Path(LoaderCache().get(model).index.base_path)


def _tensor_faults(comparison: Comparison) -> list[Fault]:
    several = len(comparison.weights.files) > 1
    faults = [
        Fault(WEIGHTS_UNREADABLE, f"{visible(name)} cannot be read: {reason}")
        for name, reason in comparison.unreadable.items()
    ]
    for name in comparison.differing:
        where = f" ({comparison.weights.file_of[name]})" if several else ""
        if name in comparison.unlike:
            here, there = comparison.unlike[name]
            text = f"{visible(name)} is {here}, but {there} by the config{where}"
        else:
            text = f"{visible(name)} {_apart(comparison, name)}{where}"
        faults.append(Fault(TENSOR_DIFFERS, text, _remedy(comparison)))
    faults += [Fault(TENSOR_MISSING, visible(name)) for name in comparison.missing]
    for name, count in comparison.not_finite.items():
        of = counted(comparison.elements[name], "element")
        text = f"{visible(name)} has {count:,} of {of} that are infinite or NaN"
        faults.append(Fault(NOT_FINITE, text))
    return faults


def _apart(comparison: Comparison, name: str) -> str:
    """Say how a tensor differs."""
    found, all_ = comparison.different[name], comparison.elements[name]
    text = f"differs in {found.elements:,} of {all_:,} elements"
    if found.bits == 1:
        text += ", in one bit"
    if math.isnan(found.largest):
        return f"{text}, where one is not a number"
    if found.largest == 0:
        return f"{text}, in the sign of a zero only"
    return f"{text}, by at most {found.largest:.2g}"


def _remedy(comparison: Comparison) -> str:
    """Say what to do about tensors that differ, from which of them do."""
    differing, weights = set(comparison.differing), comparison.weights
    wrong = {weights.file_of[name] for name in differing}
    right = {weights.file_of[n] for n in comparison.elements if n in weights.file_of}
    right = {weights.file_of[n] for n in weights.file_of if n not in differing} & right
    if wrong and right and not wrong & right:
        names = ", ".join(sorted(wrong)[:3]) + (", ..." if len(wrong) > 3 else "")
        return f"{names}: from another merge; merge again into an empty folder"
    if len(differing) == 1:
        return "a damaged file, or changed by hand: copy it again, or merge again"
    return (
        "merge again, or verify as it was merged: with the same models as then, the"
        " same options (--cuda, --lora-merge-dtype), the same versions"
    )


def _verdict(
    config: MergeConfiguration, options: MergeOptions, comparison: Comparison
) -> list[Fault]:
    """Say what tensors that differ are, where that can be told."""
    if not comparison.differing:
        return []
    method = config.merge_method
    if method.startswith(_RANDOM):
        if options.random_seed is not None:
            return []
        text = f"{method} draws random numbers: another seed gives other tensors"
        seed = "give the merge's own seed with --random-seed N"
        return [Fault(MADE_OTHERWISE, text, seed)]
    whose = made_by_the_other(config, options, comparison)
    if not whose:
        return []
    ours = whose.startswith("mergekit's")
    here = "mergekit-breadcrumbs" if ours else "mergekit's own"
    return [
        Fault(
            MADE_OTHERWISE,
            f"the tensors that differ are those that {whose} {method} makes; here"
            f" {here} is in use",
            f"merge again with {here} (see mergekit-breadcrumbs status)",
        )
    ]


def _extra(comparison: Comparison) -> list[Fault]:
    weights = comparison.weights
    return [
        Fault(TENSOR_EXTRA, f"{visible(name)} ({file})")
        for name, file in weights.file_of.items()
        if name not in comparison.elements
    ]


def _lost(
    config: MergeConfiguration,
    plan: Plan,
    donors: Sequence[ModelReference],
    weights: Weights,
    options: MergeOptions,
) -> list[Fault]:
    """Say what the base has and the merged model lacks, because nothing reads it."""
    sliced = any(m.slices for m in (config.modules or {}).values()) or config.slices
    lost: set[str] | None = None
    for model in donors:
        held = LoaderCache().get(model).index.tensor_paths
        model_type, _ = attempt(
            lambda model=model: model.config(options.trust_remote_code).model_type
        )
        names = lost_tensors(
            held, plan.read_names(model), model_type, sliced=bool(sliced)
        )
        lost = set(names) if lost is None else lost & set(names)
    return [
        Fault(TENSOR_LOST, visible(name))
        for name in sorted(lost or ())
        if name not in weights.file_of
    ]
