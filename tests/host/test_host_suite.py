"""mergekit's own test suite, run with our methods in the place of its own."""

import os
import shutil
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest
from support.repository import run

pytestmark = [pytest.mark.slow, pytest.mark.network]

# Put beside mergekit's tests: before each of them, the registry must serve what this
# run is about.
CONFTEST = """
import os
import pytest
from mergekit.merge_methods import registry

@pytest.fixture(autouse=True)
def _who_serves():
    for name in ("breadcrumbs", "breadcrumbs_ties"):
        kind = type(registry.get(name))
        assert kind.__module__.startswith(os.environ["SERVED_BY"]), kind
"""


class Outcome(NamedTuple):
    """What became of one test, and why."""

    result: str
    reason: str


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests that the sdist of the installed mergekit carries, made to run.

    The sdist lacks two files of `tests/`; ours stand in for them. Its copy of mergekit
    itself is left out: the installed one is meant.
    """
    folder = tmp_path_factory.mktemp("suite")
    wanted = f"mergekit=={version('mergekit')}"
    download = run(
        *(sys.executable, "-m", "pip", "download", wanted, "--no-deps"),
        *("--no-binary", "mergekit", "--dest", folder),
    )
    assert download.returncode == 0, f"pip cannot download {wanted}: {download.stderr}"
    [sdist] = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(unpacked / "mergekit")
    for name in ("common.py", "__init__.py", "conftest.py"):
        assert not (unpacked / "tests" / name).exists()
    shutil.copy(
        Path(__file__).parents[1] / "support" / "host_common.py",
        unpacked / "tests" / "common.py",
    )
    (unpacked / "tests" / "__init__.py").touch()
    (unpacked / "tests" / "conftest.py").write_text(CONFTEST)
    return unpacked


def _run(suite: Path, served_by: str, **variables: str) -> dict[str, Outcome]:
    report = suite / "report.xml"
    report.unlink(missing_ok=True)
    done = run(
        *(sys.executable, "-m", "pytest", "tests", "-q"),
        *("-p", "no:cacheprovider", "--junit-xml", report),
        timeout=1800,
        cwd=suite,
        env={**os.environ, "PYTEST_ADDOPTS": "", "SERVED_BY": served_by, **variables},
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        [*details] = (e for e in case if e.tag in ("failure", "error", "skipped"))
        result = details[0].tag if details else "passed"
        reason = details[0].get("message", "") if details else ""
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes[name] = Outcome(result, reason)
    return outcomes


def _failed(outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
    return {
        name: outcome
        for name, outcome in outcomes.items()
        if outcome.result in ("failure", "error")
    }


@pytest.fixture(scope="module")
def outcomes(suite: Path) -> dict[str, Outcome]:
    """What became of each of mergekit's tests with the plugin active."""
    return _run(suite, "mergekit_breadcrumbs")


def test_nothing_fails_that_passes_without_us(
    suite: Path, outcomes: dict[str, Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    """No test of mergekit fails because of the plugin; the counts are printed."""
    failed = _failed(outcomes)
    with capsys.disabled():
        counts = Counter(outcome.result for outcome in outcomes.values())
        why = Counter(o.reason for o in outcomes.values() if o.result == "skipped")
        print(f"\nmergekit's own suite with the plugin: {dict(counts)}; {dict(why)}")
    if failed:
        own = _run(suite, "mergekit.merge_methods", MERGEKIT_BREADCRUMBS="0")
        failed = {name: o for name, o in failed.items() if name not in _failed(own)}
    assert not failed


def test_every_module_ran(suite: Path, outcomes: dict[str, Outcome]) -> None:
    """Each module of the suite passed something, and the tests of our methods did."""
    passed = [name for name, outcome in outcomes.items() if outcome.result == "passed"]
    modules = {path.stem for path in (suite / "tests").glob("test_*.py")}
    assert len(modules) >= 17
    assert {name.split(".")[1].partition("::")[0] for name in passed} == modules
    assert sum("breadcrumbs" in name for name in passed) >= 8


def test_skipped_for_want_of_hardware_only(outcomes: dict[str, Outcome]) -> None:
    """What is skipped needs a GPU that this machine does not have."""
    reasons = {o.reason for o in outcomes.values() if o.result == "skipped"}
    assert reasons <= {"CUDA unavailable", "MPS unavailable"}
