"""A Ray cluster of one worker on this machine."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

ENVIRONMENT = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


@contextmanager
def ray_session() -> Iterator[Any]:
    """Give the module `ray`, started; skip the test where it is not installed."""
    with (
        mock.patch.dict(os.environ, ENVIRONMENT),
        # The paths of Ray's sockets must be shorter than pytest's.
        tempfile.TemporaryDirectory(prefix="ray") as short,
    ):
        ray = pytest.importorskip("ray")
        ray.init(
            num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=short
        )
        try:
            yield ray
        finally:
            ray.shutdown()
