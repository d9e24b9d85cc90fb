"""A worker of a study, in a process of its own; also what starts and watches it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna

from mergekit_breadcrumbs.tune.scores import Score
from mergekit_breadcrumbs.tune.search import Search, Values
from mergekit_breadcrumbs.tune.storage import open_study
from mergekit_breadcrumbs.tune.study import run
from mergekit_breadcrumbs.tune.trials import Trial

SEARCHES = [Search("lambda", 0.1, 2.0, log=True), Search("density", 0.0, 1.0)]


def start_worker(folder: Path, **settings: Any) -> "subprocess.Popen[str]":
    """Start a worker on the study of a folder.

    `trials` are all that are wanted, `seconds` is what one takes; at the trial `hangs`
    of its own, counted from 1, it stays for ever. `host` is what it takes itself for.
    """
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), json.dumps(settings)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1"},
    )


def ended(worker: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for a worker; return its exit status, and what it said on stderr."""
    _, errors = worker.communicate(timeout=60)
    return worker.returncode, errors


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Return what the workers of a folder have noted: what they began, and scored."""
    path = folder / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def check_all_done(
    folder: Path, trials: list[Trial], interrupted: Sequence[Values] = ()
) -> None:
    """Every attempt was scored once, and begun once, but for what was interrupted."""
    scored = [line["scored"] for line in log_of(folder) if "scored" in line]
    began = [line["began"] for line in log_of(folder) if "began" in line]
    assert _in_order(scored) == _in_order([trial.values for trial in trials])
    assert _in_order(began) == _in_order([*scored, *interrupted])
    assert len({str(values) for values in scored}) == len(trials)


def _in_order(all_values: Sequence[Values]) -> list[list[float]]:
    return sorted([values["lambda"], values["density"]] for values in all_values)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def study_of(folder: Path, storage: str | None = None) -> optuna.Study:
    """Open the study of a folder."""
    return open_study(
        SEARCHES,
        name="test",
        storage=storage,
        out=folder,
        identity={"config": "the same"},
        heartbeat=1,
    )


def _work(folder: Path, settings: dict[str, Any]) -> None:
    host = settings.get("host")
    if host is not None:
        socket.gethostname = lambda: host
    own = 0

    def objective(values: Values) -> dict[str, Score]:
        nonlocal own
        own += 1
        _note(folder, "began", values)
        while own == settings.get("hangs"):
            time.sleep(0.1)
        time.sleep(settings.get("seconds", 0))
        _note(folder, "scored", values)
        return {"it": Score(-abs(values["density"] - 0.4) - abs(values["lambda"] - 1))}

    study = study_of(folder, settings.get("storage"))
    run(study, SEARCHES, objective, trials=settings["trials"], seed=1, poll=0.1)


def _note(folder: Path, what: str, values: Values) -> None:
    with open(folder / "log", "a") as log:
        log.write(json.dumps({what: values, "pid": os.getpid()}) + "\n")


if __name__ == "__main__":
    _work(Path(sys.argv[1]), json.loads(sys.argv[2]))
