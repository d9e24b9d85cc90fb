"""Settings that every test module shares."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from support.environments import PYTHONS, RUNNING

# No test may reach for a model hub, nor any process that a test starts.
os.environ["HF_HUB_OFFLINE"] = "1"

# Tests that run side by side have a core each; more threads would wait for one another.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Cases are timed in benchmarks, not here, and CI has nowhere to keep a database.
settings.register_profile("mergekit-breadcrumbs", deadline=None, database=None)
settings.load_profile("mergekit-breadcrumbs")


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    """mergekit keeps what it has read, by path, for the life of a process."""
    tasks = sys.modules.get("mergekit.io.tasks")
    if tasks is not None:
        tasks.LoaderCache.loaders.clear()
    auto = sys.modules.get("mergekit.architecture.auto")
    if auto is not None:
        auto.infer_architecture_info.cache_clear()


@pytest.fixture(
    scope="session",
    params=[
        RUNNING,
        *(
            pytest.param(version, marks=pytest.mark.slow)
            for version in PYTHONS
            if version != RUNNING
        ),
    ],
)
def python(request: pytest.FixtureRequest) -> Path:
    """Each Python that the machine has, in turn: the running one, then others."""
    return PYTHONS[request.param]
