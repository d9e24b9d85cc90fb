"""Whether the models hold weights, or codes that stand for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mergekit.common import ModelReference

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.layout import OutputSlice
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.host.losses import Checkpoints, is_skipped
from mergekit_breadcrumbs.wording import one_line

# As safetensors and as torch name them. An int64 is a buffer, such as a counter.
_MERGED = {"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"}
_MERGED |= {"I64", "int64"}


def check_dtypes(
    outputs: list[OutputSlice],
    models: Mapping[ModelReference, ModelFiles],
    checkpoints: Checkpoints,
    problems: Problems,
) -> set[ModelReference]:
    """Report each model that holds something else than floating-point weights.

    Returns those models; what else is odd with them comes from that.
    """
    quantised = set()
    for model, files in models.items():
        if model not in checkpoints:
            continue
        method = _method(files.config)
        name = _first_code(model, outputs, files, checkpoints)
        is_base = model in [output.base for output in outputs]
        if name is not None:
            dtype = files.weights.dtypes[name]
            text = f"is quantised ({method or dtype}): {name} holds {dtype}"
            text += ", not weights; merge the 16-bit weights"
        elif method and _lacks(model, outputs, checkpoints):
            text = f"is quantised ({method}): merge the 16-bit weights"
        elif method and is_base:
            text = (
                f"its config.json says that it is quantised ({method}), its weights are"
                " not: the merged model would be loaded wrongly; delete"
                " quantization_config"
            )
        else:
            continue
        problems.add(Code.QUANTISED, files.place, text)
        quantised.add(model)
    return quantised


def _method(config: Any) -> str:
    """Return how a config says that its weights are quantised, empty if it does not."""
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return ""
    if isinstance(settings, dict):
        return one_line(settings.get("quant_method", "quantization_config")).strip("'")
    return one_line(getattr(settings, "quant_method", "quantization_config")).strip("'")


def _first_code(
    model: ModelReference,
    outputs: list[OutputSlice],
    files: ModelFiles,
    checkpoints: Checkpoints,
) -> str | None:
    """Return the name of the first tensor that is merged and of no floating dtype."""
    dtypes, shapes = files.weights.dtypes, files.weights.shapes
    codes = {
        name
        for name, dtype in dtypes.items()
        if dtype not in _MERGED and math.prod(shapes[name]) > 1
    }
    if not codes:
        return None
    for output in outputs:
        for tensor in output.tensors:
            found = checkpoints[model].lookup.find(tensor.called_in(model))
            for name in found.names if found else ():
                if name in codes:
                    return name
    # Codes under names of their own, with which the plan does not reckon.
    own = [n for n in checkpoints[model].content(codes) if len(shapes[n]) > 1]
    return next(iter(own), None)


def _lacks(
    model: ModelReference, outputs: list[OutputSlice], checkpoints: Checkpoints
) -> bool:
    lookup = checkpoints[model].lookup
    return any(
        lookup.find(tensor.called_in(model)) is None
        for output in outputs
        for tensor in output.tensors
        if not is_skipped(tensor, checkpoints)
    )
