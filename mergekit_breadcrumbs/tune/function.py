"""Scores from a function in Python."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mergekit_breadcrumbs.tune.scores import (
    Candidate,
    Score,
    ScoringFailed,
    as_scores,
)
from mergekit_breadcrumbs.tune.time_limit import (
    TimedOut,
    require_time_limits,
    time_limit,
)
from mergekit_breadcrumbs.wording import did_you_mean, shortened, visible


class ScoredModel:
    """What a function is called with: a candidate that is a path wherever one goes.

    The folder is made when it is asked for, also by `str`, as transformers does.
    """

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    def folder(self) -> Path:
        """Return the folder, which is gone when the function has returned."""
        return self._candidate.folder()

    def load(self) -> tuple[Any, Any]:
        """Return the model in memory, and its tokenizer or None; nothing is written."""
        return self._candidate.load()

    def __fspath__(self) -> str:
        return str(self.folder())

    def __str__(self) -> str:
        return str(self.folder())


@dataclass(frozen=True)
class FunctionScorer:
    """A function that is called with a `ScoredModel`, in this process.

    It returns a number, or several by their names; see `as_scores`.

    Args:
        function: to call.
        timeout: seconds for each call; None is no limit. See `time_limit`.
        file: of the function's module, to say in which of its lines it failed.
    """

    function: Callable[[ScoredModel], object]
    timeout: float | None = None
    file: str | None = None

    def __call__(self, candidate: Candidate) -> dict[str, Score]:
        """Score a candidate.

        Raises:
            ScoringFailed: if the function raises, takes too long, or returns no score.
        """
        try:
            with time_limit(self.timeout):
                result = self.function(ScoredModel(candidate))
        except TimedOut:
            failure = f"timed out after {self.timeout:g} s"
        # The function is the user's, and may raise anything, or call sys.exit.
        except (Exception, SystemExit) as error:
            failure = what_it_raised(error, self.file)
        else:
            return as_scores(result)
        # Outside, so that no traceback keeps a model in memory.
        raise ScoringFailed(failure)


def what_it_raised(error: BaseException, file: str | None = None) -> str:
    """Return what was raised, on one line, and where.

    Args:
        error: that was raised.
        file: to name a line of, if the error went through it; else the last one.

    Example:
        >>> try:
        ...     1 / 0
        ... except ZeroDivisionError as error:
        ...     print(what_it_raised(error).partition(", in ")[0])
        ZeroDivisionError: division by zero
    """
    text, name = shortened(str(error)), type(error).__name__
    text = visible(f"{name}: {text}" if text else name)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file] or frames[-1:]
    if not own:
        return text
    return f"{text}, in {visible(Path(own[-1].filename).name)} line {own[-1].lineno}"


def find_function(text: str, timeout: float | None = None) -> FunctionScorer:
    """Import a function, and return it as a scorer.

    The working directory, or the folder of the file, is where it finds other modules.

    Args:
        text: `package.module:function`, or `path/to/file.py:function`.
        timeout: as that of `FunctionScorer`.

    Raises:
        ValueError: if there is no such module, file or function, if it cannot be
            imported, or if no time limit can be kept here.
    """
    place, _, name = text.rpartition(":")
    if timeout is not None:
        require_time_limits()
    module = _from_file(Path(place)) if place.endswith(".py") else _by_name(place)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [other for other in dir(found) if not other.startswith("_")]
            raise ValueError(
                f"{place} has no function {name}{did_you_mean(part, public)}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} of {place} is no function")
    return FunctionScorer(found, timeout, module.__file__)


def _by_name(name: str) -> ModuleType:
    _search_in(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only if it is this one, and not one that it imports.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _cannot_import(name, error) from error
        missing = error.name
    except (Exception, SystemExit) as error:
        raise _cannot_import(name, error) from error
    package, _, last = missing.rpartition(".")
    folders = getattr(sys.modules.get(package), "__path__", []) if package else None
    near = did_you_mean(last, [found.name for found in pkgutil.iter_modules(folders)])
    where = f"in {package}" if package else f"in {Path.cwd()}, nor installed"
    raise ValueError(f"there is no module {last} {where}{near}")


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = [other.name for other in path.parent.glob("*.py")]
        raise ValueError(f"there is no file {path}{did_you_mean(path.name, near)}")
    path = path.resolve()
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        if getattr(known, "__file__", None) == str(path):
            return known
        name = f"{name} ({path})"  # another module has that name already
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    _search_in(path.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (Exception, SystemExit)):
            raise _cannot_import(str(path), error) from error
        raise
    return module


def _search_in(folder: Path) -> None:
    # As Python does for a script; the function may import more when it is called.
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _cannot_import(name: str, error: BaseException) -> ValueError:
    file = name if os.path.isabs(name) else None
    return ValueError(f"{name} cannot be imported: {what_it_raised(error, file)}")
