"""What a config asks of breadcrumb files, and what they hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from mergekit.common import ModelReference, dtype_from_name
from mergekit.config import MergeConfiguration

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.layout import OutputSlice, Source
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.resolved import resolve
from mergekit_breadcrumbs.core.selection import slice_counts
from mergekit_breadcrumbs.core.stored import top_counts
from mergekit_breadcrumbs.files.manifest import StoredTensor
from mergekit_breadcrumbs.files.reader import BreadcrumbFile
from mergekit_breadcrumbs.host.attempt import attempt
from mergekit_breadcrumbs.host.from_files import what_is_kept
from mergekit_breadcrumbs.host.parameters import DEFAULT_DENSITY, DEFAULT_GAMMA
from mergekit_breadcrumbs.wording import listed

Models = Mapping[ModelReference, ModelFiles]


class _Use(NamedTuple):
    """A tensor of a file in a merge, and what is asked of it."""

    name: str
    entry: StoredTensor
    density: float
    gamma: float
    granularity: str
    dtype: torch.dtype | None


def check_limits(
    outputs: list[OutputSlice],
    models: Models,
    config: MergeConfiguration,
    problems: Problems,
) -> None:
    """Report files that hold less than is asked, or by other slices or another dtype.

    A file that is merged into another base than its own is a model like any other.
    """
    for output in outputs:
        for source in output.finetuned:
            file = models[source.model].file if source.model in models else None
            own = source.model.model_copy(update={"lora": None})
            if file is None or file.manifest.is_lossless or own != output.base:
                continue
            uses = list(_uses(source, output, file, models, config))
            _check_granularity(uses, source, file, problems)
            _check_fractions(uses, source, file, problems)
            _check_dtype(uses, source, problems)


def _uses(
    source: Source,
    output: OutputSlice,
    file: BreadcrumbFile,
    models: Models,
    config: MergeConfiguration,
) -> Iterator[_Use]:
    for tensor in output.tensors:
        name = tensor.called_in(source.model).name
        entry = file.manifest.tensors.get(name)
        if entry is None or entry.ranked_in is None or not entry.shape:
            continue
        density, gamma, granularity = (
            resolve(parameter, source, tensor)
            for parameter in ("density", "gamma", "granularity")
        )
        yield _Use(
            name,
            entry,
            density if _is_fraction(density) else DEFAULT_DENSITY,
            gamma if _is_fraction(gamma) else DEFAULT_GAMMA,
            granularity if granularity in ("tensor", "row") else "tensor",
            _merge_dtype(name, output, models, config),
        )


def _is_fraction(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _merge_dtype(
    name: str, output: OutputSlice, models: Models, config: MergeConfiguration
) -> torch.dtype | None:
    """Return the dtype that a tensor is merged in, None if that is not known."""
    if config.dtype:
        dtype, _ = attempt(dtype_from_name, config.dtype)
        return dtype
    found: torch.dtype | None = None
    for model in {output.base, *(source.model for source in output.sources)}:
        files = models.get(model)
        known = files.weights.dtypes.get(name, "") if files else ""
        own = _DTYPES.get(known)
        if own is None:
            return None
        found = own if found is None else torch.promote_types(found, own)
    return found


# As safetensors names them, and as torch does.
_DTYPES = {
    name: dtype
    for names, dtype in (
        (("F16", "float16"), torch.float16),
        (("BF16", "bfloat16"), torch.bfloat16),
        (("F32", "float32"), torch.float32),
        (("F64", "float64"), torch.float64),
    )
    for name in names
}


def _check_granularity(
    uses: list[_Use], source: Source, file: BreadcrumbFile, problems: Problems
) -> None:
    own = file.manifest.granularity
    wrong = [u.name for u in uses if u.granularity != own and len(u.entry.shape) > 1]
    if wrong:
        problems.add(
            Code.FILE_BY_OTHER_SLICES,
            source.setting_place("granularity"),
            f"must be {own} for the file of {source.model}, which was made so (for"
            f" {listed(wrong)})",
        )


def _check_fractions(
    uses: list[_Use], source: Source, file: BreadcrumbFile, problems: Problems
) -> None:
    fraction = file.manifest.fraction
    too_much: dict[tuple[float, float], list[str]] = defaultdict(list)
    for use in uses:
        by_row = use.granularity == "row"
        length = use.entry.shape[-1] if by_row else torch.Size(use.entry.shape).numel()
        counts = slice_counts(length, use.density, use.gamma)
        if counts.kept + counts.large > top_counts(length, fraction).kept:
            too_much[use.density, use.gamma].append(use.name)
    for (density, gamma), names in too_much.items():
        which = "" if len(names) == len(uses) else f" (for {listed(names)})"
        problems.add(
            Code.FILE_HOLDS_LESS,
            source.setting_place("density"),
            f"{what_is_kept(fraction, density, gamma)}{which}",
        )


def _check_dtype(uses: list[_Use], source: Source, problems: Problems) -> None:
    for use in uses:
        merged = str(use.dtype).removeprefix("torch.")
        if use.dtype is not None and merged != use.entry.ranked_in:
            problems.add(
                Code.FILE_OF_OTHER_DTYPE,
                source.place,
                f"the file was made for merges in {use.entry.ranked_in}, and this one"
                f" is in {merged}: make it with --dtype {merged} for the elements of"
                " the full checkpoint",
            )
            return
