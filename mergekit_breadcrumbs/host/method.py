"""The two merge methods, in mergekit's own classes.

The start-up hook imports this module while mergekit itself is half imported: names come
from mergekit's submodules, never from a package that may not have them yet.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from mergekit.merge_methods.base import (
    BasePolicy,
    InputContract,
    MergeMethodSpec,
    TensorGroup,
)
from mergekit.merge_methods.generalized_task_arithmetic import (
    ConsensusMethod,
    GeneralizedTaskArithmeticMerge,
)
from mergekit.sparsify import SparsificationMethod

from mergekit_breadcrumbs.core.merge import merge_task_vectors
from mergekit_breadcrumbs.host.alignment import aligned, without_autocast
from mergekit_breadcrumbs.host.from_files import finetuned_in
from mergekit_breadcrumbs.host.notices import NOTICES
from mergekit_breadcrumbs.host.output_dtype import (
    forget_planned,
    note_planned,
    refuse_too_narrow,
    written_dtype,
)
from mergekit_breadcrumbs.host.overlay import ordinary
from mergekit_breadcrumbs.host.parameters import (
    PARAMETERS,
    per_model,
    warn_of_fractions,
    warn_of_many,
)
from mergekit_breadcrumbs.host.references import install

# How mergekit's planner labels the inputs of a whole output slice, before any tensor.
_OUTPUT_SLICE_LABEL = re.compile(r"\.slices\[\d+\]$")


@dataclass(frozen=True)
class BreadcrumbsMerge(GeneralizedTaskArithmeticMerge):  # type: ignore[misc]
    """Model Breadcrumbs as a mergekit merge method.

    It has the attributes of mergekit's `GeneralizedTaskArithmeticMerge`, whose place it
    takes: `consensus_method` (None for `breadcrumbs`, `sum` for `breadcrumbs_ties`),
    `sparsification_method`, `default_normalize`, `default_rescale`, `method_name`,
    `method_pretty_name` and `method_reference_url`. Which elements survive and how they
    are summed is in `survivor_mask` and `merge_task_vectors`.

    Example:
        >>> from mergekit import merge_methods
        >>> type(merge_methods.get("breadcrumbs")).__name__
        'BreadcrumbsMerge'
        >>> merge_methods.merge_tensors(
        ...     [torch.zeros(4), torch.tensor([0.1, 1.0, -2.0, 9.0])],
        ...     "breadcrumbs",
        ...     base_index=0,
        ...     parameters={"weight": 0.5, "density": 0.5, "gamma": 0.25},
        ... )
        tensor([ 0.0000,  0.5000, -1.0000,  0.0000])

    Source: arXiv 2312.06795.
    """

    def __reduce__(self) -> tuple[type[BreadcrumbsMerge], tuple[Any, ...]]:
        # The cached spec holds validators that cannot be pickled; it is made anew.
        return type(self), astuple(self)

    @cached_property
    def spec(self) -> MergeMethodSpec:
        """Parameters, contract, name and reference, as mergekit reads them."""
        return MergeMethodSpec(
            name=self.method_name,
            parameters=tuple(PARAMETERS.values()),
            contract=InputContract(base=BasePolicy.REQUIRED),
            pretty_name=self.method_pretty_name,
            reference_url=self.method_reference_url,
        )

    def validate_inputs(
        self,
        input_ids: Sequence[Hashable],
        base_id: Hashable | None = None,
        *,
        group_name: str | None = None,
    ) -> None:
        """Check that there is a base model and something to merge into it.

        Raises:
            ValueError: if there is no base, or nothing but the base, or an input twice.
        """
        place = f" for {group_name}" if group_name else ""
        if base_id is None:
            raise ValueError(
                f"{self.method_name} requires a base input{place}: set base_model in"
                " the config (base or base_index in a library call)"
            )
        super().validate_inputs(input_ids, base_id, group_name=group_name)
        # One optional tensor may be in no fine-tuned model; a whole merge may not be.
        if group_name is None or _OUTPUT_SLICE_LABEL.search(group_name):
            NOTICES.begin()
            # The inputs of a library call have no name, and no planner either.
            (note_planned if group_name else forget_planned)()
            self._require_finetuned(len(input_ids) > 1, base_id, place)
            if group_name is not None and NOTICES.listens:
                # mergekit is still half imported when this module is.
                from mergekit_breadcrumbs.host.planning import warn_of_losses

                warn_of_losses(group_name)

    def __call__(
        self,
        groups: Sequence[TensorGroup],
        /,
        *,
        parameters: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> tuple[torch.Tensor, ...]:
        """Merge groups of tensors in memory, as mergekit's library calls do."""
        NOTICES.begin()
        forget_planned()
        groups = tuple(groups)
        for group in groups:
            # Those without a name are looked at when their inputs are validated.
            name = group.metadata.name if isinstance(group, TensorGroup) else None
            if name is not None and group.base:
                self._require_finetuned(group.non_base, group.base.id, f" for {name}")
        result: tuple[torch.Tensor, ...] = super().__call__(
            groups, parameters=parameters, **options
        )
        return result

    def _require_finetuned(self, finetuned: Any, base: Hashable, place: str) -> None:
        if not finetuned:
            raise ValueError(
                f"{self.method_name} requires a model besides the base{place}; got only"
                f" {base}"
            )

    def _execute(
        self,
        groups: Sequence[TensorGroup],
        parameters: list[dict[str, Any]],
        options: Any,
        *,
        out_dtype: torch.dtype | None = None,
        input_dtypes: Sequence[torch.dtype | None],
    ) -> tuple[torch.Tensor, ...]:
        """Merge group after group, and refuse what casting would make infinite."""
        written = written_dtype(out_dtype)
        results = []
        for group, own, dtype in zip(groups, parameters, input_dtypes, strict=True):
            merged = without_autocast(self.merge_group, aligned(group, dtype), own)
            if written is not None:
                refuse_too_narrow(merged, written, group)
            results.append(merged if out_dtype is None else merged.to(out_dtype))
            del merged
        return tuple(results)

    def merge_group(self, group: TensorGroup, /, **parameters: Any) -> torch.Tensor:
        """Merge one weight of all models; see `merge_task_vectors`.

        Args:
            group: the base and the fine-tuned tensors, of one shape, dtype and device.
            **parameters: every parameter of the spec; per-model ones as a mapping from
                entry id to value.

        Raises:
            ValueError: if a task vector or the result is not finite, naming model and
                tensor.
        """
        entries, tensor_name = group.non_base, group.metadata.name
        own = per_model(entries, parameters)
        names = [f"model {entry.id}" for entry in entries]
        warn_of_fractions(names, tensor_name, own)
        warn_of_many(own, parameters)
        granularity = parameters["granularity"]
        fractions = zip(own["density"], own["gamma"], strict=True)
        base = group.base
        return merge_task_vectors(
            ordinary(base.tensor),
            finetuned_in(entries, base, fractions, granularity),
            **own,
            lambda_=parameters["lambda"],
            normalize=parameters["normalize"],
            rescale=parameters["rescale"],
            granularity=granularity,
            elect_sign=self.consensus_method is not None,
            names=names,
            tensor=tensor_name,
        )


# Pickles and messages name the public home, which is safe to import from any thread.
BreadcrumbsMerge.__module__ = "mergekit_breadcrumbs"


def _method(
    name: str, pretty_name: str, consensus: ConsensusMethod | None = None
) -> BreadcrumbsMerge:
    return BreadcrumbsMerge(
        consensus_method=consensus,
        sparsification_method=SparsificationMethod.magnitude_outliers,
        default_normalize=False,
        default_rescale=False,
        method_name=name,
        # The card of a merged model then tells which implementation made it.
        method_pretty_name=f"{pretty_name} (mergekit-breadcrumbs)",
        method_reference_url="https://arxiv.org/abs/2312.06795",
    )


METHODS = (
    _method("breadcrumbs", "Model Breadcrumbs"),
    _method("breadcrumbs_ties", "Model Breadcrumbs with TIES", ConsensusMethod.sum),
)


def register(registry: ModuleType) -> None:
    """Put both methods in the place of mergekit's built-ins of the same names.

    mergekit refuses to register a taken name and offers no way to replace one, so its
    private table is written to; looked up each time, because tests rebind it.
    """
    install()
    for method in METHODS:
        registry._METHODS[method.spec.name] = method
