"""The benchmark scripts run; what they measure is looked at by people."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.repository import BENCHMARKS, run

pytestmark = pytest.mark.slow


def _run(
    script: str, folder: Path, *options: str
) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Run a benchmark; return what it printed, and the JSON that it wrote."""
    times = folder / "times.json"
    done = run(sys.executable, BENCHMARKS / script, *options, "--json", times)
    assert done.returncode == 0, done.stderr
    return done, json.loads(times.read_text())


def test_startup(tmp_path: Path) -> None:
    """A table of medians and every single time come out, for any number of starts."""
    options = ["--starts", "3"]
    done, record = _run("startup.py", tmp_path, *options)
    assert done.stderr == ""
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines()]
    assert rows == [
        "`python -c pass`, 3 starts each",
        "---",
        "plain",
        "with the hook",
        "added (median of pairs)",
    ]
    assert len(record) == 3
    for pair in record:
        for start in ("plain", "hook"):
            assert 0 < pair[start]["cpu"] < 1e5
            assert 0 < pair[start]["wall"] < 1e5


def test_speed(tmp_path: Path) -> None:
    """Every contestant is timed as often as asked, on a case made small."""
    options = ["--runs", "2", "--shrink", "512", "--only", "bfloat16, 8 models"]
    done, record = _run("speed.py", tmp_path, *options)
    assert done.stderr == ""
    assert "\n| bfloat16, 8 models | " in done.stdout
    case = record["cases"]["bfloat16, 8 models"]
    assert case["elements"] == 8 * 16 * 4096
    for who in ("ours", "built-in", "task arithmetic"):
        assert len(case["seconds"][who]) == 2
        assert min(case["seconds"][who]) > 0


def test_speed_by_size(tmp_path: Path) -> None:
    """The second table has a row for each size, the built-in in the small ones."""
    options = ["--runs", "1", "--only", "1M elements", "--largest", "1"]
    done, _ = _run("speed.py", tmp_path, *options)
    assert done.stderr == ""
    name, *cells = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert name == "1M elements, 1 model"
    assert len(cells) == 3
    assert min(float(cell) for cell in cells) > 0


def test_whole_merge(tmp_path: Path) -> None:
    """Four ways to merge are timed by the real commands, and a verification."""
    options = ["--runs", "1", "--warmup", "0", "--layers", "1", "--width", "32"]
    _, record = _run("whole_merge.py", tmp_path, *options)
    seconds = record["seconds"]
    assert {name: len(taken) for name, taken in seconds.items()} == {
        "task arithmetic": 1,
        "ours": 1,
        "ours, by row": 1,
        "built-in": 1,
        "verify ours": 1,
    }


def test_inspect_speed(tmp_path: Path) -> None:
    """Merging and inspecting are timed as often as asked, on a model made small."""
    options = ["--runs", "2", "--layers", "1", "--width", "32", "--only", "by row"]
    done, record = _run("inspect_speed.py", tmp_path, *options)
    cases = ("bfloat16, 1 model", "bfloat16, 3 models", "float32, 3 models")
    assert list(record) == [f"{case}, by row" for case in cases]
    for taken in record.values():
        assert [len(taken[what]) for what in ("merge", "inspect")] == [2, 2]
        assert min(map(min, taken.values())) > 0
    assert done.stdout.splitlines()[-1].startswith("| float32, 3 models, by row | ")


def test_files(tmp_path: Path) -> None:
    """Merging files and full checkpoints is measured from disk and cache, each once."""
    done, record = _run("files.py", tmp_path, "--quick")
    assert "| 2, files | " in done.stdout
    assert "| 2, full | " in done.stdout
    assert [len(record[what]) for what in ("extract", "read")] == [2, 2]
    for kind in ("files", "full"):
        for state in ("disk", "cache"):
            [found] = record["merges"]["2"][f"{kind}, {state}"]
            assert found["seconds"] > 0
            assert found["mapped"] >= 0


def test_tune_speed(tmp_path: Path) -> None:
    """Five ways to merge are timed in a trial, and scoring."""
    done, record = _run("tune_speed.py", tmp_path, "--quick")
    assert {name: len(taken) for name, taken in record["seconds"].items()} == {
        "ours": 1,
        "ours, by row": 1,
        "built-in": 1,
        "task arithmetic": 1,
        "mergekit-yaml with ours, a process": 1,
        "generated": 1,
        "four answers": 1,
        "answers of one token": 1,
    }
    assert "\n| built-in | " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("answers of one token: ")


def test_tune_search(tmp_path: Path) -> None:
    """Over five seeds the best of 30 trials is near the best there is."""
    _, record = _run("tune_search.py", tmp_path, "--only", "tune's")
    for case, allowed in {"3, exact": 0.02, "8, exact": 0.05}.items():
        below = [below for below, _ in record["tune's"][case]]
        assert len(below) == 5
        assert max(below) <= allowed
