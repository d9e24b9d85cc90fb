"""Reading the option --score."""

from __future__ import annotations

import re
from typing import Any

from mergekit_breadcrumbs.tune.command import PLACE, CommandScorer
from mergekit_breadcrumbs.tune.function import find_function
from mergekit_breadcrumbs.tune.lm_eval_tasks import LmEvalScorer
from mergekit_breadcrumbs.tune.scores import Repeated, Scorer
from mergekit_breadcrumbs.wording import one_line, visible

LM_EVAL = "lm-eval:"
_FUNCTION = re.compile(r"(?:[A-Za-z_]\w*(?:\.\w+)*|.*\.py):[A-Za-z_][\w.]*")


def read_scorer(
    text: str, *, timeout: float | None = None, repeats: int = 1, **lm_eval: Any
) -> Scorer:
    """Return the scorer that a text names.

    Args:
        text: `lm-eval:` and tasks; `package.module:function` or
            `path/to/file.py:function`; anything else is a shell command with `{model}`
            in the place of the folder.
        timeout: seconds for each run; None is no limit.
        repeats: how often a command or a function runs for a candidate.
        lm_eval: keyword arguments of `LmEvalScorer`, which others do not take.

    Raises:
        ValueError: with a sentence, if there is no such function or task, it cannot be
            imported or read, a command has no `{model}`, or a number is out of range.
        ImportError: if lm-eval is not installed.

    Example:
        >>> read_scorer("python score.py {model}", timeout=60)
        CommandScorer(command='python score.py {model}', timeout=60)
        >>> read_scorer("python score.py")
        Traceback (most recent call last):
        ...
        ValueError: the command 'python score.py' must have {model} in it, where the\
 folder goes
    """
    text = text.strip()
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ValueError(f"timeout must be more than 0 seconds; got {timeout:g}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1; got {repeats}")
    if text.startswith(LM_EVAL):
        if repeats > 1:
            raise ValueError(
                "lm-eval is not repeated: it gives the same score every time, and the"
                " standard error with it"
            )
        tasks = text.removeprefix(LM_EVAL)
        return LmEvalScorer(tasks, timeout=timeout, **lm_eval)
    scorer = _command_or_function(text, timeout)
    return Repeated(scorer, repeats) if repeats > 1 else scorer


def _command_or_function(text: str, timeout: float | None) -> Scorer:
    if PLACE in text:
        return CommandScorer(text, timeout)
    if _FUNCTION.fullmatch(text):
        if re.match(r"lm[-_]?eval", text):
            raise ValueError(f"{visible(text)}: tasks of lm-eval begin with {LM_EVAL}")
        return find_function(text, timeout)
    raise ValueError(
        f"the command {visible(one_line(text))} must have {PLACE} in it, where the"
        " folder goes"
    )
