"""The same merge by another method, to be tuned with the same budget."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mergekit_breadcrumbs.check.sections import sections
from mergekit_breadcrumbs.tune.methods import Method
from mergekit_breadcrumbs.tune.search import Search
from mergekit_breadcrumbs.tune.space import Space, space_of


def as_rival(data: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """Return a config for another method, without the parameters that it does not have.

    Args:
        data: the config, as YAML has it.
        method: the other one.
    """
    rival = copy.deepcopy(dict(data))
    rival["merge_method"] = method.name
    for section in sections(rival):
        settings = section.get("parameters")
        if isinstance(settings, dict):
            for name in settings.keys() - method.names:
                del settings[name]
            if not settings:
                del section.content["parameters"]
    return rival


def space_of_rival(
    data: Mapping[str, Any], method: Method, wanted: Sequence[Search]
) -> Space:
    """Return the space of a rival: what is searched for ours, as far as it has that.

    Args:
        data: the rival's config.
        method: its own.
        wanted: what the user asks for.

    Raises:
        ValueError: if there is nothing to search.
    """
    return space_of(data, method, [s for s in wanted if s.name in method.numbers])
