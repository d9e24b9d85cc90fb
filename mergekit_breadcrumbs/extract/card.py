"""What else is in a breadcrumb file: its model card, and a word to those without us."""

from __future__ import annotations

import json
import os
import re

import yaml

from mergekit_breadcrumbs.files.manifest import NOTICE, Manifest
from mergekit_breadcrumbs.wording import as_path, visible

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_name(name: str) -> bool:
    """Whether a model's name can be one on the hub, and no folder has it here.

    Example:
        >>> is_hub_name("mistralai/Mistral-7B-v0.1"), is_hub_name("./base")
        (True, False)
    """
    return bool(_HUB_NAME.fullmatch(name)) and not (
        name.startswith(".") or os.path.exists(name)
    )


def adapter_config() -> str:
    """Return an adapter_config.json that makes PEFT say what this folder is.

    Where this package is not installed, mergekit takes the folder for a LoRA adapter.
    PEFT then looks for the class of this type, and fails with its name.
    """
    return json.dumps({"peft_type": NOTICE}, indent=2) + "\n"


def model_card(manifest: Manifest, folder: str) -> str:
    """Return a README.md, as hubs show it."""
    base, made_from = manifest.base.model, manifest.finetuned.model
    header: dict[str, object] = {
        "library_name": "mergekit-breadcrumbs",
        "tags": ["mergekit", "mergekit-breadcrumbs", "model-breadcrumbs"],
    }
    if is_hub_name(base):
        header |= {"base_model": base, "base_model_relation": "finetune"}
    config = yaml.safe_dump(
        [{"model": f"{as_path(base)}+./{folder}"}], width=1000
    ).strip()
    kept = f"the {manifest.fraction:g} of each {manifest.granularity}"
    if manifest.is_lossless:
        kept = "all elements"
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# Breadcrumb file of {_quoted(made_from)}

This is not a complete model. It holds {kept} that changed the most when
{_quoted(base)} was fine-tuned to {_quoted(made_from)}. Together with that base it can
be merged like any other model, by [mergekit](https://github.com/arcee-ai/mergekit) with
mergekit-breadcrumbs:

```sh
pip install mergekit-breadcrumbs
```

In the config of a merge, put a `+` between the base and this file:

```yaml
{visible_config(config)}
```

{_usage(manifest)}
"""


def visible_config(text: str) -> str:
    """Return lines of YAML without what a terminal would obey."""
    return "\n".join(map(visible, text.split("\n")))


def _usage(manifest: Manifest) -> str:
    if manifest.is_lossless:
        return (
            "The fine-tuned weights come back to the bit, and any merge gives what it"
            " gives with the\nfine-tuned model itself."
        )
    return (
        f"With `granularity: {manifest.granularity}` and `density` + `gamma` of at most"
        f" {manifest.fraction:g}, `breadcrumbs` and\n`breadcrumbs_ties` give the same"
        " bits as with the fine-tuned model itself."
    )


def _quoted(name: str) -> str:
    return f"`{visible(name).replace('`', '')}`"
