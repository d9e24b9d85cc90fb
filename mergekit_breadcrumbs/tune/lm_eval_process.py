"""What lm-eval does to the process that it runs in, kept within bounds."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mergekit_breadcrumbs.host.loading import quietly

SEED = 1234
_LOGGERS = ("lm_eval", "datasets", "evaluate", "accelerate")
# Without it lm-eval resamples in new processes, of one that uses threads.
_ALONE = "DISABLE_MULTIPROC"


@cache
def task_manager(folder: Path | None) -> Any:
    """Return what knows lm-eval's tasks, and those of a folder.

    Raises:
        ImportError: if lm-eval is not installed.
    """
    try:
        import lm_eval.models.huggingface  # noqa: F401  # needs more than lm-eval
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        module = str(error.name).partition(".")[0]
        name = "lm-eval" if module == "lm_eval" else f"{module}, which lm-eval needs,"
        raise ImportError(
            f"{name} is not installed: pip install 'mergekit-breadcrumbs[lm-eval]'"
        ) from error
    return TaskManager(include_path=folder)


@contextmanager
def lm_eval_quiet() -> Iterator[None]:
    """Keep what lm-eval prints, logs and warns of from anybody's eyes meanwhile."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    alone = os.environ.get(_ALONE)
    with ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(redirect_stdout(nowhere))
        stack.enter_context(redirect_stderr(nowhere))
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(quietly())
        warnings.simplefilter("ignore")
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ[_ALONE] = "1"
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            os.environ.pop(_ALONE)
            if alone is not None:
                os.environ[_ALONE] = alone


@contextmanager
def fixed_seeds() -> Iterator[None]:
    """Start from the same random numbers every time, and put the others back."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
