"""The same merge gives the same bits, and leaves its inputs as they were."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit import merge_methods
from support.checkpoints import finetune, load_tensors, make_base, save_tensors
from support.merging import configuration, merge
from support.tensors import DTYPES, noise

METHODS = ("breadcrumbs", "breadcrumbs_ties")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "granularity", "dtype"),
    [
        ("breadcrumbs", "tensor", torch.bfloat16),
        ("breadcrumbs_ties", "tensor", torch.float32),
        ("breadcrumbs_ties", "row", torch.bfloat16),
        ("breadcrumbs", "row", torch.float32),
    ],
)
def test_number_of_threads(
    method: str,
    granularity: str,
    dtype: torch.dtype,
    set_threads: Callable[[int], None],
) -> None:
    """Tensors of millions of elements, which torch divides among its threads."""
    base = noise(2048, 1500, seed=0).to(dtype)
    deltas = (noise(2048, 1500, seed=seed) ** 3 * 1e-2 for seed in (1, 2))
    tuned = [(base + delta).to(dtype) for delta in deltas]
    results = []
    for count in (1, 2, 4):
        set_threads(count)
        results.append(
            merge_methods.merge_tensors(
                [base, *tuned],
                method,
                base_index=0,
                parameters={
                    "weight": [0.7, 0.6],
                    "density": [0.15, 0.6],
                    "gamma": 0.006,
                    "rescale": True,
                    "normalize": True,
                    "granularity": granularity,
                },
            )
        )
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_recorded_gradients(
    method: str, dtype: torch.dtype, rescale: bool, granularity: str
) -> None:
    """Recording gradients, which takes other steps, changes no bit."""
    inputs = [noise(70, 90, seed=seed).to(dtype) for seed in range(4)]
    parameters = {
        "weight": [0.7, -0.3, 0.9],
        "density": [0.3, 0.6, 1.0],
        "gamma": 0.02,
        "lambda": 1.3,
        "normalize": True,
        "rescale": rescale,
        "granularity": granularity,
    }
    results = [
        merge_methods.merge_tensors(
            [tensor.requires_grad_(recorded) for tensor in inputs],
            method,
            base_index=0,
            parameters=parameters,
        )
        for recorded in (False, True)
    ]
    assert [result.requires_grad for result in results] == [False, True]
    assert torch.equal(*results)


def _pickled_backwards(source: Path, out_dir: Path) -> None:
    tensors = load_tensors(source)
    save_tensors(dict(reversed(tensors.items())), out_dir / "pytorch_model.bin")


def _one_file_each(source: Path, out_dir: Path) -> None:
    """The file names, by which mergekit orders its reads, in an order of their own."""
    tensors = sorted(load_tensors(source).items(), key=lambda item: item[0][::-1])
    weight_map = {}
    for index, (name, tensor) in enumerate(tensors):
        file = f"model-{index + 1:05d}-of-{len(tensors):05d}.safetensors"
        save_tensors({name: tensor}, out_dir / file)
        weight_map[name] = file
    index_file = out_dir / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


LAYOUTS = {"pickled backwards": _pickled_backwards, "one file each": _one_file_each}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
def test_order_of_files(method: str, layout: str, tmp_path: Path) -> None:
    """Which files the tensors lie in, and in what order, changes nothing."""
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    tuned = [finetune(base, tmp_path / f"tuned{i}", seed=i) for i in range(3)]
    own = {"weight": 0.4, "density": 0.5}
    shared = {"rescale": True, "normalize": True}

    def run(paths: list[Path], out: str) -> dict[str, torch.Tensor]:
        models = dict.fromkeys(paths[1:], own)
        return merge(configuration(method, paths[0], models, shared), tmp_path / out)

    expected = run([base, *tuned], "plain")
    moved = []
    for path in (base, *tuned):
        out_dir = tmp_path / f"moved-{path.name}"
        out_dir.mkdir()
        (out_dir / "config.json").write_bytes((path / "config.json").read_bytes())
        LAYOUTS[layout](path, out_dir)
        moved.append(out_dir)
    for name, paths in {
        "all": moved,
        "base": [moved[0], *tuned],
        "tuned": [base, *moved[1:]],
    }.items():
        actual = run(paths, name)
        assert [n for n in expected if not torch.equal(actual[n], expected[n])] == []


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rescale": {"rescale": True},
    "normalize": {"normalize": True},
    "rescale, normalize, lambda": {"rescale": True, "normalize": True, "lambda": 0.5},
    "everything kept": {"density": 1.0},
    "nothing kept": {"density": 0.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_inputs_are_not_modified(
    method: str, dtype: torch.dtype, granularity: str, options: dict[str, Any]
) -> None:
    """No input is written to, not even with its own values."""
    inputs = [noise(30, 20, seed=seed).to(dtype) for seed in range(4)]
    inputs[2] = inputs[2].T.contiguous().T
    copies = [tensor.clone() for tensor in inputs]
    versions = [tensor._version for tensor in inputs]
    parameters = {"weight": [0.5, -1.0, 2.0], "density": 0.6, "gamma": 0.05}
    merge_methods.merge_tensors(
        inputs,
        method,
        base_index=1,
        parameters={**parameters, "granularity": granularity, **options},
    )
    assert [tensor._version for tensor in inputs] == versions
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)
