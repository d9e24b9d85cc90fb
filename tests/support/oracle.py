"""METHOD's definition in NumPy and plain Python, one element at a time where it can be.

Shares nothing with the package: floats are decoded from their bits, ranks come from
Python's own stable sort, sums are in float64.
"""

import math

import numpy as np
import torch

UNIT = {
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
    torch.float32: 2.0**-24,
    torch.float64: 2.0**-53,
}


def to_numpy(tensor):
    """Return the exact values of a tensor as float64."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        bits = tensor.reshape(-1).view(torch.uint16).numpy().astype(np.uint32)
        return (bits << 16).view(np.float32).astype(np.float64).reshape(tensor.shape)
    return tensor.numpy().astype(np.float64)


def round_to(values, dtype):
    """Round float64 values to nearest, ties to even, in a torch dtype; as float64."""
    if dtype == torch.float64:
        return values
    if dtype == torch.float16:
        return values.astype(np.float16).astype(np.float64)
    single = values.astype(np.float32)
    if dtype == torch.bfloat16:
        bits = np.atleast_1d(single).view(np.uint32)
        even = (bits >> 16) & 1
        single = ((bits + 0x7FFF + even) & 0xFFFF0000).astype(np.uint32)
        single = single.view(np.float32).reshape(values.shape)
    return single.astype(np.float64)


def task_vector(base, tuned):
    """`tuned - base` rounded once to their dtype, as torch forms it; as float64."""
    a, b = to_numpy(tuned), to_numpy(base)
    if base.dtype == torch.float64:
        return a - b
    return round_to(
        (a.astype(np.float32) - b.astype(np.float32)).astype(np.float64), base.dtype
    )


def slice_survivors(values, density, gamma):
    """Say of each of a list of numbers whether it survives."""
    n = len(values)
    kept = int(density * n)
    if density > 0 and n > 0 and kept == 0:
        kept = 1
    if density == 0:
        kept = 0
    small = n - kept - int(gamma * n)
    if small < 0:
        small = 0
    order = sorted(range(n), key=lambda i: abs(values[i]))  # sorted() is stable
    chosen = set(order[small : small + kept])
    return [i in chosen for i in range(n)]


def mask(delta, density, gamma, granularity="tensor"):
    """The bool mask of a float64 array, True where kept."""
    delta = np.asarray(delta)
    if delta.size == 0:
        return np.zeros(delta.shape, dtype=bool)
    if granularity == "row" and delta.ndim > 0:
        rows = delta.reshape(-1, delta.shape[-1])
    else:
        rows = delta.reshape(1, -1)
    kept = [slice_survivors(row.tolist(), density, gamma) for row in rows]
    return np.array(kept, dtype=bool).reshape(delta.shape)


def weighted_survivors(base, finetuned, weight, density, gamma, rescale, granularity):
    """`weight * survivors` of every model, in float64."""
    parts = []
    for index, tuned in enumerate(finetuned):
        delta = task_vector(base, tuned)
        kept = mask(delta, density[index], gamma[index], granularity)
        part = np.where(kept, delta, 0.0)
        if rescale:
            before = math.fsum(np.abs(delta).ravel())
            after = math.fsum(np.abs(part).ravel())
            if not (before < 1e-7 or after < 1e-7):
                part = part * (before / after)
        parts.append(weight[index] * part)
    return parts


def merge(
    base,
    finetuned,
    *,
    weight,
    density,
    gamma,
    lambda_=1.0,
    normalize=False,
    rescale=False,
    granularity="tensor",
    ties=False,
):
    """The merged weight before its rounding to the checkpoint's dtype, in float64."""
    parts = weighted_survivors(
        base, finetuned, weight, density, gamma, rescale, granularity
    )
    total = sum(parts)
    divisor = np.full(total.shape, float(sum(weight)))
    if ties:
        positive = total >= 0
        agree = [np.where(positive, part > 0, part < 0) for part in parts]
        total = np.zeros(total.shape)
        divisor = np.zeros(total.shape)
        for agrees, part, w in zip(agree, parts, weight, strict=True):
            total = total + np.where(agrees, part, 0.0)
            divisor = divisor + agrees * float(w)
    if normalize:
        divisor = np.where(np.abs(divisor) < 1e-8, 1.0, divisor)
        total = total / divisor
    return to_numpy(base) + lambda_ * total


def assert_merged(actual, base, finetuned, **options):
    """Check a merged tensor, allowing for the accumulation and one final rounding.

    Every element must be what some number within the accumulation's error of the exact
    result rounds to. Where signs are elected, an element whose weighted sum is so close
    to zero that rounding decides the sign may have either result; there must be few.
    """
    assert actual.dtype == base.dtype
    assert actual.shape == base.shape
    exact = merge(base, finetuned, **options)
    work = torch.float64 if base.dtype == torch.float64 else torch.float32
    unit = UNIT[work] * (2 * len(finetuned) + 6)
    chosen = ("weight", "density", "gamma", "rescale", "granularity")
    defaults = {"rescale": False, "granularity": "tensor"}
    parts = weighted_survivors(
        base, finetuned, **{k: options.get(k, defaults.get(k)) for k in chosen}
    )
    size = sum(np.abs(part) for part in parts)
    scale = np.abs(options.get("lambda_", 1.0)) * size
    if options.get("normalize"):
        # The quotient is as large as the total; its error follows from the parts.
        divisors = [abs(w) for w in options["weight"]] + [abs(sum(options["weight"]))]
        scale = scale / max(min(d for d in divisors if d > 1e-8), 1e-8)
    error = unit * (np.abs(to_numpy(base)) + scale) + 1e-44
    value = to_numpy(actual)
    low, high = round_to(exact - error, base.dtype), round_to(exact + error, base.dtype)
    good = (low <= value) & (value <= high)
    if options.get("ties"):
        elected = sum(parts)
        undecided = (elected != 0) & (np.abs(elected) <= unit * size)
        assert undecided.sum() <= max(2, 0.01 * undecided.size)
        good |= undecided
    wrong = np.argwhere(~np.atleast_1d(good))
    assert len(wrong) == 0, (
        f"{len(wrong)} of {exact.size} elements differ; the first at {wrong[0]}:"
        f" {np.atleast_1d(value)[tuple(wrong[0])]} for"
        f" {np.atleast_1d(exact)[tuple(wrong[0])]}"
    )
