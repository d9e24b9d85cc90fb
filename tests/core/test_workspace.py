"""The threads that share out chunks leave nothing behind and change nothing."""

import gc
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergekit_breadcrumbs.core.merge import merge_task_vectors
from mergekit_breadcrumbs.core.workspace import CHUNK, FEW, Workspace, split

CPU = torch.device("cpu")
MANY = FEW["long"] + 1


def _merged(elements=MANY):
    base = torch.zeros(elements)
    tuned = torch.arange(1.0, elements + 1)
    options = {"weight": [1.0], "density": [0.5], "gamma": [0.0]}
    return merge_task_vectors(base, [tuned], **options)


@pytest.mark.parametrize("threads", [1, 2, 3, 12])
def test_number_of_threads_is_left_as_it_was(threads, set_threads):
    """For the caller, and for a thread that starts afterwards."""
    set_threads(threads)
    _merged()
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == threads


@pytest.mark.slow
def test_threads_are_kept_for_the_next_tensor(set_threads):
    """After a merge and after one that failed, as many as torch may use."""
    bad = torch.full((MANY,), torch.nan)
    options = {"weight": [1.0], "density": [0.5], "gamma": [0.0]}
    for threads in (2, 3, 3, 2):
        set_threads(threads)
        with pytest.raises(ValueError, match="finite"):
            merge_task_vectors(torch.zeros(MANY), [bad], **options)
        _merged()
        gc.collect()
        deadline = time.monotonic() + 60
        while _ours() != threads and time.monotonic() < deadline:
            time.sleep(0.01)  # those of before need a moment to end
        assert _ours() == threads


def _ours():
    return sum("mergekit-breadcrumbs" in t.name for t in threading.enumerate())


def test_two_merges_at_a_time(set_threads):
    """Merges in several threads share ours, and give what each alone would."""
    set_threads(2)
    expected = _merged()
    with ThreadPoolExecutor(4) as pool:
        for merged in pool.map(lambda _: _merged(), range(12)):
            assert torch.equal(merged, expected)


@pytest.mark.parametrize(
    ("threads", "elements", "length", "expected"),
    [
        (2, MANY, None, 2),
        (2, MANY - 1, None, 1),
        (1, MANY, None, 1),
        (64, MANY, None, 8),
        (2, FEW["short"] + 4, 4, 2),
        (2, FEW["short"], 4, 1),
    ],
    ids=["two", "few", "one", "no more than eight", "short slices", "few in short"],
)
def test_which_threads_work(threads, elements, length, expected, set_threads):
    """A large tensor is worked on by as many threads as torch may use, up to eight."""
    set_threads(threads)
    started = threading.Barrier(expected)

    def where(_):
        started.wait(timeout=60)
        return threading.get_ident(), torch.get_num_threads()

    workspace = Workspace(CPU, elements, length)
    assert workspace.threads == expected
    seen = list(workspace.map(where, range(2 * expected)))
    assert len({ident for ident, _ in seen}) == expected
    if expected > 1:
        assert {divided for _, divided in seen} == {1}
    else:
        assert seen == [(threading.get_ident(), threads)] * 2


def test_first_error_stops_the_rest(set_threads):
    """The caller gets it, and parts that have not begun never do."""
    set_threads(2)
    done = []

    def work(part):
        if part == 0:
            raise RuntimeError("no luck")
        done.append(part)
        threading.Event().wait(0.01)

    with pytest.raises(RuntimeError, match="luck"):
        list(Workspace(CPU, MANY).map(work, range(2000)))
    assert len(done) < 1000


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("elements", [MANY, MANY - 1, 60])
def test_modes_of_the_caller(mode, elements, set_threads):
    """A merge in inference mode gives the same, and so does one after it."""
    set_threads(2)
    with mode():
        merged = _merged(elements)
    assert merged.is_inference() == (mode is torch.inference_mode)
    for _ in range(2):
        assert torch.equal(_merged(elements), merged)


def test_chunks_share_a_fixed_amount_of_memory(set_threads):
    """More threads get smaller chunks; sums are rounded by chunks that never change."""
    sizes = {}
    for threads in (1, 2, 4, 8, 12):
        set_threads(threads)
        workspace = Workspace(CPU, MANY)
        sizes[threads] = [workspace.chunk(use) for use in ("count", "merge", "norm")]
    whole = [CHUNK["count"], CHUNK["merge"], CHUNK["norm"]]
    half = [whole[0] // 2, whole[1] // 2, whole[2]]
    quarter = [whole[0] // 4, whole[1] // 4, whole[2]]
    assert sizes == {1: whole, 2: whole, 4: half, 8: quarter, 12: quarter}


def test_chunks_share_their_memory_among_buffers(set_threads):
    """Up to three buffers are paid for; more of them make the chunks smaller."""
    set_threads(2)
    workspace = Workspace(CPU, MANY)
    sizes = [workspace.chunk("merge", buffers) for buffers in (1, 3, 4, 9)]
    whole = CHUNK["merge"]
    assert sizes == [whole, whole, whole * 3 // 4, whole // 3]


@pytest.mark.parametrize("threads", [1, 2])
def test_one_call(threads, set_threads):
    """It is made on a thread of ours where there are any, and its error comes back."""
    set_threads(threads)
    workspace = Workspace(CPU, MANY)
    ident, total = workspace.run(lambda a, b: (threading.get_ident(), a + b), 2, 3)
    assert total == 5
    assert (ident == threading.get_ident()) == (threads == 1)
    with pytest.raises(ZeroDivisionError):
        workspace.run(lambda: 1 // 0)


def test_mapping_within_a_mapped_function(set_threads):
    """It stays on its thread, so that all threads may do it without waiting."""
    set_threads(2)
    both = threading.Barrier(2)

    def idents(_):
        both.wait(timeout=60)
        here = threading.get_ident()
        workspace = Workspace(CPU, MANY)
        inner = workspace.map(lambda _: threading.get_ident(), range(3))
        return here, {*inner, workspace.run(threading.get_ident)}

    for here, inner in Workspace(CPU, MANY).map(idents, range(2)):
        assert inner == {here}


def test_memory_is_one_threads_own(set_threads):
    """Two threads never write to the same chunk's memory; one always gets its own."""
    both = threading.Barrier(2)
    set_threads(2)

    def address(_):
        both.wait(timeout=60)
        first = workspace.memory("use", 10, torch.float32).data_ptr()
        assert workspace.memory("use", 7, torch.float32).data_ptr() == first
        assert workspace.memory("other", 10, torch.float32).data_ptr() != first
        return first

    workspace = Workspace(CPU, MANY)
    assert len(set(workspace.map(address, range(2)))) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 4), []),
        ((10, 4), [(0, 4), (4, 8), (8, 10)]),
        ((9, 4, 3), [(0, 3), (3, 6), (6, 9)]),
        ((12, 6, 3), [(0, 6), (6, 12)]),
        ((6, 1, 3), [(0, 3), (3, 6)]),
        ((0, 4, 0), []),
    ],
    ids=["nothing", "rest", "whole slices", "two slices", "at least one", "empty"],
)
def test_split(arguments, expected):
    """Parts follow on each other and hold whole slices."""
    assert list(split(*arguments)) == expected


@given(*[st.integers(1, 300)] * 3, st.integers(1, 8))
def test_split_for_threads(slices, at_most, length, threads):
    """Each thread gets as many parts as any, but for the last, and no needless one."""
    parts = list(split(slices * length, at_most, length, threads))
    starts, stops = zip(*parts, strict=True)
    assert starts == (0, *stops[:-1])
    assert stops[-1] == slices * length
    sizes = [(stop - start) // length for start, stop in parts]
    assert max(sizes) <= max(at_most // length, 1)
    assert set(sizes[:-1]) <= {sizes[0]}
    rounds = math.ceil(len(parts) / threads)
    assert rounds <= math.ceil(slices / threads / max(at_most // length, 1))
    assert sizes[0] <= math.ceil(slices / threads / rounds)


def test_many_parts_come_back_in_their_order(set_threads):
    """Also where there are more than the threads take at a time."""
    set_threads(2)
    assert list(Workspace(CPU, MANY).map(str, range(1000))) == [*map(str, range(1000))]


@pytest.mark.parametrize("error", [IndexError, KeyError, KeyboardInterrupt])
def test_an_error_comes_out_and_ends_the_work(error, set_threads):
    """Whatever it is; parts that nobody has taken yet are not begun."""
    set_threads(2)
    begun = []

    def fail(part):
        begun.append(part)
        if part == 3:
            raise error("of part 3")
        time.sleep(0.001)

    with pytest.raises(error, match="of part 3"):
        list(Workspace(CPU, MANY).map(fail, range(1000)))
    assert len(begun) < 64
