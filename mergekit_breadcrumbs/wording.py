"""Small pieces of text that messages are made of."""

from __future__ import annotations

import difflib
import math
import os
import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

_HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


_DIGITS_A_BIT = math.log10(2)
_LONGEST_NAME = 60  # of those that may be a misspelling


def visible(text: object) -> str:
    """Return text from a file so that no terminal takes any of it for a command.

    Control characters, those that turn the direction of writing, and lone surrogates,
    which no terminal can show, become escapes as in Python.

    Example:
        >>> print(visible("Evil\x1b[31mX"))
        Evil\\x1b[31mX
    """
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], str(text))


def visible_lines(text: str) -> str:
    """Return text of several lines with each of them `visible`.

    Example:
        >>> visible_lines("Evil\x1b[31mX\\nmore")
        'Evil\\\\x1b[31mX\\nmore'
    """
    return "\n".join(map(visible, text.split("\n")))


def shortened(text: str, at_most: int = 200) -> str:
    """Return text on one line, cut off at a number of characters.

    Example:
        >>> shortened("Config LlamaConfig {\\n  7", at_most=20)
        'Config LlamaConfi...'
    """
    # Far more than is wanted is not even looked at.
    text = " ".join(text[: 100 * at_most].split())
    return text if len(text) <= at_most else f"{text[: at_most - 3]}..."


def as_path(name: str) -> str:
    """Return the name of a model, with ./ in front if it is that of something here.

    Without that, mergekit and the hub's library take it for a name on the hub.

    Example:
        >>> as_path("org/model"), as_path("/"), as_path("..")
        ('org/model', '/', '..')
    """
    here = os.path.exists(name) and not name.startswith((".", "/", "~"))
    return f"./{name}" if here else name


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


class _Shortener(reprlib.Repr):
    """Writes values short, and at once, whatever they are."""

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out integers of more than 4300 digits.
        if x.bit_length() <= 400:
            return repr(x)
        return f"an integer of {int(x.bit_length() * _DIGITS_A_BIT) + 1} digits"


def one_line(value: Any) -> str:
    """Return a value for a message, on one line of at most 80 characters.

    Example:
        >>> one_line({"density": [0.5] * 100})
        "{'density': [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, ...]}"
    """
    shortener = _Shortener()
    shortener.maxstring = shortener.maxother = 60
    shortener.maxlevel = 3
    return shortened(shortener.repr(value), 80)


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?", or nothing if no known name is near.

    Example:
        >>> did_you_mean("gama", ["density", "gamma"])
        '; did you mean gamma?'
        >>> did_you_mean("x", ["density", "gamma"])
        ''
    """
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return ""
    known = list(known)
    if name.partition(":")[0] in known:
        return missing_space(name)
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def missing_space(value: Any) -> str:
    """Return "; write a space after the colon", or nothing if none is missing.

    Example:
        >>> missing_space("density:0.9"), missing_space("org/model")
        ('; write a space after the colon', '')
    """
    slip = isinstance(value, str) and re.match(r"[A-Za-z_]\w*:[^\s:/\\]", value)
    return "; write a space after the colon" if slip else ""
