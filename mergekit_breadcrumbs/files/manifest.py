"""The manifest of a breadcrumb file: what it was made from, and what it holds.

The format is described in docs/files.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NAME = "breadcrumbs.json"
"""The file by which a folder is known to be a breadcrumb file."""

STEM = "breadcrumbs"
NOTICE = (
    "this folder is a breadcrumb file, not a LoRA adapter: pip install"
    " mergekit-breadcrumbs"
)
"""What is in the place of the kind of adapter in a file's adapter_config.json."""
"""How the names of the files with the tensors begin."""

VERSION = 1

FloatName = Literal["float16", "bfloat16", "float32", "float64"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Strict):
    """A model that a file was made from.

    `model` and `revision` are as given on the command line, `commit` is the hub's own
    name of what was read, and `content` a SHA-256 of names, shapes, dtypes and every
    1024th element.
    """

    model: str
    revision: str | None = None
    commit: str | None = None
    content: str


class StoredTensor(_Strict):
    """One tensor of which the elements that differ most from the base are stored.

    Args:
        shape: of the base's tensor, and so of the one that is put together.
        base_dtype: of the base's tensor, as PyTorch calls it.
        ranked_in: dtype in which task vectors were formed; None for integers.
        stored: how many elements are stored.
        low_bits: how their positions are encoded; None for a mask.
        norm: `||delta||_1 * norm_scale` of the whole task vector; None where that is
            not finite.
        norm_scale: 1, or 2**-64 where the sum is over any float64.
        checksum: of the base's elements at the stored and at every 1024th position.
    """

    shape: tuple[Annotated[int, Field(ge=0)], ...]
    base_dtype: str
    stored: Annotated[int, Field(ge=0)]
    checksum: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    ranked_in: FloatName | None = None
    low_bits: Literal[2, 4, 8] | None = None
    norm: Annotated[float, Field(ge=0)] | None = None
    norm_scale: Annotated[float, Field(gt=0, le=1)] = 1.0


class Manifest(_Strict):
    """What stands in `breadcrumbs.json`.

    `whole` are tensors that the base does not have; they are stored as they are.
    """

    format: Literal["breadcrumbs"] = "breadcrumbs"
    version: Literal[1] = 1
    written_by: str
    fraction: Annotated[float, Field(gt=0, le=1)]
    granularity: Literal["tensor", "row"]
    base: Source
    finetuned: Source
    tensors: dict[str, StoredTensor]
    whole: tuple[str, ...] = ()

    @property
    def is_lossless(self) -> bool:
        """Whether the file gives back the fine-tuned tensors to the bit."""
        return self.fraction == 1


def key(name: str, part: str) -> str:
    """Return what a part of a tensor is called among the tensors of a file.

    Parts are `values`, `counts`, `bits` and `low`, or `whole`.

    Example:
        >>> key("lm_head.weight", "values")
        'lm_head.weight:values'
    """
    return f"{name}:{part}"
