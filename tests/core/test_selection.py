"""Which elements survive: the oracle over a table, and the defining properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracle
from support.tensors import DTYPES, FRACTION, noise

from mergekit_breadcrumbs.core.selection import slice_counts, survivor_mask

GRANULARITIES = ["tensor", "row"]


TENSORS = {
    "0-d": torch.tensor(-1.5),
    "0-d zero": torch.tensor(0.0),
    "one element": torch.tensor([2.0]),
    "1-d": noise(257),
    "2-d": noise(33, 65),
    "4-d": noise(5, 3, 4, 7),
    "empty": torch.zeros(0),
    "no rows": torch.zeros(0, 7),
    "rows without elements": torch.zeros(7, 0),
    "rows of one": noise(40, 1),
    "under 100 elements": noise(99),
    "all equal": torch.full((13, 17), 0.25),
    "all equal, signs mixed": torch.tensor([0.5, -0.5] * 60),
    "all zero": torch.zeros(300),
    "mostly zero": noise(40, 50) * (noise(40, 50, seed=1) > 1.3),
    "zeros of both signs": torch.tensor([0.0, -0.0, 1.0, -1.0] * 40),
    "few distinct magnitudes": (noise(60, 31) * 2).round() / 2,
    "subnormal": noise(500) * 1e-41,
    "strided": noise(40, 90)[::3, ::2],
    "transposed": noise(30, 70).T,
    "expanded": noise(1, 50).expand(9, 50),
    "heavy-tailed": noise(41, 53) ** 7,
}
FRACTIONS = {
    "usual": (0.9, 0.01),
    "authors": (0.15, 0.006),
    "gamma 0": (0.6, 0.0),
    "density 0": (0.0, 0.01),
    "density 1": (1.0, 0.01),
    "density 1, gamma 0": (1.0, 0.0),
    "gamma 1": (0.3, 1.0),
    "both 1": (1.0, 1.0),
    "both 0": (0.0, 0.0),
    "tiny": (1e-9, 1e-9),
    "infeasible": (0.8, 0.7),
    "adds up to 1": (0.7, 0.3),
    "half": (0.5, 0.25),
}


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", TENSORS)
def test_mask_is_the_oracles(name, dtype, granularity):
    """Whatever the values, the survivors are those of a stable sort."""
    delta = TENSORS[name].to(dtype)
    for label, (density, gamma) in FRACTIONS.items():
        mask = survivor_mask(
            delta, density=density, gamma=gamma, granularity=granularity
        )
        assert mask.dtype == torch.bool
        assert mask.shape == delta.shape
        expected = oracle.mask(oracle.to_numpy(delta), density, gamma, granularity)
        assert np.array_equal(mask.numpy(), expected), label


@pytest.mark.parametrize(
    ("elements", "density", "gamma", "expected"),
    [
        (1000, 0.9, 0.01, (90, 900, 10)),
        (99, 0.9, 0.01, (10, 89, 0)),
        (1, 0.5, 0.01, (0, 1, 0)),
        (1, 0.0, 1.0, (0, 0, 1)),
        (10, 0.01, 0.0, (9, 1, 0)),
        (10, 0.9, 0.5, (0, 9, 1)),
        (10, 1.0, 1.0, (0, 10, 0)),
        (10, 0.0, 0.0, (10, 0, 0)),
        (0, 0.9, 0.01, (0, 0, 0)),
    ],
)
def test_counts(elements, density, gamma, expected):
    """Counts are truncated, at least one is kept, and density wins over gamma."""
    assert slice_counts(elements, density, gamma) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 1.5, "gamma": 0.0}, r"density must be in \[0, 1\]; got 1.5"),
        ({"density": float("nan"), "gamma": 0.0}, r"density must be in \[0, 1\]"),
        ({"density": 0.5, "gamma": -0.1}, r"gamma must be in \[0, 1\]; got -0.1"),
        (
            {"density": 0.5, "gamma": 0.0, "granularity": "column"},
            "granularity must be 'tensor' or 'row'; got 'column'",
        ),
    ],
)
def test_bad_arguments_are_refused(options, message):
    """An error names the argument, what it must be, and what it was."""
    with pytest.raises(ValueError, match=message):
        survivor_mask(torch.ones(4), **options)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.5, 1.0])
def test_non_finite_elements_are_counted(dtype, density, granularity):
    """NaN and infinities of both signs are an error that says how many there are."""
    delta = noise(20, 30).to(dtype)
    delta[3, 4], delta[5, 6], delta[7, 8] = float("nan"), float("inf"), -float("inf")
    with pytest.raises(ValueError, match="must be finite; 3 of 600 elements are not"):
        survivor_mask(delta, density=density, gamma=0.01, granularity=granularity)


VALUES = st.lists(
    st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0]),
        st.floats(-1e4, 1e4, width=16),
    ),
    min_size=1,
    max_size=80,
)
DTYPE = st.sampled_from(DTYPES)


@given(VALUES, FRACTION, FRACTION, DTYPE)
def test_small_are_below_survivors_and_large_above(values, density, gamma, dtype):
    """The number kept is as defined, and magnitudes are split where they should be."""
    delta = torch.tensor(values, dtype=torch.float64).to(dtype)
    mask = survivor_mask(delta, density=density, gamma=gamma)
    small, kept, large = slice_counts(len(values), density, gamma)
    assert int(mask.sum()) == kept
    ranked = delta.abs().double().sort().values
    survivors = delta.abs()[mask].double().sort().values
    assert torch.equal(survivors, ranked[small : small + kept])
    assert small + kept + large == len(values)


@given(VALUES, FRACTION, FRACTION, st.randoms(use_true_random=False))
def test_signs_do_not_matter(values, density, gamma, random):
    """Flipping the sign of any element changes no choice."""
    delta = torch.tensor(values)
    flipped = torch.tensor([random.choice([v, -v]) for v in values])
    options = {"density": density, "gamma": gamma}
    expected = survivor_mask(delta, **options)
    assert torch.equal(expected, survivor_mask(flipped, **options))


@given(VALUES, FRACTION, FRACTION, st.integers(-20, 20))
def test_powers_of_two_do_not_matter(values, density, gamma, power):
    """Scaling by a power of two, which is exact, changes no choice."""
    delta = torch.tensor(values)
    options = {"density": density, "gamma": gamma}
    expected = survivor_mask(delta, **options)
    assert torch.equal(expected, survivor_mask(delta * 2.0**power, **options))


@given(VALUES, FRACTION)
def test_gamma_0_is_magnitude_pruning(values, density):
    """Without outlier removal the largest are kept, of equal ones the later."""
    delta = torch.tensor(values)
    kept = slice_counts(len(values), density, 0.0).kept
    ranked = sorted(range(len(values)), key=lambda i: (abs(values[i]), i))
    mask = survivor_mask(delta, density=density, gamma=0.0)
    assert set(mask.nonzero().flatten().tolist()) == set(ranked[len(values) - kept :])


@given(VALUES, FRACTION, FRACTION, DTYPE)
def test_granularities_agree_on_one_row(values, density, gamma, dtype):
    """One vector is one slice, whatever it is called."""
    delta = torch.tensor(values, dtype=torch.float64).to(dtype)
    options = {"density": density, "gamma": gamma}
    by_tensor = survivor_mask(delta, **options)
    assert torch.equal(by_tensor, survivor_mask(delta, granularity="row", **options))
    row = survivor_mask(delta[None], granularity="row", **options)
    assert torch.equal(by_tensor, row[0])


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 40), FRACTION, FRACTION, DTYPE, st.integers(0))
def test_rows_are_independent(rows, length, density, gamma, dtype, seed):
    """The mask of a row does not depend on the other rows."""
    delta = (noise(rows, length, seed=seed % 2**31) * 3).round().to(dtype)
    options = {"density": density, "gamma": gamma, "granularity": "row"}
    together = survivor_mask(delta, **options)
    alone = [survivor_mask(row, **options) for row in delta]
    assert torch.equal(together, torch.stack(alone))
