"""What comparing the tensors found, in sentences."""

from __future__ import annotations

import math
from pathlib import Path

from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.repeat import card_names_the_other, ours_in_use
from mergekit_breadcrumbs.verify.faults import Fault
from mergekit_breadcrumbs.verify.remake import Comparison, made_by_the_other
from mergekit_breadcrumbs.wording import counted, visible

_RANDOM = ("dare_", "della")


def tensor_faults(comparison: Comparison) -> list[Fault]:
    """Return what is wrong with single tensors, as comparing them found it."""
    several = len(comparison.weights.files) > 1
    faults = [
        Fault(Code.WEIGHTS_UNREADABLE, f"{visible(name)} cannot be read: {reason}")
        for name, reason in comparison.unreadable.items()
    ]
    for name in comparison.differing:
        where = f" ({comparison.weights.file_of[name]})" if several else ""
        if name in comparison.unlike:
            here, there = comparison.unlike[name]
            text = f"{visible(name)} is {here}, but {there} by the config{where}"
        else:
            text = f"{visible(name)} {_apart(comparison, name)}{where}"
        faults.append(Fault(Code.TENSOR_DIFFERS, text, _remedy(comparison)))
    faults += [Fault(Code.TENSOR_MISSING, visible(name)) for name in comparison.missing]
    for name, count in comparison.not_finite.items():
        text = f"{visible(name)} has {counted(count, 'element')} not finite"
        faults.append(Fault(Code.NOT_FINITE, text))
    return faults + [
        Fault(Code.TENSOR_EXTRA, f"{visible(name)} ({file})")
        for name, file in comparison.weights.file_of.items()
        if name not in comparison.elements
    ]


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
    by = "by" if found.elements == 1 else "by at most"
    return f"{text}, {by} {found.largest:.2g}"


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


def verdict_on(
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
        return [Fault(Code.MADE_OTHERWISE, text, seed)]
    if not made_by_the_other(config, options, comparison):
        return []
    ours, theirs = "mergekit-breadcrumbs", "mergekit's built-in"
    remedy = f"merge again with {ours} (see mergekit-breadcrumbs status)"
    here, there = ours, theirs
    if not ours_in_use(method):
        remedy = "verify again where MERGEKIT_BREADCRUMBS=0 is not set"
        here, there = theirs, ours
    text = f"{there} {method} makes these tensors; in use here is {here}"
    return [Fault(Code.MADE_OTHERWISE, text, remedy)]


def card_note(folder: Path, method: str) -> str:
    """Say if the model's card names another implementation, which proves nothing."""
    card, _ = attempt((folder / "README.md").read_text, "utf-8", "replace")
    if not card or not card_names_the_other(method, card):
        return ""
    whose = "mergekit's built-in" if ours_in_use(method) else "mergekit-breadcrumbs"
    return f"The model's card (README.md) says that {whose} {method} made it."
