"""Local paths about which mergekit asks the hub, once the weights are written.

For the model card it asks whether a path is also the name of a model on the hub.
Without an answer the merge ends there, and the merged model has no tokenizer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import huggingface_hub
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from mergekit.common import ModelPath, ModelReference

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Place, Problems
from mergekit_breadcrumbs.host.attempt import attempt, first_line

# mergekit itself would wait for much longer.
_SECONDS = 2


def check_paths(
    models: Iterable[tuple[ModelReference, Place]], problems: Problems
) -> None:
    """Report local paths that mergekit takes for names, if the hub cannot be asked.

    The hub is asked only if there is such a path, and once for all of them.
    """
    asked = [
        (model, place)
        for model, place in models
        if any(_is_asked(part) for part in _parts(model))
    ]
    reason = _why_unreachable(asked[0][0]) if asked else ""
    for model, place in asked if reason else ():
        written = "+".join(
            f"./{part}" if _is_asked(part) else str(part) for part in _parts(model)
        )
        problems.add(
            Code.PATH_ASKED_ON_HUB,
            place,
            "mergekit asks the hub about this path when all weights are written, and"
            f" stops there if there is no answer ({reason}): write {written}",
        )


def _parts(model: ModelReference) -> list[ModelPath]:
    return [part for part in (model.model, model.lora) if part is not None]


def _is_asked(part: ModelPath) -> bool:
    """Apply mergekit's rule, and the one by which the hub's library refuses names."""
    path = part.path
    if not path or path[0] in "/~" or path.count("/") > 1 or not os.path.exists(path):
        return False
    return is_hub_name(path)


def is_hub_name(path: str) -> bool:
    """Whether a path may be the name of a model on the hub, by the hub's own rules.

    Example:
        >>> is_hub_name("org/model"), is_hub_name("./model")
        (True, False)
    """
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def _why_unreachable(model: ModelReference) -> str:
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    path = next(part.path for part in _parts(model) if _is_asked(part))
    hub = huggingface_hub.HfApi()
    _, error = attempt(hub.repo_info, path, timeout=_SECONDS, token=False)
    if error is None or isinstance(error, RepositoryNotFoundError):
        return ""
    return f"the hub cannot be reached: {first_line(error)}"
