"""How large a breadcrumb file is, by what it stores and by how positions are encoded.

Random positions in one tensor of bfloat16, encoded for real, scaled to a model. Prints
Markdown, with the entropy limit beside: no code can take less for such positions.

    python benchmarks/file_sizes.py
"""

from __future__ import annotations

import math
import time

import click
import numpy as np
import torch

from mergekit_breadcrumbs.core.positions_builder import PositionsBuilder, best_low_bits

FRACTIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
CODES = ("mask", 2, 4, 8)


def entropy(fraction: float) -> float:
    """Return the fewest bits for each stored position."""
    rest = 1 - fraction
    bits = fraction * math.log2(fraction) + rest * math.log2(rest)
    return -bits / fraction


def encoded(
    positions: torch.Tensor, elements: int, code: object
) -> tuple[float, float]:
    """Return the bits for each position, and the nanoseconds it takes to read one."""
    builder = PositionsBuilder(elements)
    builder.add(positions)
    made = builder.finish(code)  # type: ignore[arg-type]
    size = sum(part.numel() * part.element_size() for part in (made.bits, made.low))
    size += made.counts.numel() * 4
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for at in range(0, elements, 1 << 20):
            made.between(at, min(at + (1 << 20), elements))
        times.append(time.perf_counter() - start)
    return 8 * size / len(positions), 1e9 * min(times) / len(positions)


@click.command()
@click.option("--elements", default=1 << 24, show_default=True)
@click.option("--model", default=7.24, show_default=True, help="Billions of elements.")
def main(elements: int, model: float) -> None:
    """Print a row for each fraction."""
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    print(f"{model} billion bfloat16 elements ({2 * model:.1f} GB)\n")
    codes = [f"{code}, bits; ns" for code in CODES]
    names = ["stored", "file, GB", "limit, GB", "ratio", "limit, bits", "gaps, bits"]
    print(f"| {' | '.join(names + codes)} |")
    print("|---" * (6 + len(CODES)) + "|")
    for fraction in FRACTIONS:
        positions = torch.from_numpy(np.flatnonzero(random.random(elements) < fraction))
        gaps = np.diff(positions.numpy(), prepend=-1) - 1
        in_bytes = 8 * (1 + (gaps // 255)).mean()  # 255 says that the gap goes on
        found = {code: encoded(positions, elements, code) for code in CODES}
        chosen = best_low_bits(elements, len(positions)) or "mask"
        limit = entropy(fraction)
        size, least = (
            fraction * model * (16 + bits) / 8 for bits in (found[chosen][0], limit)
        )
        cells = " | ".join(
            f"{'**' if code == chosen else ''}{bits:.2f}; {ns:.1f}"
            f"{'**' if code == chosen else ''}"
            for code, (bits, ns) in found.items()
        )
        print(
            f"| {100 * fraction:g} % | {size:.2f} | {least:.2f} | {size / least:.2f}"
            f" | {limit:.2f} | {in_bytes:.2f} | {cells} |"
        )


if __name__ == "__main__":
    main()
