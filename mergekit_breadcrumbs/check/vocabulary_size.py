"""How many rows the merged model's embeddings get.

mergekit makes them as long as the tokenizer is, whatever they were before.
"""

from __future__ import annotations

from mergekit.config import MergeConfiguration

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.check.problems import Problems
from mergekit_breadcrumbs.check.tokenizer_source import tokenizer_setting


def check_length(
    tokens: int, after: int, before: int, config: MergeConfiguration, problems: Problems
) -> None:
    """Warn where the base has more rows than the merged model will have."""
    if before <= after:
        return
    place, source = tokenizer_setting(config)
    setting = f"pad_to_multiple_of: {fitting_multiple(tokens, before)}"
    if config.tokenizer is None:
        setting = f"tokenizer: {{source: {source}, {setting}}}"
    text = (
        f"the embeddings will have {after} rows, for the tokenizer has {tokens} tokens:"
        f" of the base's {before} rows the last are cut off; {setting} keeps the size"
    )
    problems.add(Code.ROWS_CUT_OFF, place, text)


def padded(length: int, multiple: int | None) -> int:
    """Return a length rounded up to a multiple.

    Example:
        >>> padded(151_665, 128), padded(151_665, None)
        (151680, 151665)
    """
    return -(-length // multiple) * multiple if multiple else length


def fitting_multiple(length: int, rows: int) -> int:
    """Return what a length is to be rounded up to a multiple of, to become `rows`.

    Example:
        >>> fitting_multiple(32_003, 32_064), fitting_multiple(151_665, 151_936)
        (64, 151936)
    """
    usual = (multiple for multiple in (64, 128, 256, 512, 1024, 8, 16, 32))
    return next((m for m in usual if padded(length, m) == rows), rows)
