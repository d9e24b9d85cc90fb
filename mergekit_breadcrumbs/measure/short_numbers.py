"""Numbers as short as a table has room for."""

from __future__ import annotations

from collections.abc import Iterable


def span(values: Iterable[float], spec: str) -> str:
    """Write numbers as one, or as the least and the greatest.

    >>> span([0.00123, 0.045], ".1e"), span([0.5, 0.5], "g")
    ('1.2e-3..4.5e-2', '0.5')
    """
    numbers = list(values)
    ends = [
        f"{end:{spec}}".replace("e-0", "e-") for end in (min(numbers), max(numbers))
    ]
    return "..".join(dict.fromkeys(ends))


def percent(part: float, whole: float) -> str:
    """Write a share in percent, with a digit after the point; `-` of nothing.

    >>> percent(1, 3), percent(1, 100_000), percent(0, 5), percent(0, 0)
    ('33.3', '<0.1', '0.0', '-')
    """
    if not whole:
        return "-"
    share = 100 * part / whole
    return "<0.1" if 0 < share < 0.05 else f"{share:.1f}"


def cosine(value: float | None) -> str:
    """Write a cosine, or `-` where there is none.

    >>> cosine(0.0968), cosine(-0.0001), cosine(None)
    ('0.097', '0.000', '-')
    """
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"


def short_number(number: int) -> str:
    """Write a number in at most six characters.

    >>> short_number(999), short_number(4800), short_number(131_072_000)
    ('999', '4.8k', '131.1M')
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
