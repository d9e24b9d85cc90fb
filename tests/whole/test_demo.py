"""The demo: one real run of the console script, and each of its parts."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_breadcrumbs.demo import run as demo
from mergekit_breadcrumbs.demo.folder import claim, finish
from mergekit_breadcrumbs.demo.tasks import TASKS, build_tokenizer, draw_cases
from mergekit_breadcrumbs.demo.training import (
    encode,
    new_model,
    reproducible,
    train,
)
from mergekit_breadcrumbs.measure.run import run_inspection

SCRIPTS = Path(sysconfig.get_path("scripts"))
MODELS = [
    "base",
    "expert-roman",
    "expert-sort",
    "expert-reverse",
    "merged-task_arithmetic",
    "merged-breadcrumbs",
]


def _demo(*arguments):
    return subprocess.run(
        [SCRIPTS / "mergekit-breadcrumbs", "demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def _files(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one whole demo, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "it's out"
    run = _demo(folder)
    assert run.returncode == 0, run.stderr
    return folder, run


def test_checkpoints_are_ordinary(finished):
    """Every model and tokenizer loads with transformers' own classes."""
    folder, _ = finished
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        prompt = tokenizer("sort: 52114 > ", return_tensors="pt")
        assert model(**prompt).logits.isfinite().all()
    for method in ("breadcrumbs", "task_arithmetic"):
        card = (folder / f"merged-{method}" / "README.md").read_text()
        assert ("(mergekit-breadcrumbs)" in card) == (method == "breadcrumbs")


def _percent_right(model, task):
    """Let transformers itself complete the held-out prompts of seed 0."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    cases = draw_cases(task, demo.HELD_OUT, seed=0)
    prompts = [case.prompt for case in cases]
    texts = AutoModelForCausalLM.from_pretrained(model).generate(
        **tokenizer(prompts, return_tensors="pt", padding=True),
        max_new_tokens=20,
        do_sample=False,
    )
    answers = tokenizer.batch_decode(texts, skip_special_tokens=True)
    right = sum(
        text == "".join(case) for text, case in zip(answers, cases, strict=True)
    )
    return 100 * right / len(cases)


def test_table_is_what_the_checkpoints_do(finished):
    """Each number of the table is that of the saved model, measured again."""
    folder, run = finished
    lines = [line.split() for line in run.stdout.splitlines() if " | " in line]
    assert lines[0] == ["model", "|", "roman", "|", "sort", "|", "reverse", "|", "mean"]
    table = {line[0]: [float(cell) for cell in line[2::2]] for line in lines[1:]}
    assert list(table) == MODELS
    for name, row in table.items():
        measured = [_percent_right(folder / name, task) for task in TASKS]
        # Two ways to compute one number may round a near tie apart: one case of 200.
        assert row[:3] == pytest.approx(measured, abs=0.55)
        assert row[3] == pytest.approx(sum(row[:3]) / 3, abs=0.051)
    scores = json.loads((folder / "demo-results.json").read_text())["scores"]
    for task in TASKS:
        assert scores[f"expert-{task.name}"][task.name] > scores["base"][task.name]
    assert max(map(len, run.stdout.splitlines()[:-11])) <= 80


def test_second_run_refuses_and_changes_nothing(finished):
    """Nothing is overwritten unless it is asked for."""
    folder, _ = finished
    before = _files(folder)
    run = _demo(folder)
    assert run.returncode == 2
    assert "holds an earlier demo. Add --force" in run.stderr
    assert _files(folder) == before


def test_next_command_runs(finished):
    """What the last lines suggest works when it is pasted."""
    folder, run = finished
    command = run.stdout[run.stdout.index("  sed ") :]
    subprocess.run(command, shell=True, check=True, capture_output=True)
    other = folder.with_name(f"{folder.name}-0.5")
    assert "density: 0.5" in (other / "mergekit_config.yml").read_text()
    assert (other / "model.safetensors").exists()


def test_suggests_to_inspect_its_config(finished, capsys):
    """The line names a command of this package and a config that can be inspected."""
    folder, run = finished
    [line] = [line for line in run.stdout.splitlines() if " inspect " in line]
    command, verb, config = shlex.split(line)
    assert Path(command).name == "mergekit-breadcrumbs"
    assert (verb, Path(config)) == ("inspect", folder / "breadcrumbs.yml")
    parsed = MergeConfiguration.model_validate(yaml.safe_load(Path(config).read_text()))
    run_inspection(parsed, MergeOptions(quiet=True))
    shown = capsys.readouterr().out
    for task in TASKS:
        assert f"expert-{task.name}: 90.0 % kept" in shown


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
    monkeypatch.setattr(demo, "accuracy", accuracy)
    demo.run_demo(tmp_path / "out")
    experts = set().union(*(trained[name] for name in MODELS[1:4]))
    assert len(measured) == 600
    assert len(experts) == 9000
    assert len(trained["base"]) == 1500
    assert trained["base"] < experts
    assert not measured & experts


def test_cases_are_the_same_in_every_process():
    """What is drawn does not hang on the order in which a process hashes strings."""
    ask = (
        "from mergekit_breadcrumbs.demo.tasks import TASKS, draw_cases;"
        "print([draw_cases(task, 50, 0) for task in TASKS])"
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", ask],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == str([draw_cases(task, 50, 0) for task in TASKS])


def _plain(name, question):
    """Answer a question in another way than the demo does."""
    if name == "sort":
        return "".join(digit * question.count(digit) for digit in "0123456789")
    if name == "reverse":
        return "".join(question[i] for i in range(len(question) - 1, -1, -1))
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


def test_same_seed_same_bits():
    """Two short trainings give the same weights, and leave torch's state alone."""
    tokenizer = build_tokenizer()
    data = [encode(tokenizer, draw_cases(task, 40, 0)) for task in TASKS]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    weights = []
    for seed in (0, 0, 1):
        with reproducible(seed):
            model = new_model(tokenizer)
            train(model, data, steps=3, rate=1e-3, seed=seed, name="short")
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
    monkeypatch.setattr(demo, "_find_mergekit_yaml", lambda: copies)


def test_failed_merge_is_shown_and_does_not_look_finished(tmp_path, monkeypatch, short):
    """mergekit's output is in the error, and the folder says that it is not done."""
    failing = _script(tmp_path / "fails", "raise SystemExit('no such tensor')")
    monkeypatch.setattr(demo, "_find_mergekit_yaml", lambda: failing)
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


def test_short_demo_in_process(tmp_path, short, copied, capsys, monkeypatch):
    """The whole way in small; a second time with --force, in a relative folder."""
    monkeypatch.chdir(tmp_path)
    for force in (False, True):
        demo.run_demo(Path("out"), force=force)
        printed = capsys.readouterr().out
        assert "its config    out/breadcrumbs.yml" in printed
        assert printed.endswith("mergekit-yaml /dev/stdin out-0.5\n")
    assert (tmp_path / "out" / "demo-results.json").exists()
    assert not (tmp_path / "out" / "UNFINISHED").exists()


def test_mergekit_yaml_is_missing(tmp_path, monkeypatch):
    """Where there is no mergekit-yaml, the error says where it was looked for."""
    monkeypatch.setattr(demo.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(demo.sysconfig, "get_path", lambda _: str(tmp_path))
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
    before = _files(tmp_path)
    with pytest.raises(click.UsageError, match=message):
        claim(tmp_path, force=force)
    assert _files(tmp_path) == before


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
