"""What `inspect` counts and sums, against NumPy on every element by itself."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import oracle
from support.tensors import DTYPES, thresholds

from mergekit_breadcrumbs.core.selection import survivor_mask
from mergekit_breadcrumbs.measure.measure import measure
from mergekit_breadcrumbs.measure.report import BINS_PER_OCTAVE, Counts

# Where not all bits of a magnitude choose its bin, 13 do.
HIDDEN = {
    torch.float16: 2,
    torch.bfloat16: 2,
    torch.float32: 18,
    torch.float64: 50,
}


FATES = ("small", "kept", "large")


def expected_fates(delta, density, gamma, granularity):
    """0 for small, 1 for kept, 2 for large, as the ranks of each slice say."""
    rows = delta.reshape(1, -1)
    if granularity == "row" and delta.ndim > 0:
        rows = delta.reshape(-1, delta.shape[-1])
    fates = []
    for row in rows:
        n = len(row)
        kept = oracle.slice_survivors(row.tolist(), density, gamma)
        order = np.argsort(np.abs(row), kind="stable")
        chosen = np.array(kept)[order]
        small = int(np.argmax(chosen)) if chosen.any() else n - int(gamma * n)
        fate = np.full(n, 2)
        fate[order[:small]] = 0
        fate[np.array(kept, dtype=bool)] = 1
        fates.append(fate)
    return np.array(fates).reshape(rows.shape), rows


def expected_cut(magnitudes, fates, side):
    """Lowest and highest magnitude of a cut over slices, ties, and those kept."""
    found = []
    for row, fate in zip(magnitudes, fates, strict=True):
        ranked = np.sort(row)
        rank = int((fate == 0).sum()) if side == "lower" else int((fate < 2).sum())
        if rank in (0, len(row)):
            return None
        tied = row == ranked[rank]
        found.append((ranked[rank], tied.sum(), (tied & (fate == 1)).sum()))
    values, ties, kept = zip(*found, strict=True)
    return (min(values), max(values), sum(ties), sum(kept))


def assert_tallied(tallied, base, tuned, density, gamma, granularity, long=False):
    """Check every number of one task vector."""
    delta = oracle.task_vector(base, tuned)
    fates, rows = expected_fates(delta, density, gamma, granularity)
    magnitudes = np.abs(rows)
    assert tallied.zero == int((rows == 0).sum())
    counts, squares = tallied.counts.model_dump(), tallied.squares.model_dump()
    for fate, name in enumerate(FATES):
        assert counts[name] == (fates == fate).sum()
        exact = math.fsum((magnitudes[fates == fate] ** 2).tolist())
        assert squares[name] == pytest.approx(exact, rel=1e-12, abs=0)
    for side in ("lower", "upper"):
        cut = getattr(tallied, f"{side}_cut")
        wanted = expected_cut(magnitudes, fates, side)
        dropped = fates == (0 if side == "lower" else 2)
        if not dropped.any() or wanted is None:
            assert cut is None
        else:
            assert tuple(cut.model_dump().values()) == wanted
    exact = base.dtype.itemsize == 2 and (not long or len(rows) == 1)
    shift = 0 if exact else HIDDEN[base.dtype]
    seen = truncated(magnitudes, base.dtype, shift)
    histogram = tallied.histogram
    for fate, name in enumerate(FATES):
        values, found = seen[(fates == fate) & (seen > 0)], getattr(histogram, name)
        bins = np.floor(np.log2(values) * BINS_PER_OCTAVE).astype(int)
        bins -= histogram.first_bin
        assert np.bincount(bins, minlength=len(found)).tolist() == found


def truncated(magnitudes, dtype, shift):
    """Clear the lowest bits of floats of a dtype; as float64."""
    floats, integers = {
        torch.float16: (np.float16, np.uint16),
        torch.bfloat16: (np.float32, np.uint32),
        torch.float32: (np.float32, np.uint32),
        torch.float64: (np.float64, np.uint64),
    }[dtype]
    shift += 16 if dtype == torch.bfloat16 else 0
    bits = magnitudes.astype(floats).view(integers) >> shift << shift
    return bits.view(floats).astype(np.float64)


def tensors(dtype, shape, kind, count=1):
    """A base and fine-tunings of it."""
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(shape, generator=generator).mul_(0.02).to(dtype)
    tuned = []
    for _ in range(count):
        delta = torch.randn(shape, generator=generator).pow_(3).mul_(1e-3)
        if kind == "heavy ties":
            base = torch.zeros(shape, dtype=dtype)
            delta = torch.randint(-2, 3, shape, generator=generator) / 4
        elif kind == "many zeros":
            delta[torch.rand(shape, generator=generator) < 0.8] = 0
        elif kind == "all zero":
            delta.zero_()
        elif kind == "all equal":
            base, delta = torch.zeros(shape, dtype=dtype), torch.full(shape, -0.5)
        tuned.append((base.double() + delta).to(dtype))
    return base, tuned


def measure_one(base, tuned, density, gamma, granularity):
    """What is measured of a single model."""
    return measure(
        base,
        [tuned],
        weight=[1.0],
        density=[density],
        gamma=[gamma],
        granularity=granularity,
    )


KINDS = ["continuous", "heavy ties", "many zeros", "all zero", "all equal"]
FRACTIONS = {
    "published configs": (0.9, 0.01),
    "authors' code": (0.15, 0.006),
    "nothing masked": (1.0, 0.0),
    "nothing dropped as large": (0.5, 0.0),
    "nothing dropped as small": (0.9, 0.1),
    "nothing kept": (0.0, 0.1),
    "all dropped as small": (0.0, 0.0),
    "all dropped as large": (0.0, 1.0),
    "more than there is": (0.9, 0.5),
}


@pytest.mark.parametrize("fractions", FRACTIONS.values(), ids=FRACTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_against_the_oracle(dtype, granularity, kind, fractions):
    """All dtypes, both granularities, ties and zeros, every way to cut."""
    base, [tuned] = tensors(dtype, (12, 50), kind)
    density, gamma = fractions
    found = measure_one(base, tuned, density, gamma, granularity)
    assert_tallied(found.vectors[0], base, tuned, density, gamma, granularity)
    exact = math.fsum((oracle.to_numpy(base) ** 2).ravel().tolist())
    assert found.base_square == pytest.approx(exact, rel=1e-6)
    assert found.meetings == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["continuous", "heavy ties", "many zeros"])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_slices_that_are_counted_in_chunks(dtype, granularity, kind):
    """Long slices, whose cuts come from the merge's counting, in several chunks."""
    base, [tuned] = tensors(dtype, (5, 331), kind)
    for density, gamma in FRACTIONS.values():
        with thresholds(chunk=150, short=8):
            found = measure_one(base, tuned, density, gamma, granularity)
        how = density, gamma, granularity
        assert_tallied(found.vectors[0], base, tuned, *how, long=True)


@pytest.mark.parametrize(
    "shape", [(), (1,), (0,), (3, 0), (70000,), (2, 40000)], ids=str
)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shapes(shape, granularity, dtype):
    """Scalars, empty weights, and slices longer than those that are sorted."""
    base, [tuned] = tensors(dtype, shape, "many zeros")
    found = measure(
        base, [tuned], weight=[1], density=[0.7], gamma=[0.1], granularity=granularity
    )
    if base.numel():
        assert_tallied(found.vectors[0], base, tuned, 0.7, 0.1, granularity)
    else:
        [tallied] = found.vectors
        assert tallied.counts == Counts(small=0, kept=0, large=0)
        assert tallied.lower_cut is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("fractions", [(0.9, 0.01), (0.15, 0.006), (1.0, 0.0)])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_on_a_gpu(dtype, granularity, fractions):
    """As on the CPU, for more elements than float32 can count."""
    base, tuned = tensors(dtype, (4201, 4001), "continuous", count=2)
    density, gamma = ([fraction] * 2 for fraction in fractions)
    how = {"weight": [1.0, -0.5], "density": density, "gamma": gamma}
    how["granularity"] = granularity
    expected = measure(base, tuned, **how)
    found = measure(base.cuda(), [values.cuda() for values in tuned], **how)
    assert found.meetings == pytest.approx(expected.meetings, rel=1e-6)
    for own, other in zip(found.vectors, expected.vectors, strict=True):
        squares = other.squares.model_dump()
        assert own.squares.model_dump() == pytest.approx(squares, rel=1e-9)
        assert own._replace(squares=None) == other._replace(squares=None)


VALUE = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1.0078125, 2.0, 1e-3, 9.0])


@given(
    st.lists(VALUE, min_size=1, max_size=40),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(DTYPES),
    st.sampled_from(["tensor", "row"]),
)
def test_any_values(values, density, gamma, dtype, granularity):
    """Any few values, with many ties, and any fractions."""
    tuned = torch.tensor(values, dtype=torch.float64).to(dtype)
    if len(values) % 2 == 0:
        tuned = tuned.view(2, -1)
    base = torch.zeros_like(tuned)
    found = measure(
        base,
        [tuned],
        weight=[1],
        density=[density],
        gamma=[gamma],
        granularity=granularity,
    )
    assert_tallied(found.vectors[0], base, tuned, density, gamma, granularity)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("kind", ["continuous", "heavy ties", "many zeros"])
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((9, 40), None), ((2, 9000), None), ((9, 40), {"chunk": 150, "short": 8})],
    ids=["small", "large", "in chunks"],
)
def test_where_models_meet(shape, chunks, kind, granularity, dtype):
    """Elements changed by several models, and those that they push apart."""
    base, tuned = tensors(dtype, shape, kind, count=4)
    how = {
        "weight": [0.5, -0.5, 0.0, 2.0],
        "density": [0.9, 0.5, 0.9, 0.3],
        "gamma": [0.01, 0.1, 0.0, 0.2],
    }
    with thresholds(**chunks) if chunks else nullcontext():
        found = measure(base, tuned, granularity=granularity, **how)
    signs = []
    together = dict.fromkeys(("kept", "large"), 0.0)
    for index, model in enumerate(tuned):
        mask = survivor_mask(
            model - base,
            density=how["density"][index],
            gamma=how["gamma"][index],
            granularity=granularity,
        ).numpy()
        delta = oracle.task_vector(base, model)
        signs.append(np.sign(delta * mask * how["weight"][index]))
        assert found.vectors[index].counts.kept == mask.sum()
        cuts = how["density"][index], how["gamma"][index]
        fates, _ = expected_fates(delta, *cuts, granularity)
        fates = fates.reshape(shape)
        for fate, name in ((1, "kept"), (2, "large")):
            together[name] += delta * (fates == fate) * np.sign(how["weight"][index])
    changing = np.abs(signs).sum(0)
    met = found.meetings
    assert met.overlapping == (changing >= 2).sum() > 0
    assert met.opposed == (np.abs(np.sum(signs, 0)) < changing).sum() > 0
    for name, summed in together.items():
        assert getattr(met, name) == pytest.approx((summed**2).sum(), rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (1, 200_000)], ids=["short", "long"])
@pytest.mark.parametrize("count", [2, 255, 256, 300])
def test_where_many_models_meet(count, shape):
    """Of hundreds, too, it is known how many add to an element."""
    base, tuned = torch.zeros(shape), [torch.ones(shape)] * count
    signs = [-1.0, *[1.0] * (count - 1)]
    how = {"weight": signs, "density": [1.0] * count, "gamma": [0.0] * count}
    met = measure(base, tuned, **how).meetings
    assert met.overlapping == met.opposed == base.numel()
    assert met.kept == base.numel() * (count - 2) ** 2
    agreeing = measure(base, tuned, **how | {"weight": [1.0] * count}).meetings
    assert (agreeing.overlapping, agreeing.opposed) == (base.numel(), 0)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_the_base_is(dtype, granularity):
    """The sum of its squares, whatever is chosen of the models, if anything is."""
    base = torch.linspace(-1, 2, 200_000).view(100, 2000).to(dtype)
    expected = pytest.approx(float(base.double().square().sum()), rel=1e-13)
    for models in ([], [base * 2]):
        how = {k: [0.5] * len(models) for k in ("weight", "density", "gamma")}
        found = measure(base, models, granularity=granularity, **how)
        assert found.base_square == expected


def test_strided_weights_are_read_as_they_are():
    """A vocabulary cut to size arrives as a view with gaps."""
    base, [tuned] = tensors(torch.bfloat16, (40, 60), "continuous")
    how = {"weight": [1], "density": [0.8], "gamma": [0.05]}
    strided = measure(base[:, :50], [tuned[:, :50]], **how)
    packed = measure(base[:, :50].clone(), [tuned[:, :50].clone()], **how)
    assert strided == packed


def test_refuses_what_a_merge_refuses():
    """A task vector that is not finite, with the merge's own words."""
    base = torch.zeros(5)
    tuned = torch.tensor([1.0, torch.nan, 2.0, torch.inf, 0.0])
    with pytest.raises(ValueError, match=r"must be finite; 2 of 5 .*\(model a\)"):
        measure(base, [tuned], weight=[1], density=[1], gamma=[0], names=["model a"])


def test_weights_in_the_base_only():
    """Nothing to measure is not an error: mergekit keeps such a weight as it is."""
    assert measure(torch.ones(3), [], weight=[], density=[], gamma=[]) == (
        [],
        (0, 0, 0, 0),
        pytest.approx(3.0),
    )
