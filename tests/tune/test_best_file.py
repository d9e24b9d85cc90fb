"""The text of best.yml: what mergekit reads in it, and what is left of the user's."""

import io
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mergekit.config import MergeConfiguration
from ruamel.yaml import YAML

from mergekit_breadcrumbs.tune.best_file import best_file
from mergekit_breadcrumbs.tune.search import Target
from mergekit_breadcrumbs.tune.values import with_values

COMMENTED = """\
# Made on a Monday.
merge_method: breadcrumbs  # not ties
base_model: "org/base"
models:
  # the first
  - model: org/math  # for maths
    parameters:
      weight: 0.5  # half of it
  - model: 'org/code'
    parameters: {weight: 0.5}

parameters:
  # how much is kept
  density: 0.9
  gamma: 0.01  # the largest
  # none of these
dtype: bfloat16
# The end.
"""
PLAIN = COMMENTED.replace("  - ", "- ").replace("    p", "  p").replace("   ", " ")
FLOW = """\
{merge_method: breadcrumbs, base_model: b, # flow
 models: [{model: m, parameters: {weight: 1, density: 0.9}}]}
"""
GRADIENTS = """\
merge_method: breadcrumbs
base_model: b
models:
  - model: m
    parameters:
      weight: [0.1, 0.5, 0.9]   # a gradient
      density:
        - filter: mlp           # a filter
          value: 0.5
        - value: 0.7
tokenizer: {source: union}   # of all
"""
UNICODE = "# Grüße, 你好\n" + COMMENTED.replace("org/math", "org/mäth-模")
KEPT = {
    "comments on every line": COMMENTED,
    "lists that are not indented": PLAIN,
    "gradients and filters": GRADIENTS,
    "no parameters": "merge_method: slerp # m\nmodels:\n- model: m  # only\n",
    "unicode": UNICODE,
    "no newline at the end": COMMENTED.rstrip(),
    "a document's marks": f"---\n{COMMENTED}",
}
ALIASES = """\
merge_method: breadcrumbs  # a comment
base_model: b
models:
  - {model: m, parameters: &same {weight: 0.5, density: 0.7}}
  - {model: n, parameters: *same}
  - {model: o, parameters: {<<: *same, gamma: 0.1}}
"""
OTHER = {
    "flow style": FLOW,
    "aliases": ALIASES,
    "windows": COMMENTED.replace("\n", "\r\n"),
    "a mark of byte order": f"\ufeff{COMMENTED}",
    "a key twice": COMMENTED + "dtype: float16\n",
    "numbers of YAML 1.1": COMMENTED.replace("0.01", "1_0e-3"),
    "octal": COMMENTED + "x: 010\ny: 1:30\nz: on\n",
}
VALUES = {Target("density"): 0.123456789, Target("gamma"): 1e-5, Target("lambda"): 2e-7}
WEIGHTS = {Target("weight", "m"): 0.25, Target("weight", "org/math"): 1 / 3}


def comments(text):
    return re.findall(r"#.*", text)


@pytest.mark.parametrize("values", [VALUES, WEIGHTS, VALUES | WEIGHTS])
@pytest.mark.parametrize("text", [*KEPT.values(), *OTHER.values()], ids=[*KEPT, *OTHER])
def test_what_is_read(text, values):
    """PyYAML and mergekit read the values, and all else as it was."""
    data = yaml.safe_load(text)
    written = best_file(data, values, ["Found."], text)
    assert written.startswith("# Found.\n")
    read = yaml.safe_load(written)
    assert read == with_values(data, values)
    assert list(read)[: len(data)] == [key for key in data if key in read]
    config = MergeConfiguration.model_validate(read)
    for target, value in values.items():
        if target.model is None:
            assert config.parameters[target.parameter] == value
    for model in config.models:
        wanted = values.get(Target("weight", str(model.model)))
        if wanted is not None:
            assert model.parameters["weight"] == wanted


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_what_is_kept(text):
    """Comments, quotes and order stay where a value is changed."""
    data = yaml.safe_load(text)
    values = {Target("density"): 0.25} if "parameters:\n  #" in text else {}
    written = best_file(data, values, ["Found."], text)
    assert comments(written)[1:] == comments(text)
    for quoted in re.findall(r"""["'][^"'\n]+["']""", text):
        assert quoted in written
    if not values:
        assert written.partition("# Found.\n")[2].strip() == text.strip()


def test_only_what_changed():
    """Every other line is the user's own, to the letter."""
    data = yaml.safe_load(COMMENTED)
    written = best_file(data, {Target("density"): 0.25}, [], COMMENTED).splitlines()[1:]
    changed = [
        (old, new)
        for old, new in zip(COMMENTED.splitlines(), written, strict=True)
        if old != new
    ]
    assert changed == [("  density: 0.9", "  density: 0.25")]


def test_it_says_so():
    """Where comments are lost, the header says that they are."""
    data = yaml.safe_load(ALIASES)
    written = best_file(
        data, VALUES | {Target("weight", "m"): 0.1}, ["Found."], ALIASES
    )
    assert "# The config's comments and layout could not be kept." in written
    assert "&" not in written
    written = best_file(yaml.safe_load(FLOW), VALUES, [], FLOW)
    assert "# Not all of the config's comments could be kept." in written
    gone = best_file(yaml.safe_load(GRADIENTS), VALUES, [], GRADIENTS)
    assert "# Not all of the config's comments could be kept." in gone
    assert "# a gradient" in gone
    assert "could not be kept" not in best_file(data, VALUES, ["Found."])


@pytest.mark.parametrize(
    "line",
    [
        "a\nmerge_method: linear",
        "x" * 3000,
        "\x1b[31m\u2028y: 1",
        "# - {",
        "a \uffff\ufffe",
        "",
    ],
)
def test_header(line):
    """Whatever a line of the header has in it, it stays a comment."""
    data = yaml.safe_load(COMMENTED)
    for text in (COMMENTED, None):
        written = best_file(data, {}, ["Found.", line], text)
        assert yaml.safe_load(written) == data
        assert "\x1b" not in written


def test_header_is_wrapped():
    """A long line of the header is several, of which each is a comment."""
    written = best_file({"merge_method": "linear"}, {}, ["word " * 100])
    header = written.splitlines()[:-1]
    assert len(header) > 5
    assert all(line.startswith("# ") and len(line) <= 88 for line in header)


def test_windows():
    """A file of Windows has one kind of line ends afterwards, and its comments."""
    text = COMMENTED.replace("\n", "\r\n")
    written = best_file(yaml.safe_load(text), VALUES, [], text)
    assert written == best_file(yaml.safe_load(COMMENTED), VALUES, [], COMMENTED)
    assert "\r" not in written
    assert "# how much is kept" in written
    old = COMMENTED.replace("\n", "\r")
    written = best_file(yaml.safe_load(old), VALUES, [], old)
    assert "# The config's comments and layout could not be kept." in written


def test_it_says_so_of_a_comment_that_is_there_twice():
    """One of two like comments that goes is a comment that goes."""
    text = "merge_method: x\nparameters:\n  gamma: 0.1  # s\n  density: 0.5  # s\n"
    text += "models:\n- model: m\n"
    values = {Target("density", "m"): 0.5}
    written = best_file(yaml.safe_load(text), values, [], text)
    assert "# Not all of the config's comments could be kept." in written


def test_ruamel_is_left_as_it_is():
    """Others in the process write floats as they did before."""
    best_file(yaml.safe_load(COMMENTED), VALUES, [], COMMENTED)
    content = io.StringIO()
    YAML().dump({"gamma": 1e-05}, content)
    assert content.getvalue() == "gamma: 1e-05\n"


def test_letters_are_not_escaped():
    """A name in another script is one to read where the layout is lost too."""
    written = best_file({"base_model": "org/mäth-模"}, {}, [])
    assert "org/mäth-模" in written


@given(st.floats(allow_nan=False), st.sampled_from([COMMENTED, FLOW, None]))
def test_floats(value, text):
    """Every number comes out as the one that went in."""
    data = yaml.safe_load(text or COMMENTED)
    written = best_file(data, {Target("gamma"): value}, [], text)
    read = yaml.safe_load(written)["parameters"]["gamma"]
    assert isinstance(read, float)
    assert (read, str(read)) == (value, str(value))
    if text is not None:
        assert "could not be kept" not in written
