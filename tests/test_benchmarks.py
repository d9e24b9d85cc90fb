"""The benchmark scripts run; what they measure is looked at by people."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_startup(tmp_path: Path) -> None:
    """A table of medians and every single time come out, for any number of starts."""
    times = tmp_path / "times.json"
    run = subprocess.run(
        [sys.executable, BENCHMARKS / "startup.py", "--starts", "3", "--json", times],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    rows = [line.split("|")[1].strip() for line in run.stdout.splitlines()]
    assert rows == [
        "`python -c pass`, 3 starts each",
        "---",
        "plain",
        "with the hook",
        "added (median of pairs)",
    ]
    pairs = json.loads(times.read_text())
    assert len(pairs) == 3
    for pair in pairs:
        for start in ("plain", "hook"):
            assert 0 < pair[start]["cpu"] < 1e5
            assert 0 < pair[start]["wall"] < 1e5
