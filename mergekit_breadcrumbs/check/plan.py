"""Planning a merge with mergekit's own planner, for the errors that it would raise."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mergekit.architecture import ModelArchitecture
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from mergekit.io.tasks import LoaderCache, SaveTensor
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_breadcrumbs.check.models import Found
from mergekit_breadcrumbs.check.problems import Place, Problems


def check_plan(
    config: MergeConfiguration,
    architecture: ModelArchitecture,
    models: Mapping[ModelReference, Found],
    options: MergeOptions,
    problems: Problems,
) -> int:
    """Plan the whole merge; return how many tensors it has, 0 if planning fails."""
    first = config.base_model or config.referenced_models()[0]
    try:
        with _loaders(models, options):
            # The planner rewrites the config that it is given.
            planner = MergePlanner(
                config.model_copy(deep=True),
                architecture,
                options,
                models[first].config,
            )
            # Only tasks are made: nothing is written until one of them is executed.
            tasks = planner.plan_to_disk("")
            return sum(isinstance(task, SaveTensor) for task in tasks)
    # Whatever a merge would stop with, it is the config that has to be changed.
    except Exception as error:
        problems.error((), f"mergekit cannot plan this merge: {error}")
        return 0


@contextmanager
def _loaders(
    models: Mapping[ModelReference, Found], options: MergeOptions
) -> Iterator[None]:
    """Let the planner look up tensor names without downloads or merging of adapters.

    An adapter changes no tensor's name, so its model's index serves for both. The
    loaders are taken away again: with an adapter they would load the wrong tensors.
    """
    cache = LoaderCache()
    before = dict(cache.loaders)
    for model, found in models.items():
        if found.index is not None:
            cache.loaders[model] = LazyTensorLoader(found.index, options.lazy_unpickle)
    try:
        yield
    finally:
        cache.loaders.clear()
        cache.loaders.update(before)


@contextmanager
def logged(problems: Problems) -> Iterator[None]:
    """Turn what mergekit and this package log as a warning into one of the file."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            place: Place = ()
            if text.startswith("density is not set"):
                # A density that is wrong is left out of what is resolved.
                if any("density" in problem.place for problem in problems):
                    return
                place = ("parameters", "density")
            problems.warning(place, text)

    handler = Collector(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("mergekit", "mergekit_breadcrumbs")]
    spread = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, before in zip(loggers, spread, strict=True):
            logger.removeHandler(handler)
            logger.propagate = before
