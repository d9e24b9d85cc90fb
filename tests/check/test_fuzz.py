"""Whatever stands in a config or in a model's files: problems are said, none raised.

MERGEKIT_BREADCRUMBS_FUZZ=100 tries a hundred times as many examples.
"""

import copy
import json
import os
import pickle
import re
import shutil
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mergekit.io import LazyTensorLoader
from mergekit.options import MergeOptions
from support.checked_configs import MODELS, MODULES, SLICES, make_models
from support.checkpoints import SHARDED, finetune

from mergekit_breadcrumbs.check.problems import place_name
from mergekit_breadcrumbs.check.run import Checked, check_file, check_text
from mergekit_breadcrumbs.check.text import as_json, problem_lines

pytestmark = pytest.mark.slow

TIMES = int(os.environ.get("MERGEKIT_BREADCRUMBS_FUZZ", "1"))
DEADLINE = 10
"""Seconds within which there is an answer to anything."""


def few(examples: int) -> settings:
    """Try so many examples, or as many times more as the environment says."""
    return settings(max_examples=examples * TIMES)


@pytest.fixture(scope="module", autouse=True)
def _beside_the_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    root = make_models(tmp_path_factory.mktemp("models"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield


def _check(text: str) -> None:
    """Check a config; each problem fits on a line and is in the file."""
    began = time.monotonic()
    checked = check_text(text, MergeOptions())
    _assert_answered(checked, began)
    lines = len(re.findall(r"[\n\r\x85\u2028\u2029]", text)) + 1
    for problem in checked.problems:
        assert str(problem)
        assert "\n" not in place_name(problem.place)
        assert problem.line is None or 1 <= problem.line <= lines
    if not checked.problems.count("error"):
        assert checked.config is not None
        assert checked.tensors


def _assert_answered(checked: Checked, began: float) -> None:
    """In time, as text that no terminal obeys, and as JSON."""
    for line in problem_lines(checked, Path("c.yml"), excerpts=True):
        kinds = set(map(unicodedata.category, click.unstyle(line)))
        assert kinds.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert json.loads(as_json(checked, Path("c.yml")))
    assert time.monotonic() - began < DEADLINE


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**400, 10**401),
    st.floats(),
    st.dates(),
    st.binary(max_size=3),
    st.text(max_size=5),
    st.sampled_from(["weight", "base", "math", "breadcrumbs", "union", "*", "a@b@c"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(["value", "filter", "model", "parameters", "weight"]),
                st.text(max_size=3),
                st.integers(0, 3),
            ),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=6,
)


def _places(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for step, inner in items:
            yield from _places(inner, (*place, step))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A right config in which one to three values are replaced, removed or added."""
    text = draw(st.sampled_from([MODELS, SLICES, MODULES]))
    data = {"": copy.deepcopy(yaml.safe_load(text))}
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(_places(data))[1:]))
        node: Any = data
        for step in way:
            node = node[step]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            node[last] = draw(VALUES)
        elif action == "remove" and way:
            del node[last]
        elif isinstance(node[last], dict):
            node[last][draw(st.one_of(st.text(max_size=4), SCALARS))] = draw(VALUES)
        elif isinstance(node[last], list):
            node[last].append(draw(VALUES))
    return str(yaml.safe_dump(data[""], sort_keys=False))


@few(300)
@given(mutated())
def test_mutated_configs(text: str) -> None:
    """A config with some values changed never ends in a traceback."""
    _check(text)


@few(300)
@given(st.text(max_size=60))
@example("!!timestamp x")
@example("!!bool x")
@example("{\x85")
@example("!!python/object:os.system x")
@example("? [a]\n: b")
@example("? {a: b}\n: c")
@example("[" * 5000)
@example("a: " * 50)
@example("<<: 1")
@example("<<: [1]")
@example("merge_method: &a [*a]")
@example("models: &a {model: base, parameters: *a}")
@example("modules: &a {x: *a}")
@example("\x00")
@example("a: 0x")
@example("a: 2024-99-99")
@example("a: 1" + "0" * 5000)
def test_any_text(text: str) -> None:
    """Text that is no config at all, or odd YAML, never ends in a traceback."""
    _check(text)


@few(200)
@given(st.data())
def test_cut_and_pasted_text(data: st.DataObject) -> None:
    """A config with a piece of its text moved or lost never ends in a traceback."""
    text = data.draw(st.sampled_from([MODELS, SLICES, MODULES]))
    start, end, to = (data.draw(st.integers(0, len(text))) for _ in range(3))
    rest = text[:start] + text[max(start, end) :]
    piece = data.draw(st.sampled_from(["", text[start:end], "\t", "- ", ": ", "&a *a"]))
    _check(rest[:to] + piece + rest[to:])


# What means something to a parser of YAML or of JSON, and what may be in no text.
PIECES = st.one_of(
    st.sampled_from(
        rb"\t \n \r \0 \x1b[31m \xff \xa0 \u201c \ufeff : :\x20 -\x20 [ ] { } ' * &"
        rb" &a\x20 *a <<:\x20 !! |\n > # % @ ` ? ---\n ...\n 0x 1e999 .nan".split()
    ).map(lambda piece: piece.decode("unicode_escape").encode()),
    st.binary(max_size=4),
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """These bytes with one to four pieces lost, moved or put in."""
    content = whole
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = start + draw(st.sampled_from([0, 0, 1, 2, 8, 100]))
        piece = draw(st.one_of(PIECES, st.just(content[start:end] * 2)))
        content = content[:start] + piece + content[end:]
    return content


@few(100)
@given(st.data())
def test_any_bytes(data: st.DataObject) -> None:
    """A config with damaged bytes, or any bytes at all, gets an answer."""
    text = data.draw(st.sampled_from([MODELS, SLICES, MODULES]))
    content = data.draw(st.one_of(damaged(text.encode()), st.binary(max_size=40)))
    Path("fuzzed.yml").write_bytes(content)
    began = time.monotonic()
    checked = check_file(Path("fuzzed.yml"), MergeOptions())
    _assert_answered(checked, began)
    assert checked.problems.count("error") or checked.config is not None


JSONS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 10**30),
        st.floats(),
        st.text(max_size=4),
        st.sampled_from(
            ["F32", "BF16", "F8_E4M3", "I8", "\x1b[31m", "..", "/dev/zero"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner)
    ),
    max_leaves=4,
)


@st.composite
def changed_json(draw: st.DrawFn, whole: bytes) -> bytes:
    """This JSON with one to three values replaced, removed or added, or damaged."""
    data = {"": json.loads(whole)}
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(list(_places(data))[1:]))
        node: Any = data
        for step in way:
            node = node[step]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "remove" and way:
            del node[last]
        elif action == "add" and isinstance(node[last], dict):
            node[last][draw(st.text(max_size=4))] = draw(JSONS)
        else:
            node[last] = draw(JSONS)
    text = json.dumps(data[""]).encode("utf-8", "surrogatepass")
    return text if draw(st.integers(0, 3)) else draw(damaged(text))


@st.composite
def changed_header(draw: st.DrawFn, whole: bytes) -> bytes:
    """This safetensors file with another header, or another length of it."""
    size = int.from_bytes(whole[:8], "little")
    header = draw(changed_json(whole[8 : 8 + size]))
    lengths = st.sampled_from([len(header)] * 4 + [0, 1, size, 2**40, 2**64 - 1])
    content = draw(lengths).to_bytes(8, "little") + header + whole[8 + size :]
    return content[: draw(st.sampled_from([len(content)] * 4 + [0, 7, 8, 300]))]


@st.composite
def changed_pickle(draw: st.DrawFn, whole: bytes) -> bytes:
    """This checkpoint damaged, or a pickle of something else."""
    if draw(st.booleans()):
        return draw(damaged(whole))
    return pickle.dumps(draw(JSONS))


class Content(bytes):
    """Content of a file, too much of it to be printed; it stays in `fuzzed`."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


CHANGES = {
    "config.json": changed_json,
    "model.safetensors": changed_header,
    "model.safetensors.index.json": changed_json,
    "pytorch_model.bin": changed_pickle,
    "adapter_config.json": changed_json,
}
"""What is done to a file of a model."""


@pytest.fixture(scope="module")
def originals() -> dict[str, Path]:
    """For each file a model, or an adapter, that has it."""
    finetune(Path("base"), Path("sharded"), seed=9, max_shard_size=SHARDED)
    homes = dict.fromkeys(CHANGES, Path("code"))
    homes["model.safetensors.index.json"] = Path("sharded")
    homes |= {"pytorch_model.bin": Path("pickled"), "adapter_config.json": Path("lora")}
    return homes


@pytest.mark.parametrize("name", CHANGES)
def test_any_file_of_a_model(name: str, originals: dict[str, Path]) -> None:
    """A model's file with damage gets an answer; without an error, it can be read."""
    shutil.rmtree("fuzzed", ignore_errors=True)
    shutil.copytree(originals[name], "fuzzed")
    file = Path("fuzzed", name)
    whole = file.read_bytes()
    model = "./base+./fuzzed" if name.startswith("adapter") else "./fuzzed"
    Path("fuzzed.yml").write_text(MODELS.replace(": ./code", f": {model}"))

    @few(25)
    @given(CHANGES[name](whole).map(Content))
    def answers(content: bytes) -> None:
        file.write_bytes(content)
        began = time.monotonic()
        options = MergeOptions(lora_merge_cache="adapted")
        checked = check_file(Path("fuzzed.yml"), options)
        _assert_answered(checked, began)
        if not checked.problems.count("error") and model == "./fuzzed":
            assert checked.tensors
            # What is wrong with a pickle's numbers shows only when they are read.
            if name.endswith(".bin"):
                return
            loader = LazyTensorLoader.from_disk(model, lazy_unpickle=False)
            for tensor in loader.index.tensor_paths:
                assert isinstance(loader.get_tensor(tensor), torch.Tensor)

    answers()
