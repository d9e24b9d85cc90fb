"""What can be wrong with a merged folder, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple

from mergekit_breadcrumbs.check.codes import Code


class Fault(NamedTuple):
    """One thing that is wrong; `remedy` replaces that of its code."""

    code: Code
    text: str
    remedy: str = ""


_AGAIN = "merge again into an empty folder"
_REMEDIES = {
    Code.TENSOR_DIFFERS: _AGAIN,
    Code.MADE_OTHERWISE: _AGAIN,
    Code.TENSOR_MISSING: _AGAIN,
    Code.TENSOR_EXTRA: _AGAIN,
    Code.TENSOR_LOST: "mergekit loses tensors of this architecture: add them from the"
    " base, or do not use the model",
    Code.TWO_READINGS: "delete what the merge did not write, or " + _AGAIN,
    Code.STALE_WEIGHTS: "delete them, or " + _AGAIN,
    Code.STALE_INDEX: _AGAIN,
    Code.HEAD_DISAGREES: "set tie_word_embeddings in config.json to what is meant",
    Code.NOT_FINITE: "lower weight or lambda, or set out_dtype to a wider one, and"
    " merge again",
    Code.NOT_FINISHED: "the merge was not finished: run it again",
    Code.WEIGHTS_UNREADABLE: "copy the damaged file again, or " + _AGAIN,
    Code.CONFIG_UNREADABLE: "copy config.json again, or " + _AGAIN,
    Code.CONFIG_DIFFERS: "put back the values that mergekit wrote into config.json",
    Code.ROWS_DIFFER: "set the size in config.json to the number of rows",
    Code.TOKENIZER_MISSING: "copy the tokenizer's files into the folder",
    Code.TOKENIZER_DIFFERS: "copy the right tokenizer's files into the folder",
    Code.NO_MERGE_CONFIG: "give the config of the merge with --config FILE",
    Code.CANNOT_REPEAT: "put right what stops the merge, then verify again",
}

# What is to be done first: a fault of an early kind explains those of later ones.
_FIRST = (
    Code.NOT_FINISHED,
    Code.WEIGHTS_UNREADABLE,
    Code.CONFIG_UNREADABLE,
    Code.NO_MERGE_CONFIG,
    Code.CANNOT_REPEAT,
    Code.TWO_READINGS,
    Code.MADE_OTHERWISE,
    Code.STALE_INDEX,
    Code.TENSOR_DIFFERS,
    Code.NOT_FINITE,
)


def remedy(faults: list[Fault]) -> str:
    """Return what to do first about these faults.

    Example:
        >>> remedy([Fault(Code.STALE_WEIGHTS, "x"), Fault(Code.NOT_FINISHED, "y")])
        'the merge was not finished: run it again'
    """
    order = [*_FIRST, *(code for code in _REMEDIES if code not in _FIRST)]
    first = min(faults, key=lambda fault: order.index(fault.code))
    return first.remedy or _REMEDIES[first.code]
