"""On a GPU: the survivors of the CPU, its sums but for a fused step, and no waiting."""

import warnings

import pytest
import torch
from support.stored import stored_of
from support.tensors import DTYPES

from mergekit_breadcrumbs import merge_task_vectors, survivor_mask
from mergekit_breadcrumbs.core import workspace

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

GPU = "cuda"
OPTIONS = [
    {},
    {"granularity": "row"},
    {"elect_sign": True, "normalize": True},
    {"rescale": True},
]


@pytest.fixture(
    params=[(1 << 25, 1 << 24), (1 << 13, 1 << 24), (1 << 13, 1 << 16)],
    ids=["sorted", "one chunk", "many chunks"],
)
def _chunks(request, monkeypatch):
    short, chunk = request.param
    monkeypatch.setitem(workspace.SHORT_SLICE, "accelerator", short)
    monkeypatch.setitem(workspace.CHUNK, "accelerator", chunk)


def _weights(dtype, kind, shape=(700, 3000)):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator).to(dtype)
    tuned = []
    for _ in range(3):
        delta = torch.randn(shape, generator=generator).pow_(3) * 1e-2
        if kind == "ties":
            delta = (delta * 64).round() / 64
        delta[torch.rand(shape, generator=generator) < 0.5] = 0
        tuned.append((base + delta).to(dtype))
    return base, tuned


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("kind", ["continuous", "ties"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_survivors(dtype, kind, granularity):
    """The same mask as on the CPU, to the bit, for every model and fraction."""
    base, tuned = _weights(dtype, kind)
    for finetuned in tuned:
        delta = finetuned - base
        for density, gamma in [(0.9, 0.01), (0.15, 0.006), (0.3, 0.7), (1.0, 0.0)]:
            options = {"density": density, "gamma": gamma, "granularity": granularity}
            expected = survivor_mask(delta, **options)
            assert torch.equal(survivor_mask(delta.to(GPU), **options).cpu(), expected)


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_merged(dtype, options):
    """Values differ by no more than fused steps can, one for each model."""
    base, tuned = _weights(dtype, "continuous")
    given = {"weight": [0.5, 0.3, 0.7], "density": [0.6] * 3, "gamma": [0.01] * 3}
    expected = merge_task_vectors(base, tuned, **given, **options)
    merged = merge_task_vectors(
        base.to(GPU), [tensor.to(GPU) for tensor in tuned], **given, **options
    ).cpu()
    unit = max(torch.finfo(dtype).eps, 4 * torch.finfo(torch.float32).eps)
    if dtype == torch.float64:
        unit = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(merged, expected, rtol=unit, atol=unit)


def test_small_tensors():
    """Norms and biases take another way, to the same result."""
    base, tuned = _weights(torch.bfloat16, "ties", shape=(600,))
    given = {"weight": [0.5, 0.3, 0.7], "density": [0.6] * 3, "gamma": [0.01] * 3}
    expected = merge_task_vectors(base, tuned, **given)
    on_gpu = merge_task_vectors(base.to(GPU), [t.to(GPU) for t in tuned], **given)
    torch.testing.assert_close(on_gpu.cpu(), expected, rtol=2**-7, atol=2**-10)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_chunks_are_not_waited_for(options, monkeypatch):
    """Four times as many chunks, and the host waits for the device no more often."""
    base, tuned = _weights(torch.bfloat16, "ties")
    base, tuned = base.to(GPU), [tensor.to(GPU) for tensor in tuned]
    given = {"weight": [0.5] * 3, "density": [0.6] * 3, "gamma": [0.01] * 3}
    waits = []
    for chunk in (1 << 20, 1 << 18):
        monkeypatch.setitem(workspace.CHUNK, "accelerator", chunk)
        merge_task_vectors(base, tuned, **given, **options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                merge_task_vectors(base, tuned, **given, **options)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits.append(len(caught))
    assert waits[1] <= waits[0]
    assert waits[0] > 0, "nothing was seen at all"


def test_memory():
    """Beside the output no more than a few chunks are allocated."""
    base = torch.randn(20_000, 5_000, device=GPU, dtype=torch.bfloat16)
    tuned = [base + torch.randn_like(base) for _ in range(2)]
    given = {"weight": [0.5] * 2, "density": [0.6] * 2, "gamma": [0.01] * 2}
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    merged = merge_task_vectors(base, tuned, **given)
    extra = torch.cuda.max_memory_allocated() - before - merged.nbytes
    assert extra < 32 * workspace.CHUNK["accelerator"]


@pytest.mark.usefixtures("_chunks")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_stored(dtype, options):
    """From what is stored of a weight comes what comes from all of it."""
    base, tuned = _weights(dtype, "ties")
    granularity = options.get("granularity", "tensor")
    stored = [stored_of(base, each, 0.2, granularity) for each in tuned]
    rest = {"weight": [0.5, 0.4, -0.3], "density": [0.15, 0.1, 0.19]}
    rest |= {"gamma": [0.01, 0.1, 0.0], **options}
    on_gpu = base.to(GPU)
    merged = merge_task_vectors(on_gpu, stored, **rest)
    expected = merge_task_vectors(on_gpu, [each.to(GPU) for each in tuned], **rest)
    if options.get("rescale"):  # the norm of the oracle is summed in another order
        torch.testing.assert_close(merged, expected)
    else:
        assert torch.equal(merged, expected)
