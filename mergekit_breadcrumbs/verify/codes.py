"""What can be wrong with a merged folder, by codes that never change.

`codes.md` beside this module explains each.
"""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """A kind of fault: its number and name, what it says, and what to do about it."""

    number: str
    name: str
    title: str
    remedy: str


class Fault(NamedTuple):
    """One thing that is wrong; `remedy` replaces that of its code."""

    code: Code
    text: str
    remedy: str = ""


_AGAIN = "merge again into an empty folder"

TENSOR_DIFFERS = Code(
    "BC901",
    "tensor-differs",
    "Tensors are not what the config says.",
    _AGAIN,
)
MADE_OTHERWISE = Code(
    "BC902",
    "made-otherwise",
    "The folder was merged in another way than verify repeats.",
    _AGAIN,
)
TENSOR_MISSING = Code(
    "BC903",
    "tensor-missing",
    "The config makes tensors that the folder lacks.",
    _AGAIN,
)
TENSOR_EXTRA = Code(
    "BC904",
    "tensor-extra",
    "The folder has tensors that the config does not make.",
    _AGAIN,
)
TENSOR_LOST = Code(
    "BC905",
    "tensor-lost",
    "The base has tensors that mergekit left out of the merged model.",
    "mergekit loses tensors of this architecture: add them from the base, or do not use"
    " the model",
)
TWO_READINGS = Code(
    "BC906",
    "two-readings",
    "transformers and mergekit read the folder differently.",
    "delete what the merge did not write, or " + _AGAIN,
)
STALE_WEIGHTS = Code(
    "BC907",
    "stale-weights",
    "There are files of weights that do not belong to the model.",
    "delete them, or " + _AGAIN,
)
STALE_INDEX = Code(
    "BC908",
    "stale-index",
    "The index of the weights and their files disagree.",
    _AGAIN,
)
HEAD_DISAGREES = Code(
    "BC909",
    "head-disagrees",
    "The config and the weights disagree about the head.",
    "set tie_word_embeddings in config.json to what is meant",
)
NOT_FINITE = Code(
    "BC910",
    "not-finite",
    "Tensors hold infinite values or NaN.",
    "lower weight or lambda, or set out_dtype to a wider one, and merge again",
)
NOT_FINISHED = Code(
    "BC911",
    "not-finished",
    "The merge that wrote the folder did not come to its end.",
    "the merge was not finished: run it again",
)
WEIGHTS_UNREADABLE = Code(
    "BC912",
    "weights-unreadable",
    "The weights cannot be read.",
    "copy the damaged file again, or " + _AGAIN,
)
CONFIG_UNREADABLE = Code(
    "BC913",
    "config-unreadable",
    "The config of the model cannot be read.",
    "copy config.json again, or " + _AGAIN,
)
CONFIG_DIFFERS = Code(
    "BC914",
    "config-differs",
    "The config of the model is not the one that the merge writes.",
    "put back the values that mergekit wrote into config.json",
)
ROWS_DIFFER = Code(
    "BC915",
    "rows-differ",
    "The config gives the vocabulary another size than the weights have.",
    "set the size in config.json to the number of rows",
)
TOKENIZER_MISSING = Code(
    "BC916",
    "tokenizer-missing",
    "Files of the tokenizer are missing.",
    "copy the tokenizer's files into the folder",
)
TOKENIZER_DIFFERS = Code(
    "BC917",
    "tokenizer-differs",
    "The tokenizer is not the one that the merge makes or copies.",
    "copy the right tokenizer's files into the folder",
)
NO_MERGE_CONFIG = Code(
    "BC918",
    "no-merge-config",
    "Nothing says what the folder should hold.",
    "give the config of the merge with --config FILE",
)
CANNOT_REPEAT = Code(
    "BC919",
    "cannot-repeat",
    "The merge cannot be made again here.",
    "put right what stops the merge, then verify again",
)

CODES = tuple(value for value in list(globals().values()) if isinstance(value, Code))

# What is to be done first: a fault of an early kind explains those of later ones.
_FIRST = (
    NOT_FINISHED,
    WEIGHTS_UNREADABLE,
    CONFIG_UNREADABLE,
    NO_MERGE_CONFIG,
    CANNOT_REPEAT,
    TWO_READINGS,
    MADE_OTHERWISE,
    STALE_INDEX,
    TENSOR_DIFFERS,
    NOT_FINITE,
)


def remedy(faults: list[Fault]) -> str:
    """Return what to do first about these faults.

    Example:
        >>> remedy([Fault(STALE_WEIGHTS, "x"), Fault(NOT_FINISHED, "y")])
        'the merge was not finished: run it again'
    """
    order = [*_FIRST, *(code for code in CODES if code not in _FIRST)]
    first = min(faults, key=lambda fault: order.index(fault.code))
    return first.remedy or first.code.remedy
