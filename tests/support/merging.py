"""Merge in this process through `run_merge`, and check whole models by the oracle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from support import oracle
from support.checkpoints import load_tensors
from torch import Tensor

Tensors = dict[str, Tensor]


def configuration(
    method: str,
    base: Path | None,
    models: Mapping[Path, Mapping[str, Any]],
    parameters: Mapping[str, Any] | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """Return a config as YAML would give it: per-model and shared parameters."""
    config: dict[str, Any] = {"merge_method": method, **keys}
    config["models"] = [
        {"model": str(path), **({"parameters": dict(own)} if own else {})}
        for path, own in models.items()
    ]
    if base is not None:
        config["base_model"] = str(base)
    if parameters:
        config["parameters"] = dict(parameters)
    return config


def merge(config: Mapping[str, Any], out_dir: Path, **options: Any) -> Tensors:
    """Run a config with `mergekit.merge.run_merge`; return the tensors it wrote."""
    run_merge(
        MergeConfiguration.model_validate(dict(config)),
        str(out_dir),
        MergeOptions(quiet=True, **options),
    )
    return load_tensors(out_dir)


def assert_model_merged(
    merged: Tensors, base: Tensors, finetuned: Sequence[Tensors], **options: Any
) -> None:
    """Check every tensor of a model against the oracle, element for element."""
    assert merged.keys() == base.keys()
    for name, tensor in merged.items():
        try:
            tuned = [model[name] for model in finetuned]
            oracle.assert_merged(tensor, base[name], tuned, **options)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
