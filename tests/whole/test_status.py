"""The command line's face: `status`, `--help`, `--version`."""

import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support.environments import HOOK_FILES, Environment
from support.repository import run_script

from mergekit_breadcrumbs import status

OURS = "mergekit_breadcrumbs.BreadcrumbsMerge"
# What the command does, in a Python that has no click.
REPORT = """
from mergekit_breadcrumbs.status import describe
active, text = describe()
print(text)
raise SystemExit(0 if active else 1)
"""


def _rows(text: str) -> dict[str, str]:
    """Read the table above the empty line."""
    lines = text.split("\n\n")[0].splitlines()
    rows = dict(line.split("  ", 1) for line in lines)
    return {row.strip(): value.strip() for row, value in rows.items()}


@pytest.mark.slow
def test_active(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tests run the package is active: exit 0, and every fact is listed."""
    monkeypatch.delenv("MERGEKIT_BREADCRUMBS", raising=False)
    run = run_script("mergekit-breadcrumbs", "status")
    assert (run.returncode, run.stderr) == (0, "")
    rows = _rows(run.stdout)
    python, _, executable = rows.pop("Python").partition(" ")
    assert python == sys.version.split()[0]
    assert Path(executable.strip("()")).parent == Path(sys.executable).parent
    assert rows == {
        "mergekit-breadcrumbs": version("mergekit-breadcrumbs"),
        "mergekit": version("mergekit"),
        "torch": version("torch"),
        "hook file": "installed",
        "hook ran at start": "yes",
        "MERGEKIT_BREADCRUMBS": "not set",
        "breadcrumbs": OURS,
        "breadcrumbs_ties": OURS,
        "breadcrumb files": "read",
    }
    assert run.stdout.endswith("\n\nActive: mergekit merges with this package.\n")


@pytest.mark.slow
def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switched off: exit 1, mergekit's own classes, and how to switch it on."""
    monkeypatch.setenv("MERGEKIT_BREADCRUMBS", "0")
    run = run_script("mergekit-breadcrumbs", "status")
    assert (run.returncode, run.stderr) == (1, "")
    rows = _rows(run.stdout)
    assert rows["MERGEKIT_BREADCRUMBS"] == "0"
    assert rows["breadcrumbs"].startswith("mergekit.merge_methods.")
    assert rows["breadcrumbs_ties"].startswith("mergekit.merge_methods.")
    assert "Unset it" in run.stdout


def _nothing(site: Path) -> None:
    pass


def _no_pth(site: Path) -> None:
    (site / HOOK_FILES[0]).unlink()


def _no_start(site: Path) -> None:
    # Only Python 3.15 and later read it; the installation is damaged all the same.
    (site / HOOK_FILES[1]).unlink()


def _target_directory(site: Path) -> None:
    (site / HOOK_FILES[0]).write_text("# as if Python had not looked here\n")


def _broken_method(site: Path) -> None:
    (site / "mergekit_breadcrumbs" / "host" / "method.py").write_text("1 / 0\n")


def _broken_mergekit(site: Path) -> None:
    (site / "mergekit" / "merge_methods" / "base.py").write_text("1 / 0\n")


def _dying_mergekit(site: Path) -> None:
    (site / "mergekit" / "__init__.py").write_text("import os; os._exit(3)\n")


def _no_mergekit(site: Path) -> None:
    [metadata] = site.glob("mergekit-*.dist-info")
    shutil.rmtree(metadata)
    (site / "mergekit" / "__init__.py").write_text("raise ModuleNotFoundError('gone')")


def _other_plugin(site: Path) -> None:
    registry = site / "mergekit" / "merge_methods" / "registry.py"
    text = """
class Table(dict):
    def __getitem__(self, name):
        return "another plugin's"
get = Table().__getitem__
"""
    registry.write_text(registry.read_text() + text)


BUILT_IN = "mergekit.merge_methods.base.Method"
YES = {"hook file": "installed", "hook ran at start": "yes"}
NO = {"hook file": "installed", "hook ran at start": "no", "breadcrumbs": BUILT_IN}
CASES: dict[str, tuple[Callable[[Path], None], int, dict[str, str], str]] = {
    "active": (_nothing, 0, {**YES, "breadcrumbs": OURS}, "Active: mergekit merges"),
    "hook file removed": (
        _no_pth,
        1,
        {**NO, "hook file": "not installed"},
        "the start-up hook is not installed. Install the package again",
    ),
    "one hook file removed": (
        _no_start,
        0,
        {**YES, "hook file": "not installed"},
        "Active: mergekit merges",
    ),
    "hook file not run": (_target_directory, 1, NO, "has not run the hook file"),
    "plugin broken": (
        _broken_method,
        1,
        {**YES, "breadcrumbs": BUILT_IN},
        "could not register its merge methods (ZeroDivisionError('division by zero'))",
    ),
    "mergekit broken": (
        _broken_mergekit,
        1,
        {**YES, "breadcrumbs": "nothing"},
        "Repair what this error names:\nZeroDivisionError: division by zero",
    ),
    "mergekit kills Python": (
        _dying_mergekit,
        1,
        {"hook file": "installed", "hook ran at start": "?", "breadcrumbs": "nothing"},
        "Repair what this error names:\nexit status 3",
    ),
    "mergekit missing": (
        _no_mergekit,
        1,
        {**YES, "mergekit": "not installed"},
        "Install it with: pip install 'mergekit>=0.1.5,<0.2'",
    ),
    "another plugin": (
        _other_plugin,
        1,
        {**YES, "breadcrumbs": "builtins.str"},
        "another package has put the classes above in the place",
    ),
}


@pytest.mark.parametrize(
    ("damage", "code", "rows", "advice"), CASES.values(), ids=CASES
)
def test_advice(
    python: Path,
    tmp_path: Path,
    damage: Callable[[Path], None],
    code: int,
    rows: dict[str, str],
    advice: str,
) -> None:
    """Whatever is wrong, the table shows it and the last lines say what to do."""
    environment = Environment(tmp_path / "venv", python)
    environment.add_mergekit()
    environment.add_plugin()
    damage(environment.site_packages)
    run = environment.run("-c", REPORT)
    assert (run.returncode, run.stderr) == (code, "")
    shown = _rows(run.stdout)
    assert {row: shown[row] for row in rows} == rows
    assert shown["mergekit-breadcrumbs"] == "9.8.7"
    assert advice in run.stdout


def test_required_failure(python: Path, tmp_path: Path) -> None:
    """With `require`, what keeps mergekit from being imported is named."""
    environment = Environment(tmp_path / "venv", python)
    environment.add_mergekit()
    environment.add_plugin()
    _broken_method(environment.site_packages)
    run = environment.run("-c", REPORT, MERGEKIT_BREADCRUMBS="require")
    assert (run.returncode, run.stderr) == (1, "")
    assert _rows(run.stdout)["MERGEKIT_BREADCRUMBS"] == "require"
    assert "RuntimeError: mergekit-breadcrumbs could not register" in run.stdout


@pytest.mark.slow
def test_working_directory_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout of mergekit in the working directory is not what gets asked."""
    (tmp_path / "mergekit").mkdir()
    (tmp_path / "mergekit" / "__init__.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MERGEKIT_BREADCRUMBS", raising=False)
    assert run_script("mergekit-breadcrumbs", "status").returncode == 0


WELL: dict[str, Any] = {"hook_ran": True, "classes": dict.fromkeys(status._NAMES, OURS)}
ONE_OF_TWO = {**WELL["classes"], "breadcrumbs_ties": BUILT_IN}


@pytest.mark.parametrize(
    ("answer", "switch", "installed", "expected"),
    [
        pytest.param({}, "", True, "Active: ", id="active"),
        pytest.param({"classes": ONE_OF_TWO}, "", True, "another package", id="one"),
        pytest.param({"classes": {}}, "0", True, "switched off", id="off"),
        pytest.param(
            {"classes": {}, "error": "KeyError: 1"}, "", True, "KeyError: 1", id="error"
        ),
        pytest.param(
            {"classes": ONE_OF_TWO, "said": ["so and so"]},
            "",
            True,
            "Not active: so and so",
            id="warned",
        ),
        pytest.param(
            {"hook_ran": False, "classes": {}}, "", True, "has not run", id="not run"
        ),
        pytest.param(
            {"hook_ran": False, "classes": {}}, "", False, "Install the", id="no hook"
        ),
    ],
)
def test_report(
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, Any],
    switch: str,
    installed: bool,
    expected: str,
) -> None:
    """What the probe found decides both the verdict and the advice."""
    monkeypatch.setenv("MERGEKIT_BREADCRUMBS", switch)
    monkeypatch.setattr(status, "_probe", lambda: {**WELL, **answer})
    monkeypatch.setattr(status, "_hook_installed", lambda: installed)
    active, text = status.describe()
    assert active == (expected == "Active: ")
    assert text.split("\n\n", 1)[1].count(expected) == 1


def test_report_without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported from a directory that nothing is installed in, it still reports."""
    monkeypatch.delenv("MERGEKIT_BREADCRUMBS", raising=False)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(status, "_probe", lambda: {"hook_ran": False, "classes": {}})
    active, text = status.describe()
    rows = _rows(text)
    assert not active
    assert {rows[row] for row in ("mergekit", "torch", "hook file")} == {
        "not installed"
    }
    assert "there is no mergekit here" in text


@pytest.mark.parametrize(
    ("probe", "error"),
    [
        ("import os; os._exit(3)", "exit status 3"),
        ("print('no JSON')", "exit status 0"),
        ("raise SystemExit('why')", "exit status 1\nwhy"),
    ],
    ids=["dies", "prints", "raises"],
)
def test_probe_without_an_answer(
    monkeypatch: pytest.MonkeyPatch, probe: str, error: str
) -> None:
    """A Python that does not answer is reported with what it left behind."""
    monkeypatch.setattr(status, "_PROBE", probe)
    assert status._probe() == {"hook_ran": None, "classes": {}, "error": error}


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help(option: str) -> None:
    """Help names both commands and how to merge."""
    run = run_script("mergekit-breadcrumbs", option)
    assert (run.returncode, run.stderr) == (0, "")
    for word in ("status", "demo", "mergekit-yaml config.yml"):
        assert word in run.stdout


def test_version() -> None:
    """The version is the one that pip knows."""
    run = run_script("mergekit-breadcrumbs", "--version")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split()[-1] == version("mergekit-breadcrumbs")


def test_usage_error() -> None:
    """An unknown command is a usage error, not a traceback."""
    run = run_script("mergekit-breadcrumbs", "statsu")
    assert run.returncode == 2
    assert "No such command 'statsu'" in run.stderr
