"""The threads that share out chunks leave nothing behind and change nothing."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mergekit_breadcrumbs.merge import merge_task_vectors
from mergekit_breadcrumbs.workspace import CHUNK, Workspace, split

CPU = torch.device("cpu")
MANY = CHUNK["merge"] + 1


def _merged(elements=MANY):
    base = torch.zeros(elements)
    tuned = torch.arange(1.0, elements + 1)
    options = {"weight": [1.0], "density": [0.5], "gamma": [0.0]}
    return merge_task_vectors(base, [tuned], **options)


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3, 12])
def test_number_of_threads_is_left_as_it_was(threads):
    """For the caller, and for a thread that starts afterwards."""
    torch.set_num_threads(threads)
    _merged()
    assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == threads


def test_no_thread_is_left_behind():
    """Neither after a merge nor after one that failed."""
    before = threading.active_count()
    _merged()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="finite"):
        merge_task_vectors(
            torch.zeros(MANY),
            [torch.full((MANY,), torch.nan)],
            weight=[1.0],
            density=[0.5],
            gamma=[0.0],
        )
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("threads", "elements", "expected"),
    [(2, MANY, 2), (2, MANY - 1, 1), (1, MANY, 1), (64, MANY, 8)],
    ids=["two", "few elements", "one", "no more than eight"],
)
def test_which_threads_work(threads, elements, expected):
    """A large tensor is worked on by as many threads as torch may use, up to eight."""
    torch.set_num_threads(threads)
    started = threading.Barrier(expected)

    def where(_):
        started.wait(timeout=60)
        return threading.get_ident(), torch.get_num_threads()

    with Workspace(CPU, elements) as workspace:
        seen = list(workspace.map(where, range(expected)))
    assert len({ident for ident, _ in seen}) == expected
    if expected > 1:
        assert {divided for _, divided in seen} == {1}


def test_first_error_stops_the_rest():
    """The caller gets it, and parts that have not begun never do."""
    torch.set_num_threads(2)
    done = []

    def work(part):
        if part == 0:
            raise RuntimeError("no luck")
        done.append(part)
        threading.Event().wait(0.01)

    with Workspace(CPU, MANY) as workspace, pytest.raises(RuntimeError, match="luck"):
        list(workspace.map(work, range(2000)))
    assert len(done) < 1000


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_the_caller(mode):
    """A merge in inference mode gives the same, as an inference tensor."""
    expected = _merged()
    with mode():
        merged = _merged()
    assert torch.equal(merged, expected)
    assert merged.is_inference() == (mode is torch.inference_mode)


def test_chunks_share_a_fixed_amount_of_memory():
    """More threads get smaller chunks; sums are rounded by chunks that never change."""
    sizes = {}
    for threads in (1, 2, 4, 8, 12):
        torch.set_num_threads(threads)
        workspace = Workspace(CPU, MANY)
        sizes[threads] = [workspace.chunk(use) for use in ("count", "merge", "norm")]
    whole = [CHUNK["count"], CHUNK["merge"], CHUNK["norm"]]
    half = [whole[0] // 2, whole[1] // 2, whole[2]]
    assert sizes == {1: whole, 2: whole, 4: whole, 8: half, 12: half}


def test_memory_is_one_threads_own():
    """Two threads never write to the same chunk's memory; one always gets its own."""
    both = threading.Barrier(2)
    torch.set_num_threads(2)

    def address(_):
        both.wait(timeout=60)
        first = workspace.memory("use", 10, torch.float32).data_ptr()
        assert workspace.memory("use", 7, torch.float32).data_ptr() == first
        assert workspace.memory("other", 10, torch.float32).data_ptr() != first
        return first

    with Workspace(CPU, MANY) as workspace:
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
