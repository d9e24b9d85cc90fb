"""The benchmark of the paper's claims, run small: its protocol, never who wins."""

import json
import sys
from collections import defaultdict
from statistics import fmean

import pytest
from support.repository import BENCHMARKS, run

pytestmark = pytest.mark.slow
METHODS = {
    "task arithmetic",
    "TIES",
    "DARE linear",
    "breadcrumbs",
    "breadcrumbs, row",
    "breadcrumbs_ties",
}
TEST_STAGES = {"frozen", "shared weights", "rescaled"}


def _claims(*arguments):
    script = BENCHMARKS / "claims.py"
    return run(sys.executable, script, "--quick", *arguments, timeout=3000)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one whole quick run, what it printed, and its JSON."""
    folder = tmp_path_factory.mktemp("claims")
    done = _claims("--cache", folder / "cache", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, json.loads((folder / "out" / "claims.json").read_text())


def _entries(found, *stages):
    return [entry for entry in found["runs"] if entry["stage"] in stages]


def _rows(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table_has_every_method_and_size(finished):
    """One line a method, one number a subset size; figures are small files."""
    folder, text, found = finished
    rows = _rows(text)
    assert rows[0][1:4] == [str(size) for size in found["plan"]["sizes"]]
    assert {row[0] for row in rows[1:7]} == METHODS
    for row in rows[1:7]:
        assert all(0 < float(cell) < 120 for cell in row[1:]), row
    for name in ("claims.png", "claims-ablation.png"):
        assert 1000 < (folder / "out" / name).stat().st_size < 200_000


def test_numbers_of_the_table(finished):
    """The table's numbers are the means of the runs, computed once more."""
    _, text, found = finished
    [own] = [
        entry["accuracy"]["01234567"]
        for entry in _entries(found, "reference")
        if (entry["method"], entry["part"]) == ("expert", "test")
    ]
    for row in _rows(text)[1:7]:
        [entry] = [e for e in _entries(found, "frozen") if e["method"] == row[0]]
        for size, cell in zip(found["plan"]["sizes"], row[1:4], strict=True):
            ratios = [
                fmean(a / own[int(t)] for a, t in zip(scores, tasks, strict=True))
                for tasks, scores in entry["accuracy"].items()
                if len(tasks) == size
            ]
            assert float(cell) == pytest.approx(100 * fmean(ratios), abs=0.1)


def test_experts_are_better_than_the_base(finished):
    """On its own task every expert beats the base, and the base beats guessing."""
    reference = {
        (entry["method"], entry["part"]): entry["accuracy"]["01234567"]
        for entry in _entries(finished[2], "reference")
    }
    pairs = zip(reference["base", "test"], reference["expert", "test"], strict=True)
    for base, expert in pairs:
        assert 0.2 < base < expert <= 1


def test_equal_budgets_on_pairs_of_tasks(finished):
    """Each method tries as many settings, on the same pairs, on validation data."""
    found = finished[2]
    pairs = {"".join(map(str, pair)) for pair in found["plan"]["pairs"]}
    tried = defaultdict(list)
    for entry in _entries(found, "tuning"):
        assert entry["part"] == "validation"
        assert set(entry["accuracy"]) == pairs
        tried[entry["method"]].append(entry["parameters"])
    assert set(tried) == METHODS
    for settings in tried.values():
        assert len(settings) == found["plan"]["trials"]
    scales = {
        tuple(setting["lambda"] for setting in settings) for settings in tried.values()
    }
    assert len(scales) == 1


def test_frozen_is_the_best_of_the_trials(finished):
    """One setting a method for every subset: the best on validation data of pairs."""
    found = finished[2]
    [own] = [
        entry["accuracy"]["01234567"]
        for entry in _entries(found, "reference")
        if (entry["method"], entry["part"]) == ("expert", "validation")
    ]
    for name in METHODS:
        trials = [e for e in _entries(found, "tuning") if e["method"] == name]
        scores = [
            fmean(
                fmean(a / own[int(t)] for a, t in zip(scores, tasks, strict=True))
                for tasks, scores in trial["accuracy"].items()
            )
            for trial in trials
        ]
        [frozen] = [e for e in _entries(found, "frozen") if e["method"] == name]
        chosen = [trial["parameters"] for trial in trials].index(frozen["parameters"])
        # Accuracies are rounded in the file.
        assert scores[chosen] == pytest.approx(max(scores), abs=2e-4)


def test_test_data_are_for_reporting_only(finished):
    """What is chosen is chosen on validation data, what is reported is on test data."""
    for entry in finished[2]["runs"]:
        if entry["stage"] != "reference":
            expected = "test" if entry["stage"] in TEST_STAGES else "validation"
            assert entry["part"] == expected, entry["stage"]


def test_console_script_writes_the_same(finished):
    """For each method `mergekit-yaml` was run, and wrote the tensors measured."""
    console = finished[2]["mergekit-yaml"]
    assert {name.partition(", seed")[0] for name in console} == METHODS
    for found in console.values():
        assert found["same tensors"] is True
        assert found["tensors"] > 10


def test_second_run_goes_on_from_the_first(finished):
    """Nothing is trained or measured twice: same text, no file of the cache changed."""
    folder, text, _ = finished
    before = {
        path: path.stat().st_mtime_ns
        for path in (folder / "cache").rglob("*")
        if path.is_file() and path.name != "results.jsonl"
    }
    [results] = (folder / "cache").rglob("results.jsonl")
    lines = results.read_text().splitlines(keepends=True)
    # As if it had been interrupted while writing the last line.
    results.write_text("".join(lines)[:-9])
    done = _claims("--cache", folder / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout == text
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = results.read_text().splitlines(keepends=True)
    assert again[:-1] == lines[:-1]
    assert json.loads(again[-1])["key"] == json.loads(lines[-1])["key"]
