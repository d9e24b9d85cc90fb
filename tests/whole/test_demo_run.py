"""One real run of the demo, by the console script."""

import json
import os
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge_methods import merge_state_dicts
from mergekit.options import MergeOptions
from support.files import digests
from support.repository import ROOT, run_script, script
from transformers import AutoModelForCausalLM, AutoTokenizer

from mergekit_breadcrumbs.demo import run as demo
from mergekit_breadcrumbs.demo.merging import SCALES
from mergekit_breadcrumbs.demo.tasks import TASKS, draw_cases
from mergekit_breadcrumbs.demo.training import encode, measure
from mergekit_breadcrumbs.files.reader import BreadcrumbFile
from mergekit_breadcrumbs.measure.run import run_inspection
from mergekit_breadcrumbs.tune.report import Report
from mergekit_breadcrumbs.wording import bytes_text

pytestmark = pytest.mark.slow
METHODS = ["task_arithmetic", "breadcrumbs"]
MERGES = [f"merged-{method}{tuned}" for tuned in ("", "-tuned") for method in METHODS]
MODELS = ["base", *(f"expert-{task.name}" for task in TASKS), *MERGES]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one whole demo, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "it's out"
    run = run_script("mergekit-breadcrumbs", "demo", folder)
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
    for name in MERGES:
        card = (folder / name / "README.md").read_text()
        assert ("(mergekit-breadcrumbs)" in card) == ("breadcrumbs" in name)


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
    rows = {line[0]: [float(cell) for cell in line[2::2]] for line in lines[3:]}
    assert list(rows) == [*(task.name for task in TASKS), "mean"]
    for task in TASKS:
        names = ["base", f"expert-{task.name}", *MERGES]
        measured = [_percent_right(folder / name, task) for name in names]
        # Two ways to compute one number may round a near tie apart: one case of 200.
        assert rows[task.name] == pytest.approx(measured, abs=0.55)
        assert rows[task.name][1] > rows[task.name][0], "an expert, and the base"
    columns = list(zip(*(rows[task.name] for task in TASKS), strict=True))
    means = [sum(column) / len(TASKS) for column in columns]
    assert rows["mean"] == pytest.approx(means, abs=0.051)
    assert max(map(len, run.stdout.splitlines()[:-16])) <= 80


def test_scales_are_the_best_on_other_cases(finished):
    """What is written in a tuned config does best on lines that no table shows."""
    folder, _ = finished
    scales = json.loads((folder / "demo-results.json").read_text())["scales"]
    used = demo.TRAINING + demo.HELD_OUT
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    other = {
        task.name: encode(tokenizer, draw_cases(task, used + demo.HELD_OUT, 0)[used:])
        for task in TASKS
    }
    names = ["base", *(f"expert-{task.name}" for task in TASKS)]
    models = [AutoModelForCausalLM.from_pretrained(folder / name) for name in names]
    states = [model.state_dict() for model in models]
    for method in METHODS:
        config = yaml.safe_load((folder / f"{method}-tuned.yml").read_text())
        values = config["parameters"]
        assert values["lambda"] == scales[method]
        saved = AutoModelForCausalLM.from_pretrained(folder / f"merged-{method}-tuned")
        best = sum(measure(saved, other).values())
        for scale in SCALES:
            given = {**values, "lambda": scale, "weight": [1.0] * len(TASKS)}
            merged = merge_state_dicts(states, method, base=0, parameters=given)
            saved.load_state_dict(merged)
            # Sums may be rounded another way there: one case of 200, in one task.
            assert sum(measure(saved, other).values()) <= best + 0.5


def test_second_run_refuses_and_changes_nothing(finished):
    """Nothing is overwritten unless it is asked for."""
    folder, _ = finished
    before = digests(folder)
    run = run_script("mergekit-breadcrumbs", "demo", folder)
    assert run.returncode == 2
    assert "holds an earlier demo. Add --force" in run.stderr
    assert digests(folder) == before


def test_next_command_runs(finished):
    """What the last lines suggest works when it is pasted."""
    folder, run = finished
    command = run.stdout[run.stdout.index("  sed ") :].partition("\n\n")[0]
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
        assert f"expert-{task.name}: 9.5 % kept" in shown


def test_the_expert_as_a_file(finished):
    """The sizes are those on the disk, and a merge from the file has the same bits."""
    folder, run = finished
    file = folder / "expert-roman-file"
    assert BreadcrumbFile(file).manifest.fraction == 0.2
    size = sum(path.stat().st_size for path in file.iterdir())
    assert f"tensor, expert-roman-file, it is {bytes_text(size)}." in run.stdout
    assert "both give the same bits." in run.stdout
    assert size < (folder / "expert-roman" / "model.safetensors").stat().st_size / 3


def test_suggests_to_tune(finished):
    """The last lines search on lines that are neither the table's nor trained on."""
    folder, run = finished
    command = run.stdout[run.stdout.index(" tune ") :].partition(" tune ")[2]
    words = ["tune", *shlex.split(command.replace("\\\n", "")), "--trials", "3"]
    done = run_script("mergekit-breadcrumbs", *words)
    assert done.returncode == 0, done.stderr
    tuned = folder.with_name(f"{folder.name}-tuned")
    report = Report.model_validate_json((tuned / "report.json").read_text())
    base, *experts = report.contenders[: 1 + len(TASKS)]
    for expert in experts:
        task = expert.name.removeprefix("expert-")
        for scores, others in (
            (expert.scores, base.scores),
            (expert.validation_scores, base.validation_scores),
        ):
            assert scores[task].value > others[task].value
    scorer = runpy.run_path(str(folder / "score.py"))
    used = 2 * demo.HELD_OUT + demo.TRAINING
    for task in TASKS:
        lines = scorer["LINES"][task.name]
        assert lines[:used] == draw_cases(task, used, seed=0)
        assert len(lines) == used + 400


def test_walk_through(finished, tmp_path):
    """The commands of docs/tune.md run as they are written."""
    folder, _ = finished
    (tmp_path / "walk").symlink_to(folder)
    text = (ROOT / "docs" / "tune.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```sh\nmergekit-breadcrumbs demo walk\n(.*?)```", text, re.S)
    path = f"{script('mergekit-yaml').parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        f"set -e\n{block}",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "walk-merged" / "model.safetensors").exists()
    # What it printed has the form that the document shows; scores differ by machine.
    shown = re.search(r"```text\n(.*?)```", text, re.S).group(1)
    labels = re.findall(r"^(\w[\w -]+?)  +0\.\d+ ±", shown, re.M)
    assert len(labels) >= 6
    assert labels == re.findall(r"^(\w[\w -]+?)  +0\.\d+ ±", done.stdout, re.M)
