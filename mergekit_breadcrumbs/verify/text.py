"""What a verification found, as lines for a terminal of eighty columns."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from mergekit_breadcrumbs.check.codes import Code, explanations
from mergekit_breadcrumbs.verify.faults import remedy
from mergekit_breadcrumbs.verify.run import Verified
from mergekit_breadcrumbs.wording import counted, visible

SHOWN = 20
"""How many faults of one kind are shown, unless all are asked for."""

_WIDTH = 80
_NOT_COMPARED = {Code.NO_MERGE_CONFIG, Code.CANNOT_REPEAT}


def fault_lines(verified: Verified, *, every: bool = False) -> list[str]:
    """Return the faults in the order found, under a heading for each kind."""
    kinds: dict[Code, list[str]] = {}
    for fault in verified.faults:
        kinds.setdefault(fault.code, []).append(fault.text)
    lines = []
    for code, texts in kinds.items():
        number = click.style(code.value, fg="red", bold=True)
        heading = _wrapped(f"{code.value} {explanations()[code].title}:")
        lines.append(heading.replace(code.value, number, 1))
        shown = texts if every else texts[:SHOWN]
        lines += [_wrapped(text, "  ") for text in shown]
        if len(shown) < len(texts):
            more = len(texts) - len(shown)
            lines.append(f"  and {more:,} more of {len(texts):,} (--all lists them)")
    lines += [_wrapped(note) for note in verified.notes]
    return lines


def summary(verified: Verified, folder: Path) -> str:
    """Return the closing line: whether the folder is right, or else what to do."""
    name = visible(folder)
    if not verified.faults:
        sizes = f"{counted(verified.tensors, 'tensor')}, {verified.elements:,} elements"
        return _wrapped(f"{name} holds exactly what its config says ({sizes}).")
    found = counted(len(verified.faults), "problem")
    if {fault.code for fault in verified.faults} <= _NOT_COMPARED:
        text = f"{name} could not be verified ({found}): "
    else:
        text = f"{name} does not hold what its config says ({found}): "
    return _wrapped(text + remedy(verified.faults) + ".")


def _wrapped(text: str, indent: str = "") -> str:
    # A name is not broken: it has to be searched for and copied.
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
