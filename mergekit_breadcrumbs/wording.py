"""Small pieces of text that messages are made of."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any


def counted(number: int, noun: str) -> str:
    """Return a number of things.

    Example:
        >>> counted(1, "layer"), counted(2, "layer")
        ('1 layer', '2 layers')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def bytes_text(size: int) -> str:
    """Return a number of bytes with three digits, in decimal units, as disks have them.

    Example:
        >>> bytes_text(14_483_464_192), bytes_text(91_300), bytes_text(7)
        ('14.5 GB', '91.3 kB', '7 B')
    """
    number, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while number >= 999.5 and len(units) > 1:
        number, units = number / 1000, units[1:]
    return f"{number:.3g} {units[0]}"


def listed(names: Sequence[str], at_most: int = 1) -> str:
    """Return the first few names, and how many more there are.

    Example:
        >>> listed(["lm_head.weight", "norm.weight", "norm.bias"])
        'lm_head.weight and 2 more'
        >>> listed(["lm_head.weight", "norm.weight"], at_most=2)
        'lm_head.weight, norm.weight'
    """
    more = len(names) - at_most
    text = ", ".join(names[:at_most])
    return f"{text} and {more} more" if more > 0 else text


def one_line(value: Any) -> str:
    """Return a value for a message, on one line of at most 80 characters.

    Example:
        >>> one_line({"density": [0.5] * 100})
        "{'density': [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ...]}"
    """
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 60
    shortener.maxlevel = 3
    text = " ".join(shortener.repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def visible(text: object) -> str:
    """Return text from a file or a name of one, harmless for a terminal.

    Control characters, invisible ones and lone surrogates are escaped as in Python.

    Example:
        >>> visible("norm\\x1b[31m.weight")
        'norm\\\\x1b[31m.weight'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in str(text)
    )


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?", or nothing if no known name is near.

    Example:
        >>> did_you_mean("gama", ["density", "gamma"])
        '; did you mean gamma?'
        >>> did_you_mean("x", ["density", "gamma"])
        ''
    """
    close = difflib.get_close_matches(str(name).lower(), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
