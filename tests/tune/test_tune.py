"""The command `tune`, as a console script, on real models."""

import csv
import json
import os
import re
import shutil
import signal
import time

import pytest
import torch
import transformers
import yaml
from support import questions
from support.breadcrumb_files import make_file
from support.candidates import FolderCandidate
from support.checkpoints import load_tensors
from support.merging import configuration
from support.repository import ROOT, run_script
from support.tune_worker import until
from support.tuning import Bench, make_bench

from mergekit_breadcrumbs.cli import main
from mergekit_breadcrumbs.tune.lm_eval_tasks import LmEvalScorer
from mergekit_breadcrumbs.tune.report import Report

pytestmark = pytest.mark.slow
FILES = {"best.yml", "trials.csv", "report.json", "tune.png", "study.journal"}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return make_bench(tmp_path / "bench")


def digest_of(bench, folder):
    """Return what the scorer notes of a folder."""
    script = bench.root / "scorer.py"
    names = {"__file__": str(script), "__name__": "scorer"}
    exec(script.read_text(), names)
    tensors = {name: t.numpy() for name, t in load_tensors(folder).items()}
    return names["score_tensors"](tensors)[1]


@pytest.mark.parametrize("kind", ["command", "function"])
def test_best_is_what_mergekit_makes(bench, kind):
    """best.yml gives the unmodified mergekit-yaml the bits that scored best."""
    done = bench.tune("--trials", 5, "--score", getattr(bench, kind))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (bench.root / "out").iterdir()} == FILES
    scored = bench.log()
    assert len(scored) == 3 + 5
    best = max(scored[3:], key=lambda entry: entry["score"])
    text = (bench.root / "out" / "best.yml").read_text()
    assert text.startswith("# Found by mergekit-breadcrumbs tune: trial ")
    assert "# The user's own words." in text
    merged = bench.root / "merged"
    made = run_script("mergekit-yaml", bench.root / "out" / "best.yml", merged)
    assert made.returncode == 0, made.stderr
    assert digest_of(bench, merged) == best["digest"]


def test_table_and_report(bench):
    """Base, inputs, config, best and rival are there, with what can be said of them."""
    options = ["--validate", bench.function, "--against", "task_arithmetic"]
    done = bench.tune("--trials", 4, *options)
    assert done.returncode == 0, done.stderr
    report = Report.model_validate_json((bench.root / "out/report.json").read_text())
    rows = {row.name: row for row in report.contenders}
    assert list(rows) == [
        *("base", "math", "code", "config as given", "best", "best task_arithmetic"),
    ]
    assert rows["base"].score.value == -1
    for row in rows.values():
        assert row.validation.value == row.score.value
        assert row.name in done.stdout
    assert [record.merge_method for record in (report.study, *report.rivals)] == [
        *("breadcrumbs", "task_arithmetic"),
    ]
    assert {c.on for c in report.comparisons} == {"validation"}
    assert "On other questions the best" in done.stdout
    with open(bench.root / "out" / "trials.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    assert len(trials) == 8
    given = trials[0]
    assert (given["lambda"], given["density"], given["gamma"]) == ("1.0", "0.9", "0.01")
    for trial, entry in zip(trials[:4], bench.log()[3:], strict=False):
        assert float(trial["score"]) == entry["score"]
    rival = yaml.safe_load((bench.root / "out/best-task_arithmetic.yml").read_text())
    assert rival["merge_method"] == "task_arithmetic"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_goes_on(bench, how):
    """Interrupted in a trial, the same command does it again, and nothing else."""
    (bench.root / "hang").touch()
    process = bench.start("--trials", 5)
    until(lambda: len(bench.log("began")) == 6)
    time.sleep(0.2)
    os.kill(process.pid, how)
    _, errors = process.communicate(timeout=60)
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert errors.endswith("Interrupted.\n")
        names = {path.name for path in (bench.root / "out").iterdir()}
        assert names == {"best.yml", "trials.csv", "study.journal"}
    (bench.root / "hang").unlink()
    before = len(bench.log())
    killed = how == signal.SIGKILL
    until(lambda: len(bench.log()) == before + killed)  # of the command, which lives on
    done = bench.tune("--trials", 5)
    assert done.returncode == 0, done.stderr
    assert "5 trials, 2 of them done." in done.stderr
    scored = bench.log()
    assert before == 5
    assert len(scored) == 3 + 5 + killed
    assert len({entry["digest"] for entry in scored}) == 8
    assert {path.name for path in (bench.root / "out").iterdir()} == FILES
    again = bench.tune("--trials", 5)
    assert again.returncode == 0
    assert bench.log() == scored
    assert again.stdout == done.stdout


def test_the_same_trials_again(bench):
    """The same seed gives the same trials, and another seed others."""
    digests = []
    for seed in (3, 3, 4):
        done = bench.tune("--trials", 3, "--seed", seed)
        assert done.returncode == 0, done.stderr
        digests.append([entry["digest"] for entry in bench.log()[3:]])
        for path in (bench.root / "out").iterdir():
            path.unlink()
        (bench.root / "log.jsonl").unlink()
    assert digests[0] == digests[1]
    assert digests[0][0] == digests[2][0]  # the config as given
    assert set(digests[0][1:]).isdisjoint(digests[2])


def test_breadcrumb_files(bench):
    """What is searched stays within what a file holds, and that is said."""
    base = bench.root / "base"
    make_file(base, bench.root / "math", bench.root / "file", fraction=0.2)
    config = yaml.safe_load((bench.root / "config.yml").read_text())
    config["models"][0]["model"] = f"{base}+{bench.root / 'file'}"
    (bench.root / "files.yml").write_text(yaml.safe_dump(config))
    done = bench.tune("--trials", 4, config="files.yml")
    assert done.returncode == 0, done.stderr
    said = "holds 0.2 of each slice, of the largest: density is searched up to 0.15"
    assert said in done.stdout
    with open(bench.root / "out" / "trials.csv", newline="") as file:
        for trial in csv.DictReader(file):
            assert float(trial["density"]) + float(trial["gamma"]) <= 0.2


def test_names_of_rows(bench):
    """Inputs may be called like other rows of the table; each has its own scores."""
    config = yaml.safe_load((bench.root / "config.yml").read_text())
    for old, new in (("math", "tuned/base"), ("code", "tuned/best")):
        (bench.root / new).parent.mkdir(exist_ok=True)
        (bench.root / old).rename(bench.root / new)
    for model, name in zip(config["models"], ("base", "best"), strict=True):
        model["model"] = str(bench.root / "tuned" / name)
    (bench.root / "config.yml").write_text(yaml.safe_dump(config))
    done = bench.tune("--trials", 2, "--validate", bench.function)
    assert done.returncode == 0, done.stderr
    report = Report.model_validate_json((bench.root / "out/report.json").read_text())
    names = [row.name for row in report.contenders]
    assert names == ["base", "base", "best", "config as given", "best"]
    scores = [row.score.value for row in report.contenders]
    assert scores[0] == -1
    assert len(set(scores[:3])) == 3
    assert [row.validation.value for row in report.contenders] == scores


def test_relative(bench):
    """Scores are divided by the best input's own."""
    script = bench.root / "ones.py"
    script.write_text(
        "def score(model):\n    name = model.folder().name\n"
        "    known = {'base': 1.0, 'math': 2.0, 'code': 4.0}\n"
        "    return {'a': known.get(name, 3.0), 'b': (1.0, 0.5)}\n"
    )
    done = bench.tune("--trials", 2, "--relative", "--score", f"{script}:score")
    assert done.returncode == 0, done.stderr
    report = json.loads((bench.root / "out" / "report.json").read_text())
    rows = {row["name"]: row["score"]["value"] for row in report["contenders"]}
    assert rows["code"] == 1.0
    assert rows["math"] == 0.75
    assert rows["best"] == (0.75 + 1) / 2
    assert "relative score" in done.stdout


def test_names_that_no_input_has(bench):
    """Relative to the inputs a score of another name is none; the rest goes on."""
    script = bench.root / "names.py"
    script.write_text(
        "def score(model):\n"
        "    return {'b' if model.folder().name == 'base' else 'a': 1.0}\n"
    )
    done = bench.tune("--trials", 2, "--relative", "--score", f"{script}:score")
    assert done.returncode == 0, done.stderr
    assert "base was not scored: no input has a score of the name b" in done.stdout


def test_another_folder(bench):
    """A study in a database, done elsewhere, leaves all its files here, too."""
    options = ["--storage", f"sqlite:///{bench.root}/study.db", "--name", "it"]
    for out in ("one", "two"):
        process = bench.start("--trials", 2, *options, out=out)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(bench.log()) == 5
    for name in ("best.yml", "trials.csv", "report.json"):
        one, two = ((bench.root / out / name).read_text() for out in ("one", "two"))
        assert one == two


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--search", "density=0.5:1.5"], ["BC205", "density 1.5", "got 1.5"]),
        (["--search", "gama=0:1"], ["no parameter gama", "did you mean gamma?"]),
        (["--search", "gamma"], ["must be NAME=LOW:HIGH"]),
        (["--search", "gamma=1:0"], ["low must be at most high"]),
        (["--against", "tie"], ["no merge method 'tie'; did you mean ties?"]),
        (["--against", "breadcrumbs"], ["another method than breadcrumbs"]),
        (["--score", "python score.py"], ["must have {model} in it"]),
        (["--score", "lm-eval:no_such_task"], ["lm-eval has no task no_such_task"]),
        (["--storage", "nosql://x"], ["cannot be used"]),
        (["--timeout", "nan"], ["must be more than 0"]),
        (["--batch-size", "0"], ["must be a number from 1, auto or auto:N; got '0'"]),
        (["--limit", "9"], ["--limit goes with --score lm-eval:TASK"]),
        (["--no-chat-template"], ["--chat-template goes with --score lm-eval:TASK"]),
    ],
)
def test_errors(bench, arguments, said, monkeypatch, capsys):
    """What is impossible is refused before the first merge, in a sentence."""
    monkeypatch.chdir(bench.root)
    scorer = [] if "--score" in arguments else ["--score", bench.command]
    with pytest.raises(SystemExit) as end:  # in this process: imports take seconds
        main(["tune", "config.yml", "out", *scorer, *arguments])
    assert end.value.code in (1, 2)
    errors = capsys.readouterr().err
    assert all(part in errors for part in said), errors
    assert "Traceback" not in errors
    assert bench.log("began") == []
    out = bench.root / "out"
    assert not out.exists() or [path.name for path in out.iterdir()] == []


def test_impossible_config(bench):
    """A config that cannot be merged is shown with its line, and nothing is made."""
    text = (bench.root / "config.yml").read_text()
    (bench.root / "config.yml").write_text(text.replace("/math", "/maths"))
    done = bench.tune()
    assert done.returncode == 1
    assert "config.yml:5: error BC305" in done.stderr, done.stderr
    assert not (bench.root / "out").exists()


def test_scorer_that_fails(bench):
    """Three models in a row end it, with the scorer's own words."""
    done = bench.tune("--score", "echo no luck >&2; false {model}")
    assert done.returncode == 1
    assert done.stderr.count("no score: exit status 1: no luck") == 3
    assert "3 models in a row got no score, the last: exit status 1: no luck" in (
        done.stderr
    )
    # The mistake is mended, and nothing else is in the way.
    done = bench.tune("--trials", 1)
    assert done.returncode == 0, done.stderr


def test_trials_that_fail(bench):
    """Three trials in a row end it; what was done before stays, and it can go on."""
    script = bench.root / "moody.py"
    script.write_text(
        "def score(model):\n    if 'bench' in model.folder().parent.name:\n"
        "        return 1.0\n    raise RuntimeError('not now')\n"
    )
    done = bench.tune("--score", f"{script}:score", "--scratch", bench.root / "tmp")
    assert done.returncode == 1
    assert "3 trials in a row failed, the last with: RuntimeError: not now" in (
        done.stderr
    )
    with open(bench.root / "out" / "trials.csv", newline="") as file:
        failures = [trial["failure"] for trial in csv.DictReader(file)]
    assert len(failures) == 3
    assert all("not now, in moody.py line 4" in failure for failure in failures)


def test_nothing_of_others_is_replaced(bench):
    """Another study, or a best.yml of somebody else's, is left as it is."""
    assert bench.tune("--trials", 1).returncode == 0
    before = (bench.root / "out" / "best.yml").read_bytes()
    text = (bench.root / "config.yml").read_text().replace("0.01", "0.02")
    (bench.root / "config.yml").write_text(text)
    done = bench.tune("--trials", 1)
    assert done.returncode == 1
    assert "is another one: its config is" in done.stderr
    (bench.root / "out" / "study.journal").unlink()
    done = bench.tune("--trials", 1)
    assert done.returncode == 1
    assert "not of this study: give another output folder" in done.stderr
    assert (bench.root / "out" / "best.yml").read_bytes() == before
    (bench.root / "out" / "best.yml").rename(bench.root / "out" / "config.json")
    done = bench.tune("--trials", 1)
    assert done.returncode == 1
    assert "holds a model: give another output folder" in done.stderr


def test_lm_eval(tmp_path, monkeypatch):
    """Tasks in local files score every model, with their errors, and quietly."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    base = questions.make_model(tmp_path / "base", chat=True)
    for seed, name in enumerate(("math", "code"), 1):
        model = transformers.LlamaForCausalLM.from_pretrained(base)
        generator = torch.Generator().manual_seed(seed)
        for weight in model.state_dict().values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        shutil.copytree(base, tmp_path / name)
        model.save_pretrained(tmp_path / name)
    tasks = tmp_path / "tasks"
    documents = questions.choices(60, 5)
    for name, part in (("bc_one", documents[:30]), ("bc_two", documents[30:])):
        questions.write_task(tasks, name, part, **questions.CHOICES)
    models = {tmp_path / name: {"weight": 0.5} for name in ("math", "code")}
    config = configuration("breadcrumbs", base, models, {"density": 0.9})
    bench = Bench(tmp_path)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    options = ["--score", "lm-eval:bc_one", "--validate", "lm-eval:bc_one,bc_two"]
    options += ["--tasks-folder", tasks, "--limit", 20, "--batch-size", 4]
    done = bench.tune("--trials", 4, *options)
    assert done.returncode == 0, done.stderr
    assert {line.partition(" ")[0] for line in done.stderr.splitlines()} <= {
        *(
            "base:",
            "math:",
            "code:",
            "Searching",
            "trial",
            "Scoring",
            "config",
            "best:",
        ),
    }
    report = Report.model_validate_json((tmp_path / "out/report.json").read_text())
    merged = tmp_path / "merged"
    made = run_script("mergekit-yaml", tmp_path / "out" / "best.yml", merged)
    assert made.returncode == 0, made.stderr
    [best] = [row for row in report.contenders if row.kind == "best"]
    scorer = LmEvalScorer("bc_one,bc_two", tasks_folder=tasks, limit=20, batch_size=4)
    assert best.validation_scores == scorer(FolderCandidate(merged))
    assert best.validation.error > 0
    assert all(c.margin is not None for c in report.comparisons)


def test_task_of_the_document(tmp_path, monkeypatch):
    """The task in docs/tune.md is one that lm-eval reads and scores."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    text = (ROOT / "docs" / "tune.md").read_text(encoding="utf-8")
    [task] = re.findall(r"```yaml\n(task: .*?)```", text, re.DOTALL)
    [line] = re.findall(r"`(\{\"country\".*?\})`", text)
    data = tmp_path / "capitals.jsonl"
    data.write_text(f"{line}\n" * 4)
    (tmp_path / "capitals.yaml").write_text(
        task.replace("/data/capitals.jsonl", str(data))
    )
    scorer = LmEvalScorer("capitals", tasks_folder=tmp_path)
    model = questions.make_model(tmp_path / "model")
    scores = scorer(FolderCandidate(model))
    assert scores["capitals"].value in (0, 1)


def test_two_shells(bench):
    """The same command in two shells does each trial once, and both end with all."""
    workers = [bench.start("--trials", 8) for _ in range(2)]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    with open(bench.root / "out" / "trials.csv", newline="") as file:
        trials = [float(trial["score"]) for trial in csv.DictReader(file)]
    models = {-1.0, *(entry["score"] for entry in bench.log()[:6])}
    scored = [entry["score"] for entry in bench.log()]
    assert len(trials) == len(set(trials)) == 8
    for score in trials:
        assert scored.count(score) == 1
    # What is no trial may be scored by both, if they begin together.
    assert set(scored) == models | set(trials)


def test_another_method(bench):
    """A config of mergekit's own methods is tuned alike, and its best.yml merges."""
    config = yaml.safe_load((bench.root / "config.yml").read_text())
    config |= {"merge_method": "linear"}
    del config["base_model"], config["parameters"]
    (bench.root / "linear.yml").write_text(yaml.safe_dump(config))
    done = bench.tune("--trials", 3, "--search", "weight=0.1:1", config="linear.yml")
    assert done.returncode == 0, done.stderr
    best = yaml.safe_load((bench.root / "out" / "best.yml").read_text())
    weights = [model["parameters"]["weight"] for model in best["models"]]
    assert len(weights) == 2
    assert all(0.1 <= weight <= 1 for weight in weights)
    made = run_script(
        "mergekit-yaml", bench.root / "out/best.yml", bench.root / "merged"
    )
    assert made.returncode == 0, made.stderr
    scores = {entry["digest"]: entry["score"] for entry in bench.log()[2:]}
    assert max(scores, key=scores.get) == digest_of(bench, bench.root / "merged")


@pytest.mark.parametrize("module", ["optuna", "matplotlib", "ruamel"])
def test_without_the_extra(bench, module):
    """A sentence says what to install."""
    (bench.root / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = (\n"
        f"    lambda name, *rest: None if name == {module!r} else find(name, *rest)\n"
        ")\n"
    )
    done = bench.tune(env=os.environ | {"PYTHONPATH": str(bench.root)})
    assert done.returncode == 1
    assert f"tune needs {module}" in done.stderr
    assert "pip install 'mergekit-breadcrumbs[tune]'" in done.stderr
