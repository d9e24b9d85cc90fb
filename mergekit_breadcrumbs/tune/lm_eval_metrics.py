"""Which of the many numbers that lm-eval gives for a task is its score."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergekit_breadcrumbs.tune.scores import Score, ScoringFailed, as_scores
from mergekit_breadcrumbs.wording import did_you_mean, visible

METRICS = ("acc_norm", "exact_match", "acc")
"""The metrics that are a task's main one, the first of them that it has."""
FILTERS = ("flexible-extract", "strict-match", "none")
"""The filters of answers that count, the first of them that the task has."""


@dataclass(frozen=True)
class Wanted:
    """A task or group that is asked for, and the metric and filter, if they are."""

    task: str
    metric: str | None = None
    filter: str | None = None

    def __str__(self) -> str:
        text = self.task if self.metric is None else f"{self.task}/{self.metric}"
        return text if self.filter is None else f"{text},{self.filter}"


@dataclass(frozen=True)
class Measure:
    """A number among lm-eval's results for a task or group.

    `higher` is whether more of it is better; if not, the score is its negative.
    """

    task: str
    metric: str
    filter: str
    higher: bool = True

    def __str__(self) -> str:
        text = self.metric if self.filter == "none" else f"{self.metric},{self.filter}"
        return text if self.higher else f"minus {text}, of which less is better"

    def read(self, results: Mapping[str, Mapping[str, Any]]) -> Score:
        """Return it from lm-eval's results, by tasks.

        Raises:
            ScoringFailed: if it is not there, or is no finite number.
        """
        own = results.get(self.task, {})
        value = own.get(f"{self.metric},{self.filter}")
        if value is None:
            given = ", ".join(
                key for key in own if "," in key and "_stderr," not in key
            )
            raise ScoringFailed(
                f"task {self.task} gave no {self.metric},{self.filter};"
                f" it gave {visible(given) or 'nothing'}"
            )
        error = own.get(f"{self.metric}_stderr,{self.filter}")
        # What cannot be known is "N/A" there.
        if isinstance(error, str) or (error is not None and math.isnan(error)):
            error = None
        (score,) = as_scores({self.task: (value, error)}).values()
        return score if self.higher else Score(-score.value, score.error)


def read_wanted(text: str, known: Container[str]) -> list[Wanted]:
    """Return the tasks of a list as people write it.

    Args:
        text: tasks and groups with commas between them, each by itself or as
            `task/metric` or `task/metric,filter`.
        known: names of tasks and groups; what follows a metric and is none of them is
            a filter.

    Raises:
        ValueError: if there is no task.

    Example:
        >>> wanted = read_wanted("gsm8k/exact_match,strict-match,mbpp", {"mbpp"})
        >>> [str(one) for one in wanted]
        ['gsm8k/exact_match,strict-match', 'mbpp']
    """
    wanted: list[Wanted] = []
    for part in filter(None, map(str.strip, text.split(","))):
        last = wanted[-1] if wanted else None
        task, _, metric = part.partition("/")
        is_filter = last and last.metric and not last.filter and not metric
        if last and is_filter and part not in known:
            wanted[-1] = Wanted(last.task, last.metric, part)
        else:
            wanted.append(Wanted(task.strip(), metric.strip() or None))
    if not wanted:
        raise ValueError("lm-eval: needs the names of tasks, such as lm-eval:gsm8k")
    return list(dict.fromkeys(wanted))


def choose(
    wanted: Wanted, task: str, metrics: Mapping[str, bool], filters: Sequence[str]
) -> Measure:
    """Return what is wanted of a task, or its main metric.

    That is the first of `METRICS` that it has, otherwise the first that its own list
    has; and so are `FILTERS`.

    Args:
        wanted: what is asked for.
        task: the task, or one of them if a tag is asked for.
        metrics: all that it has, and whether more of them is better.
        filters: all that it has.

    Raises:
        ValueError: if it has no such metric or filter.

    Example:
        >>> both = {"acc": True, "acc_norm": True}
        >>> print(choose(Wanted("arc_easy"), "arc_easy", both, ["none"]))
        acc_norm
        >>> print(choose(Wanted("wiki"), "wiki", {"perplexity": False}, ["none"]))
        minus perplexity, of which less is better
    """
    metric = _one(wanted.metric, "metric", task, list(metrics), METRICS)
    own_filter = _one(wanted.filter, "filter", task, filters, FILTERS)
    return Measure(task, metric, own_filter, metrics[metric])


def measures_of(wanted: Wanted, loaded: Mapping[str, Any]) -> dict[str, Measure]:
    """Return the numbers that are wanted of a task, group or tag, by their names.

    Args:
        wanted: what is asked for.
        loaded: what lm-eval's task manager loads for its name.

    Raises:
        ValueError: as `choose`, or if the tasks of a group do not agree what is better.
    """
    group, tasks = loaded["groups"].get(wanted.task), loaded["tasks"]
    if group is not None and group.has_aggregation:
        return {str(wanted): _of_group(wanted, group)}
    chosen = {
        Wanted(name, wanted.metric, wanted.filter): choose(
            wanted, name, task.higher_is_better(), _filters(task)
        )
        for name, task in tasks.items()
    }
    if group is None and len(chosen) == 1:
        return {str(wanted): measure for measure in chosen.values()}
    return {str(one): measure for one, measure in chosen.items()}


def _of_group(wanted: Wanted, group: Any) -> Measure:
    tasks = group.get_all_tasks()
    higher: dict[str, bool] = {}
    filters: dict[str, None] = {}
    for aggregate in group.aggregate_metric_list:
        directions = {
            task.higher_is_better()[aggregate.metric]
            for task in tasks
            if aggregate.metric in task.higher_is_better()
        }
        if len(directions) == 1:
            higher[aggregate.metric] = directions.pop()
        own = aggregate.filter_list or [one for task in tasks for one in _filters(task)]
        filters |= dict.fromkeys(own)
    if not higher:
        raise ValueError(
            f"lm-eval: the tasks of {group.name} do not agree whether more is better"
        )
    return choose(wanted, group.name, higher, list(filters))


def _filters(task: Any) -> list[str]:
    own = task.get_config("filter_list")
    return [one["name"] for one in own] if own else ["none"]


def _one(
    name: str | None, kind: str, task: str, known: Sequence[str], first: Sequence[str]
) -> str:
    if name is None:
        return next((one for one in first if one in known), known[0])
    if name not in known:
        raise ValueError(
            f"task {task} has no {kind} {visible(name)}; it has"
            f" {', '.join(known)}{did_you_mean(name, known)}"
        )
    return name
