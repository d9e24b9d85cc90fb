"""The benchmark of the paper's claims, run small: its protocol, never who wins."""

import json
import sys

import pytest
from support.repository import BENCHMARKS, run

pytestmark = pytest.mark.slow


def _claims(*arguments):
    script = BENCHMARKS / "claims.py"
    return run(sys.executable, script, *arguments, timeout=3000)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of one whole quick run, what it printed, and its JSON."""
    folder = tmp_path_factory.mktemp("claims")
    done = _claims("--quick", "--cache", folder / "cache", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, json.loads((folder / "out" / "claims.json").read_text())


def test_experts_are_better_than_the_base(finished):
    """On their own tasks, on average, and the base is better than guessing."""
    found = [v for k, v in finished[2]["results"].items() if k.startswith("expert ")]
    assert len(found) == 12
    for part in ("validation", "test"):
        base, own = (
            sum(one[f"{who} {part}"] for one in found) for who in ("base", "expert")
        )
        assert 0.2 * len(found) < base < own <= len(found)


def test_console_script_writes_the_same(finished):
    """`mergekit-yaml` was run for every method of mergekit's, and each order."""
    found = [v for k, v in finished[2]["results"].items() if k.startswith("console")]
    assert len(found) == 14
    assert all(one["same"] for one in found if not one["random"])
    assert sum(one["random"] for one in found) == 2  # DARE draws in another order
    assert "wrote the same tensors in 12 of 12 merges" in finished[1]


def test_figure(finished):
    """It is there, and small."""
    assert 1000 < (finished[0] / "out" / "claims.png").stat().st_size < 200_000


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
    done = _claims("--quick", "--cache", folder / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout == text
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = results.read_text().splitlines(keepends=True)
    assert again[:-1] == lines[:-1]
    assert json.loads(again[-1])["key"] == json.loads(lines[-1])["key"]


def test_written_again_from_the_json(finished):
    """Where there is an introduction it stays, and all below the border is new."""
    folder, text, _ = finished
    file = folder / "out" / "claims.md"
    border = "<!-- Written by benchmarks/claims.py, except for what is above. -->\n"
    file.write_text(f"# Claims\n\nOurs.\n\n{border}\nold")
    done = _claims("--rewrite", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    assert file.read_text().strip() == f"# Claims\n\nOurs.\n\n{border}\n{text}".strip()
