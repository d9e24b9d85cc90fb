"""What is built from the repository, and what installing and uninstalling it does."""

import ast
import csv
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from support.environments import COMMAND_FILE, HOOK_FILES, Environment
from support.repository import BENCHMARKS, HOOK, ROOT, run

NAME = "mergekit_breadcrumbs"
# Written by the test run itself, or by whoever works in the tree.
CACHES = {".git", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


@pytest.fixture(scope="module", autouse=True)
def _tree_stays_as_it_is() -> Iterator[None]:
    """Building and installing leave nothing behind in the source tree."""
    before = _tree()
    assert {Path("pyproject.toml"), Path(NAME, "py.typed")} <= before
    yield
    assert _tree() == before


def _tree() -> set[Path]:
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
    return {
        path
        for path in paths
        if not CACHES.intersection(path.parts)
        and "__pycache__" not in path.parts
        and not path.name.startswith(".coverage")
    }


def _build(target: str, source: Path, out_dir: Path) -> Path:
    """Build with the backend itself: no build environment, no network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d"]
    done = run(*command, out_dir, cwd=source)
    assert done.returncode == 0, done.stderr
    [built] = out_dir.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the working tree."""
    return _build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, str]:
    """The text of every file in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(contents: dict[str, str]) -> Message:
    """The wheel's METADATA."""
    [name] = (name for name in contents if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(contents[name])


def test_wheel_holds_the_package_and_nothing_else(contents: dict[str, str]) -> None:
    """The package with its texts, hook and command beside it, metadata, licence."""
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / NAME).rglob("*")
        if (path.suffix in {".py", ".md"} or path.name == "py.typed")
        and path.parent != HOOK
    }
    [dist_info] = {name.split("/")[0] for name in contents if ".dist-info/" in name}
    files = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    described = {f"{dist_info}/{file}" for file in files}
    beside = {*HOOK_FILES, COMMAND_FILE}
    assert set(contents) == sources | beside | described
    for name in beside:
        assert contents[name] == (HOOK / name).read_text()
    assert contents[f"{dist_info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_text()
    assert "Root-Is-Purelib: true" in contents[f"{dist_info}/WHEEL"]


def test_metadata(metadata: Message) -> None:
    """Name, licence, Python and mergekit versions are the ones agreed on."""
    assert metadata["Name"] == "mergekit-breadcrumbs"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(">=3.10")
    mergekit = _requirements(metadata)["mergekit"]
    assert mergekit.specifier == SpecifierSet(">=0.1.5,<0.2")


def _requirements(metadata: Message, extra: str = "") -> dict[str, Requirement]:
    found = map(Requirement, metadata.get_all("Requires-Dist", []))
    return {
        canonicalize_name(requirement.name): requirement
        for requirement in found
        if (requirement.marker is None) == (not extra)
        and (
            requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        )
    }


def _third_party(*folders: Path) -> set[str]:
    """Return the distributions whose modules the sources of the folders import."""
    imported: set[str] = set()
    own = {path.stem for folder in folders for path in folder.iterdir()} | {NAME}
    for source in (path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    distributions = packages_distributions()
    return {
        canonicalize_name(distributions.get(module, [module])[0])
        for module in imported - sys.stdlib_module_names - own
    }


def test_dependencies_are_what_is_imported(metadata: Message) -> None:
    """Every package that is imported anywhere is declared, and no other.

    Pictures are an extra of their own, and so are lm-eval and what tunes.
    """
    extras = {
        extra: set(_requirements(metadata, extra=extra))
        for extra in ("plot", "lm-eval", "tune")
    }
    assert extras == {
        "plot": {"matplotlib"},
        "lm-eval": {"lm-eval"},
        # One sampler of Optuna's needs scipy.
        "tune": {"matplotlib", "optuna", "ruamel-yaml", "scipy", "sqlalchemy"},
    }
    imported = _third_party(ROOT / NAME) - set().union(*extras.values())
    assert set(_requirements(metadata)) == imported


@pytest.mark.parametrize("extra", ["bench", "test"])
def test_extra_covers_the_benchmarks(metadata: Message, extra: str) -> None:
    """What the benchmarks import comes with either extra, or with the package."""
    declared = {*_requirements(metadata), *_requirements(metadata, extra=extra)}
    assert _third_party(BENCHMARKS) <= declared


def test_extra_covers_the_tests(metadata: Message) -> None:
    """What only the tests import comes with the `test` extra or with mergekit."""
    declared = {*_requirements(metadata), *_requirements(metadata, extra="test")}
    # pytest needs the one, mergekit the others.
    through_others = {"packaging", "huggingface-hub", "peft"}
    assert _third_party(ROOT / "tests") <= declared | through_others


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    """The source distribution is complete: its wheel is the same, bit for bit."""
    sdist = _build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    for needed in (
        "tests/whole/test_packaging.py",
        "examples/yaml/minimal.yml",
        "LICENSE",
    ):
        assert (unpacked / needed).is_file()
    again = _build("wheel", unpacked, tmp_path / "wheel")
    assert again.name == wheel.name
    assert again.read_bytes() == wheel.read_bytes()


SERVED = """
import json, sys
hook_ran = "mergekit_breadcrumbs" in sys.modules
from mergekit.merge_methods import registry
methods = registry.get("breadcrumbs"), registry.get("breadcrumbs_ties")
package = sys.modules.get("mergekit_breadcrumbs")
file = package and package.__file__
print(json.dumps([hook_ran, [type(method).__module__ for method in methods], file]))
"""


def _recorded(site: Path) -> set[str]:
    """Return the names of the files that pip has installed."""
    [dist_info] = site.glob(f"{NAME}-*.dist-info")
    with (dist_info / "RECORD").open() as stream:
        return {row[0] for row in csv.reader(stream)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "directory", "editable"])
def test_install_and_uninstall(kind: str, wheel: Path, tmp_path: Path) -> None:
    """pip installs the hook with the package, and takes all of it away again."""
    environment = Environment(tmp_path / "venv")
    environment.mirror()
    site = environment.site_packages
    before = set(environment.root.rglob("*"))
    what = {"wheel": [wheel], "directory": [ROOT], "editable": ["-e", ROOT]}[kind]
    environment.pip("install", "--no-deps", "--no-build-isolation", *map(str, what))
    assert _recorded(site) >= set(HOOK_FILES)
    home = ROOT if kind == "editable" else site
    ours = str(home / NAME / "__init__.py")
    assert environment.ask(SERVED) == [True, [NAME, NAME], ours]

    environment.pip("uninstall", "--yes", "mergekit-breadcrumbs")
    assert set(environment.root.rglob("*")) == before
    built_in = "mergekit.merge_methods.generalized_task_arithmetic"
    assert environment.ask(SERVED) == [False, [built_in, built_in], None]


@pytest.mark.slow
def test_wheel_on_every_python(python: Path, wheel: Path, tmp_path: Path) -> None:
    """The wheel brings the hook, which runs, and takes it away again."""
    environment = Environment(tmp_path / "venv", python)
    environment.add_mergekit()
    site = environment.site_packages
    before = set(environment.root.rglob("*"))
    environment.pip("install", "--no-deps", str(wheel))
    assert _recorded(site) >= set(HOOK_FILES)
    environment.change_method()
    ours = str(site / NAME / "__init__.py")
    assert environment.ask(SERVED) == [True, [NAME, NAME], ours]

    environment.pip("uninstall", "--yes", "mergekit-breadcrumbs")
    assert set(environment.root.rglob("*")) == before
    built_in = "mergekit.merge_methods.base"
    assert environment.ask(SERVED) == [False, [built_in, built_in], None]
