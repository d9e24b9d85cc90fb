"""A word while a merge is being planned, for those who did not check it before."""

from __future__ import annotations

from typing import Any

from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache
from mergekit.plan import MergePlanner

from mergekit_breadcrumbs.host.caller import calling_planner
from mergekit_breadcrumbs.host.losses import Checkpoint, Losses, find_losses
from mergekit_breadcrumbs.host.notices import LOG, NOTICES
from mergekit_breadcrumbs.host.planner import planned_tensors
from mergekit_breadcrumbs.host.weights import read_weights


def warn_of_losses(label: str) -> None:
    """Log once if the merge that is being planned will lose tensors of its base.

    Args:
        label: mergekit's name of the output slice that it is about to plan.
    """
    planner = calling_planner()
    if not isinstance(planner, MergePlanner):
        return
    if label != f"{next(iter(planner.config.modules))}.slices[0]":
        return
    try:
        losses = losses_of(planner)
    # A merge that would have worked must not fail because of what is said of it.
    except Exception as error:
        LOG.debug("cannot tell which tensors this merge loses", exc_info=error)
        return
    if losses is not None and losses.needed:
        NOTICES.say(
            "losses",
            f"{losses} (mergekit-breadcrumbs explain BC504 says why, and what to do)",
        )


def losses_of(
    planner: MergePlanner, base: ModelReference | None = None
) -> Losses | None:
    """Return what a merge loses of its base, or of another model.

    Args:
        planner: has its config normalised, and its models opened.
        base: the model that the merged one should have all tensors of.
    """
    config, options = planner.config, planner.options
    modules = {name: module.slices for name, module in config.modules.items()}
    if base is None:
        base = config.base_model or next(iter(modules.values()))[0].base_model
    checkpoints = {}
    for model in config.referenced_models():
        index = LoaderCache().get(model).index
        shapes: dict[str, Any] = dict.fromkeys(index.tensor_paths)
        if model == base:
            shapes |= read_weights(index.base_path).shapes
        own = model.config(trust_remote_code=options.trust_remote_code)
        checkpoints[model] = Checkpoint(own, index.tensor_paths, shapes)
    planned = planned_tensors(
        config, modules, planner.arch_info, options, planner.out_model_config
    )
    covered = {
        layer
        for slices in modules.values()
        for part in slices
        for source in part.sources
        if source.model == base
        for layer in range(*source.layer_range)
    }
    return find_losses(
        [tensor for part in planned for tensor in part],
        base,
        checkpoints,
        planner.out_model_config,
        covered,
    )
