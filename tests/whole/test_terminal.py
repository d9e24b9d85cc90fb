"""How commands print and end, whatever happens: in sentences that are just text."""

import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from safetensors import SafetensorError
from support.checked_configs import MODELS
from support.checkpoints import finetune, make_base
from support.inspected import usual
from support.repository import run, script

from mergekit_breadcrumbs.cli import main
from mergekit_breadcrumbs.measure.table import print_report
from mergekit_breadcrumbs.terminal import Commands

EVIL = "E\x1b[31mvil\x07\u202e$x_{$ [red]"
SHOWN = "E\\x1b[31mvil\\x07\\u202e$x_{$ [red]"
COMMAND = script("mergekit-breadcrumbs")


def _controls(text: str) -> set[str]:
    return {c for c in text if c != "\n" and (ord(c) < 32 or c in "\x7f\x9b\u202e")}


def _raise(error: BaseException) -> Any:
    raise error


ENDS: dict[str, tuple[BaseException, int, str]] = {
    "usage": (click.UsageError(EVIL), 2, f"Error: {SHOWN}"),
    "an error of several lines": (click.ClickException(f"a\n{EVIL}"), 1, f"a\n{SHOWN}"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "Interrupted."),
    "no memory": (MemoryError(), 1, "Error: out of memory"),
    "a package is missing": (
        ModuleNotFoundError("", name="mergekit.options"),
        1,
        "Error: mergekit.options is not installed here. Install it with: pip install"
        " 'mergekit",
    ),
    "a package is too old": (
        ImportError(f"cannot import name {EVIL}", name="huggingface_hub"),
        1,
        f"Error: this huggingface-hub cannot be used (cannot import name {SHOWN})."
        " Install another: pip install 'huggingface-hub",
    ),
    "a full disk": (
        OSError(errno.ENOSPC, "No space left on device", f"{EVIL}.json"),
        1,
        f"Error: {SHOWN}.json: No space left on device",
    ),
    "standard output is full": (
        OSError(errno.ENOSPC, "No space left on device"),
        1,
        "Error: cannot write the output: No space left on device",
    ),
}


@pytest.mark.parametrize("reason", ENDS)
def test_ends(reason: str) -> None:
    """Whatever a command raises that is no bug ends with a sentence and a status."""
    error, status, message = ENDS[reason]
    commands = Commands(commands=[click.Command("do", callback=lambda: _raise(error))])
    result = CliRunner().invoke(commands, ["do"])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == status
    assert message in result.stderr
    assert not _controls(result.output)


def test_bugs_are_not_hidden() -> None:
    """A bug comes out as itself, and a module of ours that is missing is one."""
    for error in (ZeroDivisionError(), ImportError("", name="mergekit_breadcrumbs.x")):
        command = click.Command("do", callback=lambda error=error: _raise(error))
        result = CliRunner().invoke(Commands(commands=[command]), ["do"])
        assert result.exception is error


def test_logs_and_warnings(capfd: pytest.CaptureFixture[str]) -> None:
    """What others log or warn of is shown without control characters or tracebacks."""

    def speak() -> None:
        logging.getLogger("x").warning("name %s", EVIL)
        logging.getLogger("x").warning("gone", exc_info=ValueError(EVIL))
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            print(warnings.formatwarning(EVIL, UserWarning, "f", 1))

    before = logging.getLogRecordFactory()
    logger, handler = logging.getLogger("x"), logging.StreamHandler(io.StringIO())
    logger.addHandler(handler)
    try:
        command = click.Command("do", callback=speak)
        result = CliRunner().invoke(Commands(commands=[command]), ["do"])
    finally:
        logger.removeHandler(handler)
    said = handler.stream.getvalue()
    assert said == f"name {SHOWN}\ngone\nValueError: {SHOWN}\n"
    assert SHOWN in result.stdout
    assert not _controls(said + result.output)
    assert logging.getLogRecordFactory() is before


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base and a fine-tuning in a folder with an odd name, and a config."""
    monkeypatch.chdir(tmp_path)
    base = make_base(Path("base"), layers=1)
    finetune(base, Path(EVIL), seed=1)
    text = MODELS.replace("./math", f'"./{EVIL}"').replace("\x1b", "\\e")
    text = text.replace("\x07", "\\a").replace("\u202e", "\\u202e")
    Path(f"{EVIL}.yml").write_text(text.replace("code", "base"), encoding="utf-8")
    return tmp_path


def _inspect(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["inspect", *arguments])


@pytest.mark.usefixtures("models")
def test_names_of_files_and_models() -> None:
    """In problems, tables and the picture's names nothing is obeyed, or misread."""
    result = _inspect(f"{EVIL}.yml", "--quiet", "--plot", "a.png", "--json", "a.json")
    assert result.exit_code == 0, result.output
    assert f"{SHOWN}  weight 0.5" in result.stdout
    assert f"{SHOWN}.yml:9: warning" in result.stderr
    assert not _controls(result.output)
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")
    missing = _inspect(f"{EVIL}.yaml")
    assert missing.exit_code == 2
    assert not _controls(missing.output)


def test_json_with_any_name(models: Path) -> None:
    """The name of a folder need not be ASCII, where standard output is."""
    folder = "caf\u00e9"
    os.rename(EVIL, models / folder)
    config = {"merge_method": "breadcrumbs", "base_model": "base"}
    model = {"model": f"./{folder}", "parameters": {"weight": 1}}
    Path("c.yml").write_text(json.dumps({**config, "models": [model]}))
    for encoding in ("ascii", "utf-8"):
        runner = CliRunner(charset=encoding)
        result = runner.invoke(main, ["inspect", "c.yml", "--quiet", "--json", "-"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["models"] == [f"./{folder}"]


@pytest.mark.usefixtures("models")
def test_errors_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is damaged between the checks and the reading is a sentence."""
    module = ModuleType("run")
    error = SafetensorError(f"cannot read {EVIL}")
    # As if it came from a package that mergekit calls.
    stand_in: dict[str, Any] = {"__name__": "mergekit.io", "error": error}
    exec("def run_inspection(*args, **kw): raise error", stand_in)
    module.__dict__["run_inspection"] = stand_in["run_inspection"]
    monkeypatch.setitem(sys.modules, "mergekit_breadcrumbs.measure.run", module)
    result = _inspect(f"{EVIL}.yml")
    assert result.exit_code == 1
    said = f"Error: the models cannot be measured: cannot read {SHOWN}\n"
    assert result.stderr.endswith(said)


def test_ascii() -> None:
    """Where there is nothing but ASCII, tables keep their columns."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")

    def show() -> None:
        print_report(usual(f"org/a{'x' * 40}"), sys.stdout)

    command = click.Command("do", callback=show)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit):
            Commands(commands=[command]).main(["do"])
    stream.seek(0)
    lines = stream.read().splitlines()
    assert any(line.endswith("norm2") or "norm2|norm2" in line for line in lines)
    assert "~" in "".join(lines)
    assert max(map(len, lines)) <= 100


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_full_standard_output() -> None:
    """What cannot be printed is said once, and Python adds nothing at its exit."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [COMMAND, "explain"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    message = "Error: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_closed_pipe() -> None:
    """A reader who has seen enough is no error to speak of."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([COMMAND, "explain"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b""


def test_no_working_directory(tmp_path: Path) -> None:
    """Torch dies where the working directory is gone; we say so before."""
    gone = tmp_path / "gone"
    gone.mkdir()
    shell = f"cd {gone}; rmdir {gone}; exec {COMMAND} status"
    done = run("sh", "-c", shell)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the working directory is gone")


WITHOUT = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mergekit":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Finder())
from mergekit_breadcrumbs.cli import main
main(sys.argv[1:])
"""


def test_without_mergekit(tmp_path: Path) -> None:
    """Without mergekit the command says how to get it."""
    (tmp_path / "c.yml").touch()
    done = run(sys.executable, "-c", WITHOUT, "inspect", tmp_path / "c.yml")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: mergekit is not installed here. Install it")


@pytest.mark.slow
def test_interrupted(models: Path) -> None:
    """Ctrl-C ends with the status that shells expect, and without a traceback."""
    process = subprocess.Popen(
        [COMMAND, "inspect", f"{EVIL}.yml"],
        cwd=models,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.endswith("Interrupted.\n")
    assert "Traceback" not in said


@pytest.mark.slow
def test_status_shows_the_environment_as_text() -> None:
    """What stands in a variable is shown, and not obeyed."""
    done = run(COMMAND, "status", env=os.environ | {"MERGEKIT_BREADCRUMBS": EVIL})
    assert f"MERGEKIT_BREADCRUMBS  {SHOWN}\n" in done.stdout
    assert not _controls(done.stdout)
