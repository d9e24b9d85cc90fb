"""Where in a config its models stand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mergekit.common import ModelReference

from mergekit_breadcrumbs.check.parameters import mappings_in
from mergekit_breadcrumbs.check.problems import Place, Problems, place_name
from mergekit_breadcrumbs.check.schema import check_reference


def model_places(
    data: dict[Any, Any], problems: Problems
) -> dict[ModelReference, Place]:
    """Return every model of the merge with the first place that it stands at."""
    places: dict[ModelReference, Place] = {}
    directories: dict[str, ModelReference] = {}
    for place, value in _references(data):
        # What cannot be read is told where the file is checked as a whole.
        model = check_reference(value, place, Problems())
        if model is None or model in places:
            continue
        places[model] = place
        directory = f"{os.path.realpath(model.model.path)}+{model.lora}"
        if not os.path.exists(model.model.path):
            continue
        other = directories.setdefault(directory, model)
        if other != model:
            text = f"is the same directory as {place_name(places[other])}"
            problems.warning(place, text)
    return places


def _references(data: dict[Any, Any], place: Place = ()) -> Iterator[tuple[Place, Any]]:
    for key in ("base_model", "model"):
        if data.get(key) is not None:
            yield (*place, key), data[key]
    for key in ("models", "slices", "sources", "modules"):
        for step, entry in mappings_in(data.get(key)):
            # An anchor may lead back to where it stands.
            if len(place) < 8:
                yield from _references(entry, (*place, key, step))
