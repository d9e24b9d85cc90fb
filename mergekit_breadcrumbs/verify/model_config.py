"""What config.json says of a merged model, beside its weights and its base."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from mergekit.architecture import ModelArchitecture, WeightInfo
from mergekit.common import get_config_value

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.host.attempt import attempt, first_line
from mergekit_breadcrumbs.verify.compare import difference
from mergekit_breadcrumbs.verify.faults import Fault
from mergekit_breadcrumbs.verify.weights import Weights
from mergekit_breadcrumbs.wording import listed, one_line, visible

# Which program wrote the file, and where a config was read from.
_VOLATILE = {"transformers_version", "_name_or_path", "auto_map"}
_HEADS = ("lm_head.weight", "embed_out.weight")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "shared.weight")


def read_model_config(folder: Path, trust_remote_code: bool) -> tuple[Any, list[Fault]]:
    """Read config.json as transformers does; None if that is impossible."""
    path = folder / "config.json"
    if not path.is_file():
        text = "there is no config.json, which mergekit writes after the weights"
        return None, [Fault(Code.NOT_FINISHED, text)]
    content, error = attempt(path.read_text, "utf-8")
    data = None
    if content is not None:
        data, error = attempt(json.loads, content)
    if error is None and not isinstance(data, dict):
        error = ValueError("it is no mapping")
    config = None
    if error is None:
        config, error = attempt(
            transformers.AutoConfig.from_pretrained,
            folder,
            trust_remote_code=trust_remote_code,
        )
    if error is None:
        return config, []
    reason = visible(first_line(error)) if content != "" else "it is empty"
    return None, [
        Fault(Code.CONFIG_UNREADABLE, f"config.json cannot be read: {reason}")
    ]


def compare_configs(found: Any, written: Any) -> list[Fault]:
    """Say where a config differs from the one that mergekit writes."""
    ours, theirs = _plain(found), _plain(written)
    keys = [k for k in theirs if k not in _VOLATILE and ours.get(k) != theirs[k]]
    keys += [k for k in ours if k not in _VOLATILE and k not in theirs]
    if not keys:
        return []
    texts = [
        f"{visible(key)} is {one_line(ours.get(key))}, and"
        f" {one_line(theirs.get(key))} by the config"
        for key in keys
    ]
    return [Fault(Code.CONFIG_DIFFERS, f"config.json: {listed(texts, 4)}")]


def _plain(config: Any) -> dict[str, Any]:
    """Return what a config says as JSON has it, defaults included."""
    data: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    dtype = data.pop("torch_dtype", None) or data.get("dtype")
    data["dtype"] = str(dtype).removeprefix("torch.") if dtype else None
    return data


def check_rows(
    config: Any,
    architecture: ModelArchitecture,
    saved: Mapping[str, WeightInfo],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[Fault]:
    """Say which embedding or head has not a row for each token of the config."""
    key = architecture.vocab_size_config_key or "vocab_size"
    size, error = attempt(get_config_value, config, key)
    if error is not None or not isinstance(size, int):
        return []
    faults = []
    for name, weight in saved.items():
        axis, shape = weight.vocabulary_axis, shapes.get(name, ())
        if axis is None or axis >= len(shape):
            continue
        rows = shape[axis]
        if rows != size:
            text = f"{visible(name)} has {rows} rows, but config.json says {key} {size}"
            faults.append(Fault(Code.ROWS_DIFFER, text))
    return faults


def check_head(config: Any, weights: Weights, known: Sequence[str]) -> list[Fault]:
    """Say if a head is there where the embeddings serve as one, or the reverse.

    `known` are the names that the architecture has for weights.
    """
    tied = bool(getattr(config, "tie_word_embeddings", False))
    names = [*weights.file_of, *known]
    head = next((name for name in names if name.endswith(_HEADS)), None)
    embedding = next((n for n in weights.file_of if n.endswith(_EMBEDDINGS)), None)
    if head is None or embedding is None:
        return []
    if head not in weights.file_of:
        return [] if tied else [_headless(head)]
    if not tied:
        return []
    one, _ = weights.read(head)
    other, _ = weights.read(embedding)
    if one is None or other is None:
        return []
    alike = (one.shape, one.dtype) == (other.shape, other.dtype)
    if alike and difference(one, other) is None:
        return []
    return [
        Fault(
            Code.HEAD_DISAGREES,
            f"config.json says that the embeddings are the head (tie_word_embeddings),"
            f" but {visible(head)} is there and differs from {visible(embedding)}: some"
            " programs use the one, some the other",
        )
    ]


def _headless(head: str) -> Fault:
    return Fault(
        Code.HEAD_DISAGREES,
        f"there is no {visible(head)}, but config.json says that the model has one of"
        " its own (tie_word_embeddings is false): it would be random after loading",
    )
