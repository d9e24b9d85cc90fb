"""Whether the merged model's config.json can be written."""

from __future__ import annotations

from tempfile import TemporaryDirectory

from mergekit.architecture import ModelArchitecture
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.host.attempt import attempt, quiet
from mergekit_breadcrumbs.host.planner import output_config


def check_merged_config(
    config: MergeConfiguration,
    architecture: ModelArchitecture,
    options: MergeOptions,
    problems: Problems,
) -> None:
    """Write the config to a throw-away folder; mergekit does so after the weights.

    transformers refuses one whose values contradict each other, such as another number
    of layers than its list of layer types has.
    """
    with quiet(), TemporaryDirectory() as folder:
        merged, _ = attempt(output_config, config, architecture, options)
        if merged is None:
            return
        _, error = attempt(merged.save_pretrained, folder)
    if error is not None:
        # Of several lines the last one is the reason.
        reason = str(error).strip().split("\n")[-1].strip()
        place = ("slices",) if config.slices else ()
        problems.add(
            Code.UNWRITABLE_CONFIG,
            place,
            "the merged model's config.json cannot be written, which mergekit finds"
            f" when all weights are written: {reason or type(error).__name__}",
        )
