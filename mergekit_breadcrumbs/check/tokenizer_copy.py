"""What the merged model gets besides its weights: a tokenizer and a chat template.

mergekit sees to both when all weights are written. Where it cannot, it logs that, and
the merge counts as done.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.models import ModelFiles
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.tokenizer_files import (
    Tokenizers,
    has_tokenizer,
    is_copied,
)
from mergekit_breadcrumbs.check.tokenizer_source import tokenizer_setting
from mergekit_breadcrumbs.host.attempt import attempt

Models = Mapping[ModelReference, ModelFiles]

_TEMPLATE = ("chat_template",)


def check_copy(
    config: MergeConfiguration,
    models: Models,
    tokenizers: Tokenizers,
    options: MergeOptions,
    problems: Problems,
) -> None:
    """Report a merged model without a tokenizer, or without its chat template."""
    copied = tokenizer_setting(config)[1] is None
    if copied and options.copy_tokenizer:
        _check_base(config, models, tokenizers, problems)
    if config.chat_template and not problems.cover(_TEMPLATE):
        _check_template(config, models, tokenizers, problems)


def _check_base(
    config: MergeConfiguration,
    models: Models,
    tokenizers: Tokenizers,
    problems: Problems,
) -> None:
    """Report where no tokenizer can be copied from the base model."""
    base = config.base_model
    files = models.get(base)
    # Of a model from the hub only some files may be here.
    if base is None or not files or not files.directory:
        return
    if not os.path.isdir(base.model.path):
        return
    directory = files.directory
    template = config.chat_template
    adapted = base.lora and not files.file
    if is_copied(directory) and not adapted and not template:
        return
    others = (other.directory for other in models.values() if other.directory)
    if not template and not any(map(has_tokenizer, others)):
        return
    fault = tokenizers.load(directory).fault
    if fault and template:
        text = f"is not saved: it goes into the base's tokenizer. Of the base: {fault}"
        problems.add(Code.TEMPLATE_NOT_SAVED, _TEMPLATE, text)
    elif fault:
        text = f"{fault}: the merged model will have none"
        problems.add(Code.TOKENIZER_NOT_COPIED, files.place, text)


def _check_template(
    config: MergeConfiguration,
    models: Models,
    tokenizers: Tokenizers,
    problems: Problems,
) -> None:
    template = str(config.chat_template)
    if template == "auto":
        _check_choice(config, models, tokenizers, problems)
    elif "{" in template and "generation" not in template:
        # An extension of transformers; the others are jinja2's own.
        extensions = ["jinja2.ext.loopcontrols"]
        syntax = ImmutableSandboxedEnvironment(extensions=extensions)
        _, error = attempt(syntax.parse, template)
        if isinstance(error, jinja2.TemplateSyntaxError):
            text = f"is not valid Jinja: line {error.lineno}: {error.message}"
            problems.add(Code.BROKEN_TEMPLATE, _TEMPLATE, text)


def _check_choice(
    config: MergeConfiguration,
    models: Models,
    tokenizers: Tokenizers,
    problems: Problems,
) -> None:
    """Warn where the models leave nothing to choose from, or no majority."""
    templates: Counter[str] = Counter()
    for model in config.referenced_models():
        files = models.get(model)
        if files is None or not files.directory:
            return
        tokenizer = tokenizers.load(files.directory).tokenizer
        template = _template_of(tokenizer)
        if template:
            templates[template.strip()] += 1
        elif tokenizer is None and not os.path.isdir(model.model.path):
            return
    ranked = templates.most_common(2)
    if not ranked:
        text = "auto has nothing to choose from: no model has a chat template"
        problems.add(Code.NO_CHOICE_OF_TEMPLATE, _TEMPLATE, text)
    elif len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        text = (
            "auto takes what most models have, but two templates or more are equally"
            " frequent: which one is taken may change from run to run"
        )
        problems.add(Code.NO_CHOICE_OF_TEMPLATE, _TEMPLATE, text)


def _template_of(tokenizer: Any) -> str | None:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None
