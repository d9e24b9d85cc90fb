"""Whether a config can be merged at all, and in every corner of what is searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import click
import yaml
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.header import other_methods
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.run import Checked, check_text
from mergekit_breadcrumbs.check.sections import sections
from mergekit_breadcrumbs.check.text import show
from mergekit_breadcrumbs.files.reader import read_manifest
from mergekit_breadcrumbs.host.method import METHODS
from mergekit_breadcrumbs.host.references import base_of, breadcrumb_folder
from mergekit_breadcrumbs.tune.search import Values
from mergekit_breadcrumbs.tune.space import Space, corners
from mergekit_breadcrumbs.tune.table import values_text
from mergekit_breadcrumbs.tune.values import with_values
from mergekit_breadcrumbs.wording import visible


class ImpossibleConfig(ValueError):  # noqa: N818  # what it is
    """A config that cannot be merged; why has been shown."""


def check(text: str, options: MergeOptions) -> Checked:
    """Check the text of a config, for any of mergekit's methods.

    Of one that is not ours, what its parameters do is not known.
    """
    checked = check_text(text, options)
    problems = Problems()
    for found in checked.problems:
        method = checked.config.merge_method if checked.config else None
        if found.code is not Code.OTHER_METHOD or method not in other_methods():
            problems.add(found.code, found.place, found.text, found.mark)
    return replace(checked, problems=problems)


def check_corners(
    data: Mapping[str, Any],
    space: Space,
    options: MergeOptions,
    file: Path,
    stream: TextIO,
) -> None:
    """Check the corners of a space, before anything is merged.

    Args:
        data: the config, as YAML has it.
        space: to search.
        options: mergekit's own.
        file: the config's.
        stream: where problems are shown.

    Raises:
        ImpossibleConfig: if one cannot be merged.
    """
    for values in corners(space):
        checked = check_values(data, space, values, options)
        if checked.failed:
            where = f"{file} with {values_text(values)}"
            click.echo(f"{visible(where)}:", file=stream)
            # A line of the file is not to blame.
            nowhere = Problems()
            for found in checked.problems:
                if found.severity == "error":
                    nowhere.add(found.code, found.place, found.text)
            show(replace(checked, problems=nowhere), file, stream, closing=False)
            raise ImpossibleConfig(
                "the space to search has corners that cannot be merged"
            )


def check_values(
    data: Mapping[str, Any], space: Space, values: Values, options: MergeOptions
) -> Checked:
    """Check a config with values of a space."""
    tried = with_values(data, space.settings(values))
    return check(yaml.safe_dump(tried, sort_keys=False), options)


def held_by_files(
    data: Mapping[str, Any], config: MergeConfiguration, cache: str | None
) -> dict[str, float]:
    """Return what fraction breadcrumb files hold, by the names of their models.

    Those alone of which our methods take no more: merged into their own base.

    Args:
        data: the config, as YAML has it.
        config: the same, as mergekit reads it.
        cache: where models from the hub are kept.

    Raises:
        ValueError: if a file cannot be read.
    """
    if config.merge_method not in {method.spec.name for method in METHODS}:
        return {}
    bases = {s.base_model for s in sections(config)}
    held = {}
    for model in config.referenced_models():
        folder = breadcrumb_folder(model, cache)
        if folder is not None and base_of(model) in bases:
            manifest = read_manifest(folder)
            if not manifest.is_lossless:
                held[str(model)] = manifest.fraction
    return held
