"""Temporary folders go with their process, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mergekit_breadcrumbs.tune.scratch import Scratch, remove_leftovers

HOLD = """
import sys, time
from pathlib import Path
from mergekit_breadcrumbs.tune.scratch import Scratch
with Scratch(Path(sys.argv[1])) as scratch:
    print(scratch.new("candidate"), flush=True)
    time.sleep(60)
"""


def holding(parent: Path) -> tuple["subprocess.Popen[str]", Path]:
    """Start a process that has a folder; return both."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=str)
def test_folder_of_a_process_that_ended(sign: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C removes the folder at once; after kill -9 the next start does."""
    process, folder = holding(tmp_path)
    with process:
        assert folder.is_dir()
        assert remove_leftovers(tmp_path) == []
        process.send_signal(sign)
        process.wait(timeout=30)
    assert folder.exists() == (sign == signal.SIGKILL)
    with Scratch(tmp_path):
        [own] = tmp_path.iterdir()
        assert str(os.getpid()) in own.name
    assert list(tmp_path.iterdir()) == []


def test_others_are_left_alone(tmp_path: Path) -> None:
    """What runs, has another name, or is of another machine, stays."""
    with Scratch(tmp_path):
        [own] = tmp_path.iterdir()
        gone = own.name.replace(f"-{os.getpid()}-", "-999999999-")
        for name in (gone, f"x{gone}", gone.replace("tune-", "tune-other-"), "models"):
            (tmp_path / name).mkdir()
        with Scratch(tmp_path):
            pass
        left = {path.name for path in tmp_path.iterdir()}
        other = gone.replace("tune-", "tune-other-")
        assert left == {own.name, f"x{gone}", other, "models"}


def test_own_number_of_an_earlier_process(tmp_path: Path) -> None:
    """In a container every process may have the same number: its folder is removed."""
    with Scratch(tmp_path):
        [own] = tmp_path.iterdir()
    own.mkdir()
    assert remove_leftovers(tmp_path) == [own]


def test_outside_of_with(tmp_path: Path) -> None:
    """Nothing is made before and after."""
    scratch = Scratch(tmp_path)
    with pytest.raises(RuntimeError, match="inside `with` alone"):
        scratch.new("candidate")
    assert list(tmp_path.iterdir()) == []
