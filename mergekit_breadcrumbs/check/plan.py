"""Planning with mergekit's own planner: which tensors, and what it would stop with."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mergekit.architecture import ModelArchitecture
from mergekit.architecture.json_definitions import NAME_TO_ARCH
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration, OutputSliceDefinition
from mergekit.io.lazy_tensor_loader import LazyTensorLoader
from mergekit.io.tasks import LoaderCache
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.layout import OutputSlice
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.host.attempt import attempt, first_line, is_sentence
from mergekit_breadcrumbs.host.planner import planned_merges, planned_tensors
from mergekit_breadcrumbs.wording import shortened


def add_tensors(
    outputs: list[OutputSlice],
    config: MergeConfiguration,
    architecture: ModelArchitecture,
    models: Mapping[ModelReference, ModelFiles],
    options: MergeOptions,
) -> Exception | None:
    """Add to each output slice the tensors that mergekit plans for it.

    The ranges of layers have to be valid. Returns what mergekit raises if it cannot.
    """
    modules: dict[str, list[OutputSliceDefinition]] = {}
    for part in outputs:
        sources = [{"model": s.model, "layer_range": s.layers} for s in part.sources]
        definition = OutputSliceDefinition(sources=sources, base_model=part.base)
        modules.setdefault(part.module, []).append(definition)
    named = [m for s in outputs for m in (s.base, s.sources[0].model) if m in models]
    output_config = next(models[m].config for m in named if models[m].config)
    planned, error = attempt(
        planned_tensors, config, modules, architecture, options, output_config
    )
    for part, tensors in zip(outputs, planned or [], strict=error is None):
        part.tensors = tensors
    return error


def check_plan(
    config: MergeConfiguration,
    architecture: ModelArchitecture,
    models: Mapping[ModelReference, ModelFiles],
    options: MergeOptions,
    problems: Problems,
) -> int:
    """Plan the whole merge; return how many tensors it has, 0 if planning fails."""
    first = config.base_model or config.referenced_models()[0]
    with _loaders(models, options):
        # The planner rewrites the config that it is given.
        copy = config.model_copy(deep=True)
        planner, error = attempt(
            MergePlanner, copy, architecture, options, models[first].config
        )
        if planner is not None:
            tasks, error = attempt(planned_merges, planner)
    if error is None:
        return len(tasks or ())
    text = "mergekit cannot plan this merge: "
    text += why_not_planned(error, models[first].architecture_name)
    problems.add(Code.CANNOT_PLAN, (), text)
    return 0


def why_not_planned(error: Exception, architecture_name: str) -> str:
    """Return in plain words why mergekit cannot plan a merge.

    An exception that is not raised for people to read is a bug of mergekit's, or of
    what it knows of the architecture, and no change of the config mends it.
    """
    text = first_line(error)
    if is_sentence(error):
        return text
    stem = architecture_name.removesuffix("Model").partition("For")[0]
    others = [n for n in NAME_TO_ARCH if n.startswith(f"{stem}For")]
    others = [name for name in others if name != architecture_name]
    hint = (
        f"save the models as {' or '.join(sorted(others)[:2])}, or " if others else ""
    )
    return (
        f"its planner fails on {architecture_name} ({text}), which is a fault of"
        f" mergekit and not of this config: {hint}merge the weight files with"
        " mergekit-pytorch"
    )


@contextmanager
def _loaders(
    models: Mapping[ModelReference, ModelFiles], options: MergeOptions
) -> Iterator[None]:
    """Let the planner look up tensor names without downloads or merging of adapters.

    An adapter changes no tensor's name, so its model's index serves for both. The
    loaders are taken away again: with an adapter they would load the wrong tensors.
    """
    cache = LoaderCache()
    before = dict(cache.loaders)
    for model, found in models.items():
        index = found.weights.index
        if index is not None:
            cache.loaders[model] = LazyTensorLoader(index, options.lazy_unpickle)
    try:
        yield
    finally:
        cache.loaders.clear()
        cache.loaders.update(before)


@contextmanager
def mergekit_warnings(problems: Problems) -> Iterator[None]:
    """Turn what mergekit logs as a warning into one of the file."""

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text, _ = attempt(record.getMessage)
            if text is None:
                text = str(record.msg)
            problems.add(Code.MERGEKIT_WARNS, (), shortened(text))

    logger, handler = logging.getLogger("mergekit"), Collector(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
