"""Calling what is not this package's, where it may raise anything."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import TypeVar

T = TypeVar("T")


def attempt(
    call: Callable[..., T], *args: object, **kwargs: object
) -> tuple[T | None, Exception | None]:
    """Call mergekit or another package; return its result, or what it raised.

    mergekit calls back into this package's methods and parameters. What is raised there
    is a bug of ours, not a fault of the config, and passes through as what it is.

    Example:
        >>> attempt(int, "7")
        (7, None)
        >>> attempt(int, "seven")
        (None, ValueError("invalid literal for int() with base 10: 'seven'"))
    """
    try:
        return call(*args, **kwargs), None
    except Exception as error:
        if _raised_in_this_package(error):
            raise
        return None, error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings and logged messages from anybody's eyes meanwhile.

    What matters of them is reported as a problem.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def first_line(error: Exception) -> str:
    """Return the first line of what an exception says, or else its type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _raised_in_this_package(error: Exception) -> bool:
    """Whether of mergekit's frames and ours the innermost is one of ours."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)][1:]
    packages = [
        str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames
    ]
    known = [name for name in packages if name in ("mergekit", "mergekit_breadcrumbs")]
    return known[-1:] == ["mergekit_breadcrumbs"]
