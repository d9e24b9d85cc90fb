"""The text of a config with other values, as much like the user's as it can be."""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mergekit_breadcrumbs.tune.search import Target
from mergekit_breadcrumbs.tune.values import set_values, with_values
from mergekit_breadcrumbs.wording import shortened, visible

_WIDTH = 88
_LONGEST = 1000  # characters of one line of the header
# A key, comments, and the first dash of the list below it.
_FIRST_LIST = re.compile(
    r"^( *)[\w.]+:[ \t]*(?:#.*)?\n(?:\s*#.*\n)*( *)-( +)\S", re.MULTILINE
)
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*", re.MULTILINE)
_NOT_KEPT = "The config's comments and layout could not be kept."
_NOT_ALL_KEPT = "Not all of the config's comments could be kept."


def best_file(
    data: Mapping[str, Any],
    values: Mapping[Target, float],
    header: Sequence[str],
    text: str | None = None,
) -> str:
    """Return a config for `mergekit-yaml` with these values, below a header.

    Args:
        data: the config, as YAML has it.
        values: to set in it.
        header: lines to put above it as comments.
        text: of the user's file, whose comments and layout are kept as far as can be;
            None if there is none.

    Example:
        >>> data = {"merge_method": "breadcrumbs", "base_model": "b"}
        >>> print(best_file(data, {Target("gamma"): 1e-05}, ["Found."]), end="")
        # Found.
        merge_method: breadcrumbs
        base_model: b
        parameters:
          gamma: 1.0e-05
    """
    wanted = with_values(data, values)
    if text is not None:
        text = text.replace("\r\n", "\n")  # ruamel keeps it in comments alone
    edited = None if text is None else _edited(text, values)
    lines = list(header)
    if text is None or edited is None:
        lines += [] if text is None else [_NOT_KEPT]
        return _comments(lines) + _plain(wanted)
    if Counter(_COMMENT.findall(text)) - Counter(_COMMENT.findall(edited)):
        lines.append(_NOT_ALL_KEPT)
    between = "\n" if edited.lstrip().startswith("#") else ""
    whole = f"{_comments(lines)}{between}{edited}"
    if _reads_as(whole, wanted):
        return whole
    return _comments([*header, _NOT_KEPT]) + _plain(wanted)


def _comments(header: Sequence[str]) -> str:
    lines = [
        line
        for text in header
        for line in textwrap.wrap(
            visible(shortened(text, _LONGEST)),
            _WIDTH,
            initial_indent="# ",
            subsequent_indent="#   ",
            break_on_hyphens=False,
            # A path longer than a line stays one word.
            break_long_words=False,
        )
    ]
    return "".join(f"{line}\n" for line in lines)


def _plain(data: dict[str, Any]) -> str:
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=_WIDTH)


def _reads_as(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return bool(yaml.safe_load(text) == wanted)
    except yaml.YAMLError:
        return False


def _edited(text: str, values: Mapping[Target, float]) -> str | None:
    """Return the user's file with these values; None if that cannot be done."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """Has a table of its own: ruamel's is one for the whole process."""

    if "\r" in text:
        return None
    Representer.add_representer(float, _represent)
    editor = YAML(typ="rt")
    editor.Representer = Representer
    editor.preserve_quotes = True
    editor.width = 1 << 16
    sequence, offset = _indents(text)
    editor.indent(mapping=2, sequence=sequence, offset=offset)
    content = io.StringIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            data = editor.load(text)
            set_values(data, values)
            editor.dump(data, content)
    # What it raises for files that it cannot edit is of many kinds.
    except (YAMLError, ValueError, TypeError, LookupError, AttributeError, Warning):
        return None
    return content.getvalue()


def _represent(representer: Any, value: float) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:float", _float(value))


def _float(value: float) -> str:
    """Write a float so that PyYAML reads it as the same one.

    It takes 1e-05 for text.

    Example:
        >>> _float(1e-05), _float(0.1), _float(1e20)
        ('1.0e-05', '0.1', '1.0e+20')
    """
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    text = repr(value)
    return re.sub(r"^(-?\d+)e", r"\1.0e", text)


def _indents(text: str) -> tuple[int, int]:
    """Return how a file indents lists: what is in them, and their dashes."""
    found = _FIRST_LIST.search(text)
    if found is None:
        return 2, 0
    offset = len(found[2]) - len(found[1])
    return offset + 1 + len(found[3]), offset
