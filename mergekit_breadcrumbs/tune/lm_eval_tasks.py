"""Scores from tasks of lm-eval, in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from mergekit_breadcrumbs.tune.function import what_it_raised
from mergekit_breadcrumbs.tune.lm_eval_metrics import (
    Measure,
    measures_of,
    read_wanted,
)
from mergekit_breadcrumbs.tune.lm_eval_process import (
    SEED,
    fixed_seeds,
    lm_eval_quiet,
    task_manager,
)
from mergekit_breadcrumbs.tune.scores import Candidate, Score, ScoringFailed
from mergekit_breadcrumbs.tune.time_limit import (
    TimedOut,
    require_time_limits,
    time_limit,
)
from mergekit_breadcrumbs.wording import did_you_mean, visible

# For the standard errors that have no formula; those that have one need any at all.
_RESAMPLES = 1000
# What the metric of tasks that run a model's code asks for.
_RUNS_CODE = "HF_ALLOW_CODE_EVAL"


class LmEvalScorer:
    """Tasks of lm-eval, each of which gives its main metric.

    The same model gets the same scores: the seeds are fixed. Tasks are read here, once,
    so that one that is not known, or whose data is not there, is an error at once. For
    a group that lm-eval gives a number for it is that number, for another and for a tag
    those of its tasks. `measures` says which number each of the names is.

    While lm-eval runs, `sys.stdout` and `sys.stderr` lead nowhere.

    Args:
        tasks: with commas between them; see `read_wanted`.
        tasks_folder: with files of the user's own tasks.
        limit: questions for each task, the first ones; a fraction if it is below 1.
        num_fewshot: examples before each question; None is the task's own number.
        batch_size: as lm-eval takes it.
        chat_template: whether the tokenizer's is used; None is where it has one.
        device: where the model runs; None is the GPU, if there is one.
        run_code: whether tasks may run the code that a model writes.
        timeout: seconds for each candidate; None is no limit. See `time_limit`.

    Raises:
        ValueError: if a task, metric or filter is not known, a task cannot be read or
            runs code, or if no time limit can be kept here.
        ImportError: if lm-eval is not installed.
    """

    def __init__(
        self,
        tasks: str,
        *,
        tasks_folder: Path | None = None,
        limit: float | None = None,
        num_fewshot: int | None = None,
        batch_size: int | str = 1,
        chat_template: bool | None = None,
        device: str | None = None,
        run_code: bool = False,
        timeout: float | None = None,
    ) -> None:
        if timeout is not None:
            require_time_limits()
        if tasks_folder is not None and not tasks_folder.is_dir():
            raise ValueError(f"there is no folder {tasks_folder}")
        self._limit, self._num_fewshot = limit, num_fewshot
        self._batch_size, self._chat_template = batch_size, chat_template
        self._device, self._run_code, self._timeout = device, run_code, timeout
        self._tasks: dict[str, Any] = {}
        self._groups: dict[str, Any] = {}
        self._measures: dict[str, Measure] = {}
        if run_code:
            os.environ.setdefault(_RUNS_CODE, "1")
        with lm_eval_quiet(), fixed_seeds():
            manager = task_manager(tasks_folder)
            wanted = read_wanted(tasks, manager.task_index)
            names = dict.fromkeys(one.task for one in wanted)
            loaded = {name: self._load(manager, name) for name in names}
        for one in wanted:
            self._measures |= measures_of(one, loaded[one.task])

    @property
    def measures(self) -> dict[str, str]:
        """Which number of lm-eval's each name of a score stands for, in words."""
        return {name: str(measure) for name, measure in self._measures.items()}

    def __call__(self, candidate: Candidate) -> dict[str, Score]:
        """Score a candidate.

        Raises:
            ScoringFailed: if it has no tokenizer, lm-eval fails, or takes too long.
        """
        model, tokenizer = candidate.load()
        if tokenizer is None:
            raise ScoringFailed("the model has no tokenizer, and lm-eval needs one")
        try:
            with lm_eval_quiet(), fixed_seeds(), time_limit(self._timeout):
                results = self._evaluate(model, tokenizer)
        except TimedOut:
            failure = f"timed out after {self._timeout:g} s"
        # lm-eval, its tasks and transformers raise anything.
        except (Exception, SystemExit) as error:
            failure = what_it_raised(error)
        else:
            return {name: one.read(results) for name, one in self._measures.items()}
        # Outside, so that no traceback keeps a model in memory.
        raise ScoringFailed(failure)

    def _evaluate(self, model: Any, tokenizer: Any) -> Any:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        chat = self._chat_template
        if chat is None:
            chat = bool(getattr(tokenizer, "chat_template", None))
        for task in self._tasks.values():
            task.set_fewshot_seed(seed=SEED)
        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        evaluated = evaluate(
            lm=HFLM(
                pretrained=model.to(device),
                tokenizer=tokenizer,
                batch_size=self._batch_size,
            ),
            task_dict={"tasks": self._tasks, "groups": self._groups},
            limit=self._limit,
            bootstrap_iters=_RESAMPLES,
            log_samples=False,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
            confirm_run_unsafe_code=self._run_code,
        )
        return evaluated["results"]

    def _load(self, manager: Any, name: str) -> Any:
        """Return a task, or the tasks of a group or a tag, with their data."""
        if name not in manager.task_index:
            near = did_you_mean(name, manager.all_tasks)
            raise ValueError(f"lm-eval has no task {visible(name)}{near}")
        try:
            loaded = manager.load(name)
        except (Exception, SystemExit) as error:
            if _RUNS_CODE in str(error):
                raise _runs_code(name) from error
            what = what_it_raised(error)
            raise ValueError(f"lm-eval cannot read task {name}: {what}") from error
        for own, task in loaded["tasks"].items():
            if getattr(task, "UNSAFE_CODE", False) and not self._run_code:
                raise _runs_code(own)
            if own in self._tasks:
                raise ValueError(f"lm-eval: task {own} is asked for twice")
            # As lm-eval's own command: a task that says 0 means it.
            shots = task.get_config("num_fewshot")
            if shots is None or (shots != 0 and self._num_fewshot is not None):
                task.set_config(key="num_fewshot", value=self._num_fewshot or 0)
        self._tasks |= loaded["tasks"]
        self._groups |= loaded["groups"]
        return loaded


def _runs_code(task: str) -> ValueError:
    return ValueError(
        f"task {task} runs code that the model writes, which may do anything here;"
        " allow that, or leave the task out"
    )
