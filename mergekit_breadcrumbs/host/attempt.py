"""Calling what is not this package's, where it may raise anything."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import TypeVar

from pydantic import ValidationError

from mergekit_breadcrumbs.wording import shortened

T = TypeVar("T")

# mergekit quotes a whole transformers config before it says what is wrong with it.
_LACKING = re.compile(r"Config \S+ \{.*\}\s+has no attribute ([\w.]+)\Z", re.DOTALL)
# Types that Python raises itself, with a text that says little without their names.
_TERSE = (
    *(TypeError, LookupError, AttributeError, AssertionError, ArithmeticError),
    *(NameError, RecursionError, NotImplementedError, MemoryError),
)


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
    """Return what an exception says, on one line of at most 200 characters.

    Of what quotes a whole object, that is its first line and its last.

    Example:
        >>> first_line(KeyError("weight_map"))
        "KeyError: 'weight_map'"
        >>> first_line(RuntimeError("Config XConfig {\\n}\\n has no attribute layers"))
        'config.json has no layers'
    """
    text = str(error).strip()
    if lacking := _LACKING.match(text):
        return f"config.json has no {lacking[1]}"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        text = f"{error.title}.{place}: {first['msg']}" if place else first["msg"]
    lines = text.splitlines() or [""]
    text = lines[0]
    if len(lines) > 1 and text.rstrip().endswith(("{", "[", "(", ":")):
        text = f"{shortened(text, 98)} ... {shortened(lines[-1], 97)}"
    if not text or isinstance(error, _TERSE):
        name = type(error).__name__
        text = f"{name}: {text}" if text else name
    return shortened(text)


def is_sentence(error: Exception) -> bool:
    """Whether an exception is of a type that is raised for people to read."""
    terse = isinstance(error, (*_TERSE, ValidationError))
    return bool(str(error).strip()) and not terse


def _raised_in_this_package(error: Exception) -> bool:
    """Whether of mergekit's frames and ours the innermost is one of ours."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)][1:]
    packages = [
        str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames
    ]
    known = [name for name in packages if name in ("mergekit", "mergekit_breadcrumbs")]
    return known[-1:] == ["mergekit_breadcrumbs"]
