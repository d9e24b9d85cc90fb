"""Which versions of Python the tests of the hook run on."""

import pytest
from support.environments import PYTHONS, RUNNING, VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_version(version: str) -> None:
    """Every version that the package is for is tried, or it is said which is not."""
    if version not in PYTHONS:
        pytest.skip(f"no Python {version} on this machine")
    assert PYTHONS[version].exists()


def test_the_running_one_is_among_them() -> None:
    """Whatever else there is, the Python that runs the tests is one."""
    assert RUNNING in PYTHONS
