"""What YAML's parser stops at, and what is said of the likely cause."""

import pytest
from support.checked_configs import said

SLIPS = {
    "a tab": ("a:\n  b: 1\n\tc: 2\n", 3, "spaces, not tabs"),
    "a line too far left": ("a:\n  - b: a\n   c: 1\n", 3, "begins in column 4"),
    "a line too far right": (
        "merge_method: a\n  base_model: x\n",
        2,
        "below line 1, which has a value already",
    ),
    "first lines too far right": ("  a: 1\nb: x\n", 2, "lines above are indented"),
    "no dash": ("models:\n  - model: a\n  model: b\n", 3, "a - is missing"),
    "a list beside its key": ("models: - a\n", 1, "on a line of its own"),
    "a quote left open": ('a: 1\nb: "c\nd: e\n', 4, "opens on line 2 is never closed"),
    "a quote within quotes": ("a: 'it's'\n", 1, "text after a closing quote"),
    "a backslash": ('a: "C:\\models"\n', 1, "use single quotes"),
    "a bracket left open": ("a: [1, 2\nb: 3\n", 2, "the [ on line 1 is never closed"),
    "a brace left open": ("a: {b: 1\nc: 3\n", 2, "the { on line 1 is never closed"),
    "a brace too many": ("{a: 1}}\n", 1, "a closing bracket too many"),
    "a colon in text": ("a: b: c\n", 1, "text with a colon in it needs quotes"),
    "no space after the first colon": ("a:b\nc: d\n", 2, "line 1 needs a space"),
    "no space after a later one": ("a: b\nc:d\ne: f\n", 3, "line 2 needs a space"),
    "no space, indented": ("p:\n  density:0.9\n  x: 1\n", 3, "line 2 needs a space"),
    "no colon": ("merge_method a\nb: c\n", 2, "line 1 has no colon"),
    "no colon, later": ("a: b\nmerge_method c\nd: e\n", 3, "line 2 has no colon"),
    "a percent sign": ("a: %x\n", 1, "put text that begins with % in quotes"),
    "an at sign": ("a: @x\n", 1, "put text that begins with @ in quotes"),
    "a backtick": ("a: `x`\n", 1, "put text that begins with ` in quotes"),
    "a percent sign in front": ("%x\na: 1\n", 2, "% begins a directive"),
    "a star": ("filter: *\nb: 1", 1, "* begins an alias"),
    "a star and a name": ("filter: *mlp\n", 1, "* begins an alias"),
    "an ampersand": ("a: & b\n", 1, "& begins an anchor"),
    "an exclamation mark": ("a: !x\n", 1, "! begins a tag"),
    "code": ("a: !!python/object:os.system x\n", 1, "! begins a tag"),
    "two braces": ("chat_template: {{ x }}\n", 1, "begins with { in quotes"),
    "a list for a key": ("? [a]\n: b\n", 1, "a key has to be text or a number"),
    "a merge key without an anchor": ("a: {<<: 1}\n", 1, "the name of an anchor"),
    "a typographic quote": ("a: “b: c”\n", 1, "a typographic quote (U+201C)"),
    "a zero character": ("a: 1\nb: \x00\n", 2, "the character U+0000"),
    "a date that is none": ("a: 1\nb: 2024-99-99\n", 2, "quotes if it is no timestamp"),
    "Windows line ends": ("a:\r\n  b: 1\r\n\tc: x\r\n", 3, "spaces, not tabs"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_likely_cause(slip: str) -> None:
    """The line is that of the parser, and beside its words stand plain ones."""
    text, line, cause = SLIPS[slip]
    *_, problem = said(text)
    assert problem.startswith(f"{line} error BC101: not valid YAML: ")
    assert cause in problem


RIGHT = {
    "a byte order mark": "\ufeffmerge_method: ties\n",
    "Windows line ends": "merge_method: ties\r\nbase_model: x\r\n",
    "a merge key": "x: &x {a: 1}\ny: {<<: *x}\nmerge_method: ties\n",
    "quotes within text": "merge_method: ties\nchat_template: it says “a”, b\n",
}


@pytest.mark.parametrize("reason", RIGHT)
def test_no_false_alarm(reason: str) -> None:
    """What YAML allows is not mistaken for a slip."""
    problems = " ".join(said(RIGHT[reason]))
    assert "BC101" not in problems
    assert "BC113" not in problems
