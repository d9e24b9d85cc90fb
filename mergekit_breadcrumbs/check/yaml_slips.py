"""What most likely led to an error of the YAML parser, in plain words.

The parser names what it had expected, and where it stopped; people want to know what to
change, and where.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import yaml

LOOK_ALIKES = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", "a typographic quote"),
    **dict.fromkeys("\u2018\u2019\u201a\u201b", "a typographic quote"),
    **dict.fromkeys("\u00a0\u2007\u202f\u3000", "a space of another kind"),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff\u00ad", "an invisible character"),
}
"""Characters that YAML takes for part of a text, though they look like something else.

They come with what is copied from web pages and text processors.
"""

_NO_SPACE = re.compile(r"\s*(?:- +)*['\"]?[A-Za-z_]\w*['\"]?:[^\s:/\\]")


class Slip(NamedTuple):
    """A parser's error, the lines of the text, and those that it is about, from 0."""

    problem: str
    context: str
    lines: list[str]
    at: yaml.Mark
    since: yaml.Mark

    @property
    def line(self) -> str:
        """The line where reading stopped."""
        return self.lines[self.at.line] if self.at.line < len(self.lines) else ""

    @property
    def above(self) -> int | None:
        """The nearest line above that is not blank, by its number from 0."""
        numbers = range(min(self.at.line, len(self.lines)) - 1, -1, -1)
        return next((n for n in numbers if self.lines[n].strip()), None)

    @property
    def suspects(self) -> list[tuple[int, str]]:
        """The lines that may hold the mistake, with their numbers from 1."""
        numbers = (self.since.line, self.above, self.at.line)
        known = [n for n in numbers if n is not None and n < len(self.lines)]
        return [(n + 1, self.lines[n]) for n in known]


def likely_cause(error: yaml.MarkedYAMLError, lines: list[str]) -> str:
    """Return what has most likely to be changed; empty if that is anybody's guess.

    Example:
        >>> text = "merge_method:breadcrumbs\\nbase_model: base"
        >>> try:
        ...     yaml.safe_load(text)
        ... except yaml.MarkedYAMLError as error:
        ...     print(likely_cause(error, text.splitlines()))
        line 1 needs a space after its colon
    """
    at = error.problem_mark
    if at is None:
        return ""
    since = error.context_mark or at
    slip = Slip(error.problem or "", error.context or "", lines, at, since)
    return next(filter(None, (cause(slip) for cause in _CAUSES)), "")


def look_alike(text: str) -> str:
    """Return what in a text looks like something else; empty if nothing does.

    Example:
        >>> look_alike("density\\u00a0")
        'a space of another kind (U+00A0)'
    """
    found = next((character for character in text if character in LOOK_ALIKES), None)
    return "" if found is None else f"{LOOK_ALIKES[found]} (U+{ord(found):04X})"


def _tab(slip: Slip) -> str:
    margin = slip.line[: len(slip.line) - len(slip.line.lstrip())]
    if r"'\t'" in slip.problem or "\t" in margin:
        return "YAML is indented with spaces, not tabs"
    return ""


def _copied(slip: Slip) -> str:
    for number, line in slip.suspects:
        if found := look_alike(line):
            return f"line {number} has {found}: type it anew"
    return ""


def _quotes(slip: Slip) -> str:
    if "end of stream" in slip.problem and "quoted" in slip.context:
        return f"the quote that opens on line {slip.since.line + 1} is never closed"
    if "escape character" in slip.problem or "escape sequence" in slip.context:
        return r"in double quotes \ begins an escape: use single quotes"
    ended = slip.line[: slip.at.column].rstrip().endswith(("'", '"'))
    if ended and "<block end>" in slip.problem and "<scalar>" in slip.problem:
        return "there is text after a closing quote"
    return ""


def _brackets(slip: Slip) -> str:
    if "flow" in slip.context:
        bracket = "[" if "sequence" in slip.context else "{"
        where = f"the {bracket} on line {slip.since.line + 1}"
        return f"a comma is missing, or {where} is never closed"
    if "<document start>" in slip.problem and re.search(r"'[]}]'", slip.problem):
        return "there is a closing bracket too many"
    return ""


def _colons(slip: Slip) -> str:
    if "mapping values" not in slip.problem and "expected ':'" not in slip.problem:
        return ""
    for number, line in slip.suspects:
        if _NO_SPACE.match(line):
            return f"line {number} needs a space after its colon"
    above = slip.above
    if "expected ':'" in slip.problem:
        return f"line {slip.since.line + 1} has no colon after its key"
    if ": " in slip.line[: slip.at.column]:
        return "text with a colon in it needs quotes"
    if above is not None and ":" not in slip.lines[above]:
        return f"line {above + 1} has no colon after its key"
    if above is not None and _indent(slip.line) > _indent(slip.lines[above]):
        return f"it is indented below line {above + 1}, which has a value already"
    return ""


def _signs(slip: Slip) -> str:
    for sign, name, part in (
        ("*", "an alias", "alias"),
        ("&", "an anchor", "anchor"),
        ("!", "a tag", "tag"),
        ("%", "a directive", "directive"),
    ):
        if part in slip.context or f" {part}" in slip.problem:
            return f"{sign} begins {name}: put text that begins with it in quotes"
    found = re.search(r"character '(.)' that cannot start", slip.problem)
    if found:
        return f"put text that begins with {found[1]} in quotes"
    if "unhashable" in slip.problem:
        if "{{" in slip.line:
            return "put text that begins with { in quotes"
        return "a key has to be text or a number"
    if "for merging" in slip.problem:
        return "<< takes the name of an anchor, such as <<: *name"
    if "sequence entries" in slip.problem:
        return "a list begins on a line of its own, below its key"
    return ""


def _indentation(slip: Slip) -> str:
    above = slip.above
    if "<document start>" in slip.problem and above is not None:
        if slip.lines[above].startswith("%"):
            return "% begins a directive: put text that begins with it in quotes"
        if _indent(slip.lines[above]) > _indent(slip.line):
            return "the lines above are indented by more than this one"
    here, there = slip.at.column + 1, slip.since.column + 1
    if "<block end>" not in slip.problem:
        return ""
    if here == there:
        in_list = "block collection" in slip.context
        return "a - is missing, or some spaces before it" if in_list else ""
    return (
        f"this line begins in column {here}, and those that it belongs with in column"
        f" {there}, from line {slip.since.line + 1} on"
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


_CAUSES: tuple[Callable[[Slip], str], ...] = (
    *(_tab, _quotes, _copied, _colons, _brackets, _signs, _indentation),
)
