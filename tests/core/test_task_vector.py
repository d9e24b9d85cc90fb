"""The same bits whatever the chunks: cuts, ties, bad values at and across borders."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.tensors import DTYPES, FRACTION, noise, thresholds

from mergekit_breadcrumbs.core.merge import merge_task_vectors
from mergekit_breadcrumbs.core.selection import survivor_mask
from mergekit_breadcrumbs.core.workspace import CHUNK as CHUNKS

CHUNK = CHUNKS["count"]


VALUE = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.0078125, 2.0, -3.0, 1e-3, 65504.0])


@pytest.mark.slow
@given(
    st.lists(VALUE, min_size=1, max_size=60),
    FRACTION,
    FRACTION,
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.integers(0, 5),
    st.sampled_from(["tensor", "row"]),
)
def test_survivors_with_tiny_chunks(
    values, density, gamma, dtype, chunk, short, granularity
):
    """Chunks of a few elements, slices of every length: the oracle's mask."""
    delta = torch.tensor(values, dtype=torch.float64).to(dtype)
    if len(values) % 2 == 0:
        delta = delta.view(2, -1)
    with thresholds(chunk=chunk, short=short):
        mask = survivor_mask(
            delta, density=density, gamma=gamma, granularity=granularity
        )
    expected = oracle.mask(oracle.to_numpy(delta), density, gamma, granularity)
    assert np.array_equal(mask.numpy(), expected)


@pytest.mark.slow
@given(
    st.integers(1, 5),
    st.integers(1, 30),
    st.lists(FRACTION, min_size=4, max_size=4),
    st.sampled_from(DTYPES),
    st.integers(1, 9),
    st.integers(0, 40),
    st.fixed_dictionaries(
        {
            "elect_sign": st.booleans(),
            "normalize": st.booleans(),
            "rescale": st.booleans(),
            "granularity": st.sampled_from(["tensor", "row"]),
            "lambda_": st.sampled_from([1.0, 0.3]),
        }
    ),
)
def test_merged_with_tiny_chunks(rows, length, fractions, dtype, chunk, short, options):
    """Chunks change not a bit of the merged weight, strided inputs included."""
    base = noise(length, rows, seed=1).to(dtype).T
    tuned = [
        (base.double() + (noise(rows, length, seed=s) * 2).round() / 8).to(dtype)
        for s in (2, 3)
    ]
    options = {
        "weight": [0.7, -0.2],
        "density": fractions[:2],
        "gamma": fractions[2:],
        **options,
    }
    expected = merge_task_vectors(base, tuned, **options)
    with thresholds(chunk=chunk, short=short):
        merged = merge_task_vectors(base, tuned, **options)
    if options["rescale"]:
        # Norms are summed in other blocks, in float64.
        unit = oracle.UNIT[dtype] if dtype.itemsize < 8 else 2.0**-48
        torch.testing.assert_close(merged, expected, rtol=2 * unit, atol=2 * unit)
    else:
        assert torch.equal(merged, expected)


def _fast_mask(delta, density, gamma):
    """The oracle's mask for one large slice: NumPy's stable sort."""
    values = np.abs(oracle.to_numpy(delta))
    n = values.size
    kept = max(int(density * n), 1)
    small = max(n - kept - int(gamma * n), 0)
    mask = np.zeros(n, dtype=bool)
    mask[np.argsort(values, kind="stable")[small : small + kept]] = True
    return mask


LARGE = {
    "continuous": noise(3 * CHUNK + 17),
    "80 % zeros": noise(2 * CHUNK + 5) * (noise(2 * CHUNK + 5, seed=1) > 0.84),
    "half of all magnitudes equal": torch.where(
        noise(2 * CHUNK + 5, seed=1) > 0, 0.5, noise(2 * CHUNK + 5)
    ),
    "all equal": torch.full((2 * CHUNK + 1,), 0.5),
    "ascending": torch.arange(2.0 * CHUNK + 9) / 1024,
    "descending": torch.arange(2.0 * CHUNK + 9).flip(0) / 1024,
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LARGE)
def test_several_chunks(name, dtype):
    """Real chunks, several of them: the survivors of a stable sort."""
    delta = LARGE[name].to(dtype)
    for density, gamma in [(0.9, 0.01), (0.15, 0.006), (0.5, 0.0), (0.7, 0.3)]:
        mask = survivor_mask(delta, density=density, gamma=gamma)
        assert np.array_equal(mask.numpy(), _fast_mask(delta, density, gamma))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("border", [CHUNK, 2 * CHUNK])
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_equal_magnitudes_run_out_at_a_border(dtype, border, offset):
    """The last element dropped or kept of equal ones lies at the edge of a chunk."""
    n = 2 * CHUNK + 1000
    for position in (border + offset, border + offset + 500):
        # All are equal: the survivors are one stretch, whose ends we choose.
        end = min(position + 300, n)
        density, gamma = (end - position + 0.5) / n, (n - end + 0.5) / n
        mask = survivor_mask(torch.ones(n, dtype=dtype), density=density, gamma=gamma)
        kept = mask.nonzero().flatten()
        assert (int(kept[0]), int(kept[-1]) + 1) == (position, end)
        assert len(kept) == end - position


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("density", [1.0, 0.5])
def test_bad_values_at_the_borders_are_counted(dtype, density):
    """Every non-finite element is counted once, on either side of a border."""
    delta = torch.ones(2 * CHUNK + 3, dtype=dtype)
    delta[[0, CHUNK - 1, CHUNK, 2 * CHUNK, -1]] = torch.inf
    delta[CHUNK + 1] = -torch.nan
    with pytest.raises(ValueError, match=f"6 of {delta.numel()} elements are not"):
        survivor_mask(delta, density=density, gamma=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("elect_sign", [False, True], ids=["plain", "ties"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_merge(dtype, elect_sign):
    """Several chunks of three models give what one pass over the masks gives."""
    base = noise(2 * CHUNK + 77, seed=5).to(dtype)
    tuned = [
        (base.double() + noise(*base.shape, seed=s) ** 3 / 64).to(dtype)
        for s in range(3)
    ]
    options = {
        "weight": [0.5, 0.25, 0.125],
        "density": [0.9, 0.15, 0.5],
        "gamma": [0.01, 0.006, 0.1],
        "elect_sign": elect_sign,
        "normalize": True,
    }
    merged = merge_task_vectors(base, tuned, **options)
    recorded = merge_task_vectors(base.clone().requires_grad_(), tuned, **options)
    assert torch.equal(merged, recorded)
    for tensor, density, gamma in zip(
        tuned, options["density"], options["gamma"], strict=True
    ):
        delta = tensor - base
        mask = survivor_mask(delta, density=density, gamma=gamma)
        assert np.array_equal(mask.numpy(), _fast_mask(delta, density, gamma))
