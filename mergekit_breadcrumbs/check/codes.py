"""The stable codes of all problems, and what `explain` says of each.

The explanations are in `codes.md`, beside this module. Neither mergekit nor torch is
imported here.
"""

from __future__ import annotations

import re
import textwrap
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple, TypeAlias

Severity: TypeAlias = Literal["error", "warning"]

GROUPS = {
    "1": "The file and its keys",
    "2": "Parameters",
    "3": "Models",
    "4": "Layers and modules",
    "5": "Tensors",
    "6": "Tokenizers",
    "7": "What mergekit says",
    "8": "Before you start",
    "9": "What verify finds in a merged model",
}
"""What the first digit of a code stands for."""


class Code(Enum):
    """What can be wrong. A code keeps its meaning, and its number is never reused.

    Example:
        >>> Code.UNKNOWN_PARAMETER.value, Code.UNKNOWN_PARAMETER.severity
        ('BC203', 'error')
    """

    severity: Severity

    def __new__(cls, value: str, severity: Severity) -> Code:
        """Return a member that knows its severity."""
        member = object.__new__(cls)
        member._value_, member.severity = value, severity
        return member

    NOT_YAML = "BC101", "error"
    EQUAL_KEYS = "BC102", "error"
    OTHER_COMMAND = "BC103", "error"
    UNKNOWN_KEY = "BC104", "error"
    MISPLACED_PARAMETER = "BC105", "error"
    WRONG_VALUE = "BC106", "error"
    MISSING_KEY = "BC107", "error"
    CONFLICTING_KEYS = "BC108", "error"
    KEY_WITHOUT_EFFECT = "BC109", "warning"
    UNKNOWN_DTYPE = "BC110", "error"
    UNKNOWN_CHAT_TEMPLATE = "BC111", "error"
    TOO_LARGE = "BC112", "error"
    LOOK_ALIKE = "BC113", "warning"

    OTHER_METHOD = "BC201", "error"
    OTHER_IMPLEMENTATION = "BC202", "error"
    UNKNOWN_PARAMETER = "BC203", "error"
    SHARED_BESIDE_MODEL = "BC204", "error"
    WRONG_PARAMETER_VALUE = "BC205", "error"
    WRONG_CONDITION = "BC206", "error"
    PARAMETER_OF_BASE = "BC207", "warning"
    UNREACHED_CONDITION = "BC208", "warning"
    EMPTY_SETTING = "BC209", "warning"
    LARGE_WEIGHT = "BC210", "warning"
    MISSING_WEIGHT = "BC211", "error"
    UNSET_DENSITY = "BC212", "warning"
    FRACTIONS_OVER_ONE = "BC213", "warning"
    IDLE_MERGE = "BC214", "warning"
    FILTER_WITHOUT_MATCH = "BC215", "error"
    UNUSED_GRADIENT = "BC216", "warning"
    DENSE_MANY = "BC217", "warning"

    NO_BASE = "BC301", "error"
    NOTHING_TO_MERGE = "BC302", "error"
    MODEL_TWICE = "BC303", "error"
    SAME_DIRECTORY = "BC304", "warning"
    MODEL_NOT_FOUND = "BC305", "error"
    MODEL_NOT_CHECKED = "BC306", "warning"
    CACHED_BUT_OFFLINE = "BC307", "warning"
    MODEL_IS_FILE = "BC308", "error"
    UNUSABLE_CONFIG = "BC309", "error"
    UNREADABLE_WEIGHTS = "BC310", "error"
    OTHER_ARCHITECTURE = "BC311", "error"
    NO_ADAPTER_CACHE = "BC312", "error"
    NO_ADAPTER = "BC313", "error"
    QUANTISED = "BC314", "error"
    TWO_WEIGHT_SETS = "BC315", "error"
    ADAPTER_AS_MODEL = "BC320", "error"
    ADAPTER_OF_OTHER_MODEL = "BC321", "error"
    UNUSABLE_ADAPTER = "BC322", "error"
    ADAPTER_BESIDE_MODEL = "BC323", "warning"
    BROKEN_ADAPTER_CACHE = "BC324", "error"
    OLD_ADAPTER_CACHE = "BC325", "warning"
    UNUSABLE_ADAPTER_OPTION = "BC326", "error"
    ADAPTER_CACHE_IN_MODEL = "BC327", "warning"
    PATH_ASKED_ON_HUB = "BC328", "warning"
    UNWRITABLE_CONFIG = "BC329", "error"
    NO_ACCESS = "BC330", "error"
    NO_REVISION = "BC331", "error"
    SHAPES_NOT_CHECKED = "BC332", "warning"
    FILE_AS_MODEL = "BC340", "error"
    DAMAGED_FILE = "BC341", "error"
    WRONG_BASE = "BC342", "error"
    BASE_NOT_COMPARED = "BC343", "warning"
    FILE_HOLDS_LESS = "BC344", "warning"
    FILE_BY_OTHER_SLICES = "BC345", "error"
    FILE_OF_OTHER_DTYPE = "BC346", "warning"

    OTHER_LAYER_COUNT = "BC401", "error"
    WRONG_LAYER_RANGE = "BC402", "error"
    OTHER_TOTAL_OF_LAYERS = "BC403", "warning"
    UNKNOWN_MODULE = "BC404", "error"
    OMITTED_MODULE = "BC405", "error"
    IDLE_SLICE = "BC406", "warning"
    OTHER_LAYERS = "BC407", "warning"

    MISSING_TENSORS = "BC501", "error"
    OTHER_SHAPE = "BC502", "error"
    OTHER_VOCABULARY = "BC503", "error"
    LOST_TENSORS = "BC504", "error"
    UNUSED_TENSORS = "BC505", "warning"
    MISSING_IN_BASE = "BC506", "error"
    MISSING_TASK_VECTOR = "BC507", "warning"
    OWN_TENSORS = "BC508", "warning"
    LOST_HEAD = "BC509", "error"
    UNTIED_HEAD = "BC510", "warning"

    NO_TOKENIZER = "BC601", "error"
    UNKNOWN_TOKENIZER_SOURCE = "BC602", "error"
    UNFIT_VOCABULARY = "BC603", "error"
    TOKEN_WITHOUT_SOURCE = "BC604", "error"
    IDLE_TOKEN = "BC605", "warning"
    ROWS_CUT_OFF = "BC606", "warning"
    WRONG_PADDING = "BC607", "error"
    TOKENS_WITHOUT_ROW = "BC608", "warning"
    ASSUMED_TOKENIZER = "BC609", "warning"
    TOKENIZER_NOT_COPIED = "BC610", "warning"
    TEMPLATE_NOT_SAVED = "BC611", "error"
    NO_CHOICE_OF_TEMPLATE = "BC612", "warning"
    BROKEN_TEMPLATE = "BC613", "warning"
    NUMBERED_OTHERWISE = "BC614", "warning"

    CANNOT_PLAN = "BC701", "error"
    MERGEKIT_WARNS = "BC702", "warning"

    OUT_NOT_WRITABLE = "BC801", "error"
    OUT_IS_INPUT = "BC802", "error"
    OUT_HOLDS_MODEL = "BC803", "warning"
    OLD_WEIGHTS = "BC804", "warning"
    NO_ROOM = "BC805", "error"
    LITTLE_MEMORY = "BC806", "warning"

    TENSOR_DIFFERS = "BC901", "error"
    MADE_OTHERWISE = "BC902", "error"
    TENSOR_MISSING = "BC903", "error"
    TENSOR_EXTRA = "BC904", "error"
    TENSOR_LOST = "BC905", "error"
    TWO_READINGS = "BC906", "error"
    STALE_WEIGHTS = "BC907", "error"
    STALE_INDEX = "BC908", "error"
    HEAD_DISAGREES = "BC909", "error"
    NOT_FINITE = "BC910", "error"
    NOT_FINISHED = "BC911", "error"
    WEIGHTS_UNREADABLE = "BC912", "error"
    CONFIG_UNREADABLE = "BC913", "error"
    CONFIG_DIFFERS = "BC914", "error"
    ROWS_DIFFER = "BC915", "error"
    TOKENIZER_MISSING = "BC916", "error"
    TOKENIZER_DIFFERS = "BC917", "error"
    NO_MERGE_CONFIG = "BC918", "error"
    CANNOT_REPEAT = "BC919", "error"


class Explanation(NamedTuple):
    """What a code means, in one line and in full (Markdown)."""

    title: str
    text: str

    def as_text(self) -> str:
        """Return both without markup, in lines of at most 79 characters."""
        plain = re.sub(r"[*`]", "", self.text)
        paragraphs = [textwrap.fill(part, 79) for part in plain.split("\n\n")]
        return "\n\n".join([self.title, *paragraphs])


@cache
def explanations() -> dict[Code, Explanation]:
    """Return the explanation of every code, in the order of their numbers."""
    text = files(__package__).joinpath("codes.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (BC\d{3}) (.+)\n", text, flags=re.MULTILINE)[1:]
    numbered = {code.value: code for code in Code}
    return {
        numbered[code]: Explanation(title, body.strip())
        for code, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def all_checks() -> str:
    """Return `docs/checks.md`: every code with its explanation.

    Make it again with `python -m mergekit_breadcrumbs.check.codes > docs/checks.md`.
    """
    lines = [_INTRODUCTION]
    group = ""
    for code, (title, text) in explanations().items():
        if code.value[2] != group:
            group = code.value[2]
            lines.append(f"## {GROUPS[group]}")
        lines += [f"### {code.value}: {title}", f"*{code.severity.title()}.*", text]
    return "\n\n".join(lines) + "\n"


_INTRODUCTION = """\
# What the checks find

<!-- Made by `python -m mergekit_breadcrumbs.check.codes`; do not edit. -->

[`mergekit-breadcrumbs inspect`](../README.md) shows a
code with every problem; `mergekit-breadcrumbs explain CODE` prints what is said of it
here. A code keeps its
meaning from release to release. Errors end with exit status 1, warnings do not."""


if __name__ == "__main__":
    print(all_checks(), end="")
