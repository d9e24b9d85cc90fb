"""Say a thing once per merge, not once per tensor.

mergekit calls a method once for every tensor and has no object that stands for the
whole merge. What it does do is check a method's inputs once before it plans any tensor;
the method reports that here as the beginning of a merge.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

LOG = logging.getLogger("mergekit_breadcrumbs")


class Notices:
    """What has been said, and what has been seen, in the merge under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._masks = False
        self._silent = False

    def begin(self) -> None:
        """Forget the previous merge."""
        with self._lock:
            self._said.clear()
            self._masks = False

    def say(self, key: str, text: str) -> None:
        """Log `text` as a warning, unless `key` was said before in this merge."""
        with self._lock:
            if self._silent or key in self._said:
                return
            self._said.add(key)
        LOG.warning(text)

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Say nothing for a while, and forget what was seen in it."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False
            self.begin()

    def saw_density(self, density: float) -> None:
        """Take note of a density that some tensor of this merge is to have."""
        if density < 1:
            self._masks = True

    def all_kept(self) -> bool:
        """Whether every density of this merge seen so far is 1."""
        return not self._masks


NOTICES = Notices()


def warn_of_fractions(
    names: Sequence[str],
    tensor: str | None,
    densities: list[float],
    gammas: list[float],
) -> None:
    """Warn of densities and gammas of one tensor that do not do what they say."""
    for name, density, gamma in zip(names, densities, gammas, strict=True):
        NOTICES.saw_density(density)
        # Density 1 says plainly that everything is wanted; gamma is then its default.
        if density < 1 and density + gamma > 1:
            place = f"{name}, tensor {tensor}" if tensor else name
            NOTICES.say(
                "infeasible",
                f"density + gamma is {density + gamma:g}, more than 1, for {place}"
                " (said once): density wins, and fewer of the largest elements are"
                " dropped",
            )
    if densities and NOTICES.all_kept():
        NOTICES.say(
            "nothing masked",
            "every density is 1, so nothing is masked: this merge is plain task"
            " arithmetic",
        )
