"""Whatever torch is told to do elsewhere, a merge gives the same bits."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from mergekit import merge_methods
from support.tensors import DTYPES, noise, thresholds

from mergekit_breadcrumbs.core import keys
from mergekit_breadcrumbs.core.merge import merge_task_vectors
from mergekit_breadcrumbs.core.selection import survivor_mask
from mergekit_breadcrumbs.core.thread_modes import flushes_denormals
from mergekit_breadcrumbs.core.workspace import CHUNK
from mergekit_breadcrumbs.measure.measure import measure

SetThreads = Callable[[int], None]


def _until_the_end(
    change: Callable[[Any], object], value: Any, before: Any
) -> AbstractContextManager[None]:
    @contextmanager
    def changed() -> Iterator[None]:
        change(value)
        try:
            yield
        finally:
            change(before)

    return changed()


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "device meta": lambda: _until_the_end(torch.set_default_device, "meta", None),
    **{
        f"default {dtype}": lambda dtype=dtype: _until_the_end(  # type: ignore[misc]
            torch.set_default_dtype, dtype, torch.float32
        )
        for dtype in (torch.float64, torch.float16, torch.bfloat16)
    },
    "deterministic": lambda: _until_the_end(
        torch.use_deterministic_algorithms, True, False
    ),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
}
PLACES = {"sorted": (500, 1000), "counted": (500, 100), "threads": (150, 400)}
"""Chunks and short slices, for a tensor of 770 elements."""
OPTIONS: list[dict[str, Any]] = [
    {},
    {"elect_sign": True, "normalize": True},
    {"rescale": True, "normalize": True},
    {"lambda_": 1e9},
]
GIVEN: dict[str, Any] = {"weight": [0.5, 0.7], "density": [0.3, 1], "gamma": [0.01, 0]}


def _everything(base: torch.Tensor, tuned: list[torch.Tensor]) -> list[Any]:
    """Merge, record gradients, mark survivors and measure, in every way."""
    results: list[Any] = []
    for granularity in ("tensor", "row"):
        given = {**GIVEN, "granularity": granularity}
        for options in OPTIONS:
            try:
                results.append(merge_task_vectors(base, tuned, **given, **options))
            except ValueError as error:
                results.append(str(error))
                continue
            if torch.is_inference_mode_enabled():
                continue
            recorded = base.clone().requires_grad_()
            merged = merge_task_vectors(recorded, tuned, **given, **options)
            merged.backward(base)
            results += [merged.detach(), recorded.grad]
        measured = measure(base, tuned, **given)
        results += [measured, *(vector._asdict() for vector in measured.vectors)]
        for kept in (0.3, 1.0):
            options = {"density": kept, "gamma": 0, "granularity": granularity}
            results.append(survivor_mask(tuned[0] - base, **options))
    return results


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("setting", SETTINGS)
def test_setting(
    setting: str, dtype: torch.dtype, place: str, set_threads: SetThreads
) -> None:
    """It changes nothing in any task, whatever was kept from before."""
    chunk, short = PLACES[place]
    base = noise(7, 110).to(dtype)
    tuned = [(base + noise(7, 110, seed=seed) * 0.01).to(dtype) for seed in (1, 2)]
    with thresholds(chunk=chunk, short=short):
        set_threads(2 if place == "threads" else 1)
        with SETTINGS[setting]():
            keys.non_finite_key.cache_clear()
            changed = _everything(base, tuned)
        usual = _everything(base, tuned)
        if setting == "inference mode":
            with torch.no_grad(), torch.inference_mode():
                usual = _everything(base, tuned)
    assert len(usual) == len(changed)
    for one, other in zip(usual, changed, strict=True):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_default_device_through_mergekit(method: str) -> None:
    """mergekit's library call gives the same, as with mergekit's own methods."""
    inputs = [noise(300, 200, seed=seed) for seed in range(3)]
    given: dict[str, Any] = {"base_index": 0, "parameters": {"weight": 0.5}}
    for tensors in (inputs, [tensor[0] for tensor in inputs]):
        expected = merge_methods.merge_tensors(tensors, method, **given)
        with SETTINGS["device meta"]():
            merged = merge_methods.merge_tensors(tensors, method, **given)
        assert torch.equal(merged, expected)


def _start_torchs_threads() -> None:
    torch.ones(1 << 20).mul_(2)


def _merge_something_large() -> None:
    elements = 4 * CHUNK["merge"] + 1
    given: dict[str, Any] = {"weight": [1], "density": [0.5], "gamma": [0]}
    merge_task_vectors(torch.zeros(elements), [torch.ones(elements)], **given)


def _flush() -> None:
    torch.set_flush_denormal(True)


def _keep() -> None:
    torch.set_flush_denormal(False)


STEPS: dict[str, list[Callable[[], None]]] = {
    "after the threads started": [
        _start_torchs_threads,
        _merge_something_large,
        _flush,
    ],
    "before the threads started": [_flush, _start_torchs_threads],
    "no longer": [_flush, _start_torchs_threads, _merge_something_large, _keep],
    "no longer, and again": [_flush, _start_torchs_threads, _keep, _flush],
    "again, on other threads": [_start_torchs_threads, _flush, _keep],
}
SHAPES = {"all at once": (160, 200), "without ours": (300, 400), "ours": (1100, 1000)}


def _merge_denormals(
    shape: tuple[int, int], threads: int, *steps: Callable[[], None]
) -> list[torch.Tensor]:
    """Merge numbers around the least normal one, in a new thread with torch's anew."""

    def merge_all() -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        for step in steps:
            step()
        results = []
        for dtype in (torch.bfloat16, torch.float32):
            base, *tuned = (bits.view(dtype) for bits in inputs[dtype])
            for granularity in ("tensor", "row"):
                options: dict[str, Any] = {"granularity": granularity, **given}
                merged = merge_task_vectors(base, tuned, **options)
                results.append(merged.view(torch.int16))
            if base.numel() < 1 << 20:
                base.requires_grad_()
                recorded = merge_task_vectors(base, tuned, **given).detach()
                base.requires_grad_(False)
                results.append(recorded.view(torch.int16))
        return results

    given = {"weight": [0.5] * 3, "density": [0.8] * 3, "gamma": [0.01] * 3}
    inputs: dict[torch.dtype, list[torch.Tensor]] = {}
    for dtype, integer in ((torch.bfloat16, torch.int16), (torch.float32, torch.int32)):
        values = [noise(*shape, seed=seed) * 2.0**-125 for seed in range(4)]
        inputs[dtype] = [v.to(dtype).view(integer) for v in values]
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(merge_all).result()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_flushing_denormals(
    steps: list[Callable[[], None]], shape: tuple[int, int], set_threads: SetThreads
) -> None:
    """Two threads do what the caller's thread alone would, whichever was first told."""
    set_threads(2)
    last = [step for step in steps if step in (_flush, _keep)][-1]
    expected = _merge_denormals(shape, 1, last)
    merged = _merge_denormals(shape, 2, *steps)
    differ = [(one != other).sum() for one, other in zip(expected, merged, strict=True)]
    assert not any(differ)


def test_flushing_changes_something() -> None:
    """Otherwise the test above could not fail."""
    kept = _merge_denormals((160, 200), 1, _keep)
    flushed = _merge_denormals((160, 200), 1, _flush)
    assert not any(map(torch.equal, kept, flushed))


def test_the_callers_own_way_with_denormals_is_left_alone(
    set_threads: SetThreads,
) -> None:
    """A merge neither sets nor resets it."""

    def around(step: Callable[[], None]) -> tuple[bool, bool]:
        step()
        before = flushes_denormals()
        _merge_something_large()
        return before, flushes_denormals()

    set_threads(2)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(around, _flush).result() == (True, True)
        assert pool.submit(around, _keep).result() == (False, False)
