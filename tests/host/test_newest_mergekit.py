"""Whether there is a newer mergekit than the one whose private parts were read."""

import re
import sys
import warnings

import pytest
from packaging.version import Version
from support.repository import run

READ = Version("0.1.5")


def _warn_of_newer(said: str) -> None:
    """Warn if what `pip index versions mergekit` said names a newer version."""
    [newest] = re.findall(r"^mergekit \((.+)\)$", said, re.MULTILINE)
    if Version(newest) > READ:
        warnings.warn(
            f"mergekit {newest} is out, and host/ was written for {READ}: install it,"
            " run the tests, and raise READ here",
            stacklevel=2,
        )


@pytest.mark.network
# Something to know, not to stop at: it is shown in the summary.
@pytest.mark.filterwarnings("default:mergekit .* is out:UserWarning")
def test_newest_mergekit() -> None:
    """The package index names a newest version."""
    asked = run(sys.executable, "-m", "pip", "index", "versions", "mergekit")
    if asked.returncode:
        reason = asked.stderr.splitlines()[-1]
        pytest.skip(f"the package index did not answer: {reason}")
    _warn_of_newer(asked.stdout)


def test_newer_one_is_a_warning() -> None:
    """A newer version warns; the same or an older one does not."""
    with pytest.warns(UserWarning, match=r"mergekit 0\.1\.10 is out"):
        _warn_of_newer("mergekit (0.1.10)\nAvailable versions: 0.1.10, 0.1.5\n")
    for same_or_older in ("0.1.5", "0.1.4"):
        _warn_of_newer(f"mergekit ({same_or_older})\n  INSTALLED: 0.1.5\n")
