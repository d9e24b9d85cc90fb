"""What the start-up hook does where another module of the package's name hides it."""

from pathlib import Path

import pytest
from support.environments import Environment
from support.hidden import HIDING, write

IMPORT = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from mergekit.merge_methods import registry
print(json.dumps([type(registry.get("breadcrumbs")).__module__,
                  [[w.category.__name__, str(w.message)] for w in caught]]))
"""
STAND_IN = "mergekit.merge_methods.base"
CASES = pytest.mark.parametrize("files", HIDING.values(), ids=HIDING)


@pytest.fixture(scope="module")
def environment(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the stand-in, the plugin and its hook."""
    environment = Environment(tmp_path_factory.mktemp("hidden") / "venv", python)
    environment.add_mergekit()
    environment.add_plugin()
    return environment


@CASES
def test_mergekit_warns(
    environment: Environment, tmp_path: Path, files: dict[str, str]
) -> None:
    """Python starts in silence; importing mergekit warns once, naming the file."""
    hiding = write(tmp_path, files)
    run = environment.run("-c", "print('started')", PYTHONPATH=str(tmp_path))
    assert (run.returncode, run.stdout, run.stderr) == (0, "started\n", "")
    kind, [[category, message]] = environment.ask(IMPORT, PYTHONPATH=str(tmp_path))
    assert (kind, category) == (STAND_IN, "RuntimeWarning")
    assert "mergekit's built-in breadcrumbs stays in use" in message
    assert f"Another module hides it: {hiding}. Rename that" in message


@CASES
def test_required(
    environment: Environment, tmp_path: Path, files: dict[str, str]
) -> None:
    """With `require` mergekit cannot be imported, and one line names the file."""
    hiding = write(tmp_path, files)
    variables = {"PYTHONPATH": str(tmp_path), "MERGEKIT_BREADCRUMBS": "require"}
    run = environment.run("-c", "print('started')", **variables)
    assert (run.returncode, run.stdout) == (0, "started\n")
    assert run.stderr.count("\n") == 1
    assert f"hides it: {hiding}. Rename that, or take its folder off" in run.stderr
    run = environment.run("-c", IMPORT, **variables)
    assert run.returncode == 1
    assert "mergekit.merge_methods.registry" in run.stderr.splitlines()[-1]


def test_switched_off(environment: Environment, tmp_path: Path) -> None:
    """Switched off, nothing is missed and nothing is said."""
    write(tmp_path, HIDING["a module"])
    variables = {"PYTHONPATH": str(tmp_path), "MERGEKIT_BREADCRUMBS": "0"}
    assert environment.ask(IMPORT, **variables) == [STAND_IN, []]


def test_folder_without_init_hides_nothing(
    environment: Environment, tmp_path: Path
) -> None:
    """Python takes a folder for a package last of all: ours is registered."""
    write(tmp_path, {"mergekit_breadcrumbs/notes.py": ""})
    answer = environment.ask(IMPORT, PYTHONPATH=str(tmp_path))
    assert answer == ["mergekit_breadcrumbs", []]
