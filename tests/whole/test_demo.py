"""The parts of the demo."""

import os
import py_compile
import re
import sys
from pathlib import Path

import click
import pytest
import torch
from support.files import digests
from support.repository import run

from mergekit_breadcrumbs.demo import merging, training
from mergekit_breadcrumbs.demo import run as demo
from mergekit_breadcrumbs.demo.folder import claim, finish
from mergekit_breadcrumbs.demo.tasks import TASKS, build_tokenizer, draw_cases
from mergekit_breadcrumbs.demo.training import (
    encode,
    new_model,
    reproducible,
    train,
)


@pytest.mark.slow
def test_held_out_cases_are_never_trained_on(tmp_path, monkeypatch, copied):
    """No line that is measured is in any training, and the base's are the experts'."""
    trained, measured = {}, set()

    def lines(data):
        # Without the padding, which is as wide as the longest line of each set.
        return {tuple(filter(None, row)) for row in data.ids.tolist()}

    def train(model, data, *, name, **_):
        trained[name] = set().union(*map(lines, data))

    def accuracy(model, data):
        measured.update(lines(data))
        return 0.0

    monkeypatch.setattr(demo, "train", train)
    monkeypatch.setattr(training, "accuracy", accuracy)
    demo.run_demo(tmp_path / "out")
    experts = set().union(*(trained[f"expert-{task.name}"] for task in TASKS))
    assert len(measured) == 2 * 200 * len(TASKS), "the table's, and others for a scale"
    assert len(experts) == 2000 * len(TASKS)
    assert len(trained["base"]) == 500 * len(TASKS)
    assert trained["base"] < experts
    assert not measured & experts


@pytest.mark.slow
def test_cases_are_the_same_in_every_process():
    """What is drawn does not hang on the order in which a process hashes strings."""
    ask = (
        "from mergekit_breadcrumbs.demo.tasks import TASKS, draw_cases;"
        "print([draw_cases(task, 50, 0) for task in TASKS])"
    )
    for seed in ("1", "2"):
        hashed = os.environ | {"PYTHONHASHSEED": seed}
        done = run(sys.executable, "-c", ask, env=hashed)
        assert done.stdout.strip() == str([draw_cases(task, 50, 0) for task in TASKS])


def _plain(name, question):
    """Answer a question in another way than the demo does."""
    if name == "sort":
        return "".join(digit * question.count(digit) for digit in "0123456789")
    if name == "reverse":
        return "".join(question[i] for i in range(len(question) - 1, -1, -1))
    if name == "next":
        return "".join(chr((ord(c) - ord("a") + 1) % 26 + ord("a")) for c in question)
    if name == "swap":
        letters = list(question)
        letters[0], letters[-1] = letters[-1], letters[0]
        return "".join(letters)
    if name == "double":
        return "".join(question[i // 2] for i in range(2 * len(question)))
    if name == "vowels":
        return re.sub("[^aeiou]", "", question)
    if name == "odd":
        return "".join(c for c in question if int(c) % 2)
    value, last = 0, 0
    worth = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    for letter in reversed(question):
        value += worth[letter] if worth[letter] >= last else -worth[letter]
        last = max(last, worth[letter])
    return str(value)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_answers_are_right(task):
    """Every answer, against another way to find it; no question comes twice."""
    cases = draw_cases(task, 500, seed=3)
    assert len({case.prompt for case in cases}) == 500
    for prompt, answer in cases:
        name, question = prompt.removesuffix(" > ").split(": ")
        assert name == task.name
        if name == "roman":
            assert _plain(name, answer) == question
        else:
            assert _plain(name, question) == answer


def test_tokenizer_reads_every_case_back():
    """No character is unknown, and text comes back as it went in."""
    tokenizer = build_tokenizer()
    for task in TASKS:
        for case in draw_cases(task, 200, seed=1):
            ids = tokenizer.encode("".join(case))
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == "".join(case)


@pytest.mark.slow
def test_same_seed_same_bits():
    """Two short trainings give the same weights, and leave torch's state alone."""
    tokenizer = build_tokenizer()
    data = [encode(tokenizer, draw_cases(task, 40, 0)) for task in TASKS]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    weights = []
    for seed in (0, 0, 1):
        with reproducible(seed):
            model = new_model(tokenizer)
            train(model, data, steps=3, rate=1e-3, batch=64, seed=seed, name="short")
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.fixture
def short(monkeypatch):
    """Trainings of two steps."""
    monkeypatch.setattr(demo, "BASE_STEPS", 2)
    monkeypatch.setattr(demo, "EXPERT_STEPS", 2)
    monkeypatch.setattr(demo, "HELD_OUT", 3)
    monkeypatch.setattr(demo, "TRAINING", 20)
    monkeypatch.setattr(demo, "BASE_TRAINING", 10)


def _script(path, body):
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """In the place of mergekit-yaml, whose start takes seconds: a copy of the base."""
    body = """
import shutil, sys
from pathlib import Path
shutil.copytree(Path(sys.argv[2]).parent / "base", sys.argv[2])
"""
    copies = _script(tmp_path / "mergekit-yaml", body)
    monkeypatch.setattr(demo, "find_mergekit_yaml", lambda: copies)


@pytest.mark.slow
def test_failed_merge_is_shown_and_does_not_look_finished(tmp_path, monkeypatch, short):
    """mergekit's output is in the error, and the folder says that it is not done."""
    failing = _script(tmp_path / "fails", "raise SystemExit('no such tensor')")
    monkeypatch.setattr(demo, "find_mergekit_yaml", lambda: failing)
    out = tmp_path / "out"
    with pytest.raises(click.ClickException, match="status 1:\nno such tensor"):
        demo.run_demo(out)
    assert (out / "UNFINISHED").exists()
    assert not (out / "demo-results.json").exists()
    with pytest.raises(click.UsageError, match="holds an unfinished demo"):
        demo.run_demo(out)
    with pytest.raises(click.ClickException, match="no such tensor"):
        demo.run_demo(out, force=True)


def test_interrupted_demo_does_not_look_finished(tmp_path, monkeypatch):
    """Ctrl-C in a training leaves a folder that says so."""

    def train(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "train", train)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["UNFINISHED"]


@pytest.mark.slow
def test_short_demo_in_process(tmp_path, short, copied, capsys, monkeypatch):
    """The whole way in small; a second time with --force, in a relative folder."""
    monkeypatch.chdir(tmp_path)
    for force in (False, True):
        demo.run_demo(Path("out"), force=force)
        printed = capsys.readouterr().out
        assert "its config    out/breadcrumbs.yml" in printed
        assert "mergekit-yaml /dev/stdin out-0.5\n" in printed
        assert printed.endswith(
            " tune out/breadcrumbs.yml out-tuned \\\n"
            "    --score out/score.py:score --validate out/score.py:validate\n"
        )
        # As Python does when `tune` has imported the scorer.
        py_compile.compile("out/score.py")
    assert (tmp_path / "out" / "demo-results.json").exists()
    assert not (tmp_path / "out" / "UNFINISHED").exists()


def test_mergekit_yaml_is_missing(tmp_path, monkeypatch):
    """Where there is no mergekit-yaml, the error says where it was looked for."""
    monkeypatch.setattr(merging.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(merging.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(click.ClickException, match="mergekit-yaml must be in"):
        demo.run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "force", "message"),
    [
        ({"thesis.tex": "years"}, True, "thesis.tex is something else"),
        ({"base/notes.txt": "mine"}, True, "notes.txt is something else"),
        ({"breadcrumbs.yml": "mine"}, True, "has files but neither"),
        ({"demo-results.json": "not json"}, True, "has files but neither"),
        ({"demo-results.json": "[]"}, True, "has files but neither"),
    ],
)
def test_other_folders_are_left_alone(tmp_path, content, force, message):
    """What the demo did not write it does not remove, with --force or without."""
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = digests(tmp_path)
    with pytest.raises(click.UsageError, match=message):
        claim(tmp_path, force=force)
    assert digests(tmp_path) == before


def test_links_are_left_alone(tmp_path):
    """A link where the demo had a folder is not followed, and what it names stays."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    out = tmp_path / "out"
    claim(out, force=False)
    (out / "base").symlink_to(tmp_path / "mine")
    with pytest.raises(click.UsageError, match="base is something else"):
        claim(out, force=True)
    assert (tmp_path / "mine" / "config.json").exists()
    assert (out / "UNFINISHED").exists()


def test_force_removes_an_earlier_demo_only(tmp_path):
    """With --force the folder is empty again but for the mark of a demo under way."""
    claim(tmp_path, force=False)
    finish(tmp_path, scores={})
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    claim(tmp_path, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["UNFINISHED"]


def test_places_that_cannot_be(tmp_path):
    """A file in the way, and a path that mergekit reads otherwise, are refused."""
    (tmp_path / "file").touch()
    with pytest.raises(click.UsageError, match="cannot write to OUT_DIR"):
        claim(tmp_path / "file", force=False)
    with pytest.raises(click.UsageError, match="path without"):
        claim(tmp_path / "a+b", force=False)
