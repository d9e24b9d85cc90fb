"""Merged folders as mergekit writes them, and what a verification says of them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from support.checkpoints import finetune, make_base

from mergekit_breadcrumbs.verify.run import Verified, verify

SHARDED = {"out_shard_size": 16_000}
"""Bytes of one file: cuts a model of `checkpoints` into several."""


def models(root: Path, **options: Any) -> list[str]:
    """Write a base and two fine-tunings; return their paths."""
    base = make_base(root / "base", **options)
    tuned = [finetune(base, root / f"m{seed}", seed=seed) for seed in (1, 2)]
    return [str(base), *map(str, tuned)]


def merge_folder(
    config: Mapping[str, Any] | MergeConfiguration,
    folder: Path,
    *,
    told: Any = None,
    **options: Any,
) -> Path:
    """Merge as `mergekit-yaml` does, with the config's text left in the folder.

    `told` is the config that is left there, if it is another one.
    """
    text = yaml.safe_dump(dict(told or config))
    if not isinstance(config, MergeConfiguration):
        config = MergeConfiguration.model_validate(dict(config))
    run_merge(
        config,
        str(folder),
        MergeOptions(quiet=True, **options),
        config_source=text,
    )
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    """Return a copy of a folder, to be damaged."""
    return shutil.copytree(folder, to)


def verified(folder: Path, config: Path | None = None, **options: Any) -> Verified:
    """Verify a folder in this process, without progress."""
    return verify(folder, MergeOptions(quiet=True, **options), config)


def said(folder: Path, config: Path | None = None, **options: Any) -> list[str]:
    """Return what a verification says, each as "NUMBER TEXT"."""
    faults = verified(folder, config, **options).faults
    return [f"{fault.code.value} {fault.text}" for fault in faults]
