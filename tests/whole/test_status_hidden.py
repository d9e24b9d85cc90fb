"""What `status` says where its own package, or mergekit, is hidden or damaged."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.environments import Environment
from support.hidden import HIDING, MODULE, PACKAGE, write
from support.repository import run_script

# The console script, in a Python that has no pip to make it and no click.
COMMAND = "import mergekit_breadcrumbs_command as it; it.main()"
RECORD = "mergekit-9.8.7.dist-info/RECORD"


@pytest.fixture
def environment(python: Path, tmp_path: Path) -> Environment:
    """An environment with the stand-in, the plugin and its hook."""
    environment = Environment(tmp_path / "venv", python)
    environment.add_mergekit()
    environment.add_plugin()
    return environment


def _status(environment: Environment, code: int, **variables: str) -> str:
    """Return the last line of `status`, which ends well and prints only there."""
    run = environment.run("-c", COMMAND, "status", **variables)
    assert (run.returncode, run.stderr) == (code, "")
    return run.stdout.splitlines()[-1]


@pytest.mark.parametrize("files", HIDING.values(), ids=HIDING)
def test_hidden(
    environment: Environment, tmp_path: Path, files: dict[str, str]
) -> None:
    """The file that hides this package is named, with what to do."""
    hiding = write(tmp_path / "first", files)
    said = _status(environment, 1, PYTHONPATH=str(tmp_path / "first"))
    assert said == (
        f"Not active: Python finds {hiding} in this package's place. Rename it, or take"
        " the folder that it is in off PYTHONPATH."
    )


def test_every_command_says_so(environment: Environment, tmp_path: Path) -> None:
    """Another command than `status` says it on standard error."""
    hiding = write(tmp_path / "first", HIDING["a module"])
    variables = {"PYTHONPATH": str(tmp_path / "first")}
    run = environment.run("-c", COMMAND, "inspect", "config.yml", **variables)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"Python finds {hiding} in this package's place" in run.stderr


def test_hidden_by_a_copy_that_works(environment: Environment, tmp_path: Path) -> None:
    """A checkout on the path is as good as what is installed, and is named."""
    own = environment.site_packages / "mergekit_breadcrumbs"
    copy = tmp_path / "first" / own.name
    shutil.copytree(own, copy)
    said = _status(environment, 0, PYTHONPATH=str(copy.parent))
    assert said.startswith("Active: mergekit merges with this package. It is the one")
    assert said.endswith(f"{copy / '__init__.py'}, not the one installed in {own}.")


def _remove(*names: str) -> Callable[[Path], None]:
    def remove(site: Path) -> None:
        for path in map(site.joinpath, names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def _bad_syntax(site: Path) -> None:
    (site / PACKAGE).write_text("def _arm(:\n")


INCOMPLETE = "mergekit is installed incompletely, or this package does not support"
DAMAGE = {
    "a syntax error": (_bad_syntax, "this package cannot be loaded (SyntaxError: "),
    "no '__init__'": (_remove(PACKAGE), "this package cannot be loaded (ImportError: "),
    "no module for the method": (
        _remove("mergekit_breadcrumbs/host"),
        "could not register its merge methods (ModuleNotFoundError",
    ),
    "no status": (
        _remove("mergekit_breadcrumbs/status.py"),
        "mergekit-breadcrumbs is installed incompletely. Install it again: pip",
    ),
    "no package": (
        _remove("mergekit_breadcrumbs"),
        "mergekit-breadcrumbs is installed incompletely. Install it again: pip",
    ),
    "no mergekit beside its metadata": (
        _remove("mergekit"),
        f"{INCOMPLETE} its version (ModuleNotFoundError: No module named 'mergekit')",
    ),
    "a module of mergekit gone": (
        _remove("mergekit/merge_methods/base.py"),
        f"{INCOMPLETE} its version (ModuleNotFoundError: No module named 'mergekit.me",
    ),
    "no '__init__' of mergekit": (
        _remove("mergekit/merge_methods/__init__.py", "mergekit/merge_methods/base.py"),
        f"{INCOMPLETE} its version (",
    ),
    "a module that mergekit needs": (
        _remove("pauses.py"),
        "ModuleNotFoundError: No module named 'pauses'",
    ),
}


@pytest.mark.parametrize("switch", ["", "require"])
@pytest.mark.parametrize(("damage", "said"), DAMAGE.values(), ids=DAMAGE)
def test_damaged(
    environment: Environment, damage: Callable[[Path], None], said: str, switch: str
) -> None:
    """One line says what is incomplete, whatever of either package is gone."""
    damage(environment.site_packages)
    variables = {"MERGEKIT_BREADCRUMBS": switch}
    run = environment.run("-c", COMMAND, "status", **variables)
    assert run.returncode == 1
    assert sum(said in line for line in (run.stdout + run.stderr).splitlines()) == 1
    assert "Traceback" not in run.stdout + run.stderr


def test_command_that_cannot_run(environment: Environment) -> None:
    """Without click the command fails, and `status` is printed all the same."""
    run = environment.run("-c", COMMAND, "status")
    assert run.returncode == 1
    assert "\nActive: mergekit merges with this package.\n" in run.stdout
    assert run.stdout.splitlines()[-1].startswith("The command itself cannot run: Mod")


@pytest.mark.parametrize("name", ["mergekit.py", "mergekit/__init__.py"])
def test_hidden_mergekit(environment: Environment, tmp_path: Path, name: str) -> None:
    """The file that hides mergekit is named, with what to do."""
    environment.write(RECORD, "mergekit/__init__.py,,\n")
    hiding = write(tmp_path / "first", {name: ""})
    run = environment.run("-c", COMMAND, "status", PYTHONPATH=str(tmp_path / "first"))
    assert run.returncode == 1
    assert f"Not active: Python finds {hiding} in mergekit's place." in run.stdout


def test_mergekit_in_the_working_directory(environment: Environment) -> None:
    """One that only `python -m` would find is named, and changes nothing."""
    place = write(environment.root.resolve(), {"mergekit/__init__.py": ""})
    run = environment.run("-c", COMMAND, "status")
    assert "\nActive: mergekit merges with this package.\n" in run.stdout
    assert f"`python -c` find {place} in mergekit's place;" in run.stdout


@pytest.mark.slow
def test_installed_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console script that the tests run beside says so too."""
    monkeypatch.delenv("MERGEKIT_BREADCRUMBS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    write(tmp_path, HIDING["a module"])
    run = run_script("mergekit-breadcrumbs", "status")
    assert (run.returncode, run.stderr) == (1, "")
    assert f"Python finds {tmp_path / MODULE} in this package's place" in run.stdout
