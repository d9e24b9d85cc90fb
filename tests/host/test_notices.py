"""What is said once per merge, however many tensors it has, and what is not said."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from mergekit import merge_methods
from mergekit.graph import Executor
from mergekit.options import MergeOptions
from mergekit.scripts.merge_raw_pytorch import RawPyTorchMergeConfig, plan_flat_merge
from support.checkpoints import finetune, make_base, save_tensors
from support.merging import configuration, merge

DEFAULT = (
    "density is not set: 0.9 of each task vector is kept (set density in the config to"
    " choose; 1 keeps everything)"
)
ALL_KEPT = (
    "every density is 1, so nothing is masked: this merge is plain task arithmetic"
)
INFEASIBLE = "density + gamma is"
EMBEDDINGS_DENSE = [{"filter": "embed_tokens", "value": 1.0}, {"value": 0.5}]
NONE_DENSE = [{"filter": "embed_tokens", "value": 0.5}, {"value": 1.0}]

# Parameters of each of three models and shared ones, and how what is said begins.
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[str]]] = {
    "density set": ([{}, {}, {}], {"density": 0.9}, []),
    "density not set": ([{}, {}, {}], {}, [DEFAULT]),
    "density not set for one": ([{"density": 0.5}, {}, {"density": 1}], {}, [DEFAULT]),
    "density not set for some tensors": (
        [{}, {}, {}],
        {"density": [{"filter": "mlp", "value": 0.5}]},
        [DEFAULT],
    ),
    "density set to its default": ([{}, {}, {}], {"density": 0.9, "gamma": 0.01}, []),
    "too much": (
        [{}, {"gamma": 0.5}, {"gamma": 0.75}],
        {"density": 0.75},
        [INFEASIBLE],
    ),
    "too much in one layer": (
        [{}, {}, {"gamma": [0.0, 0.5]}],
        {"density": 0.75},
        [INFEASIBLE],
    ),
    "adds up to 1": ([{}, {}, {}], {"density": 0.7, "gamma": 0.3}, []),
    "all of everything": ([{}, {}, {}], {"density": 1.0}, [ALL_KEPT]),
    "all of everything, by gradient": ([{}, {}, {}], {"density": [1, 1]}, [ALL_KEPT]),
    "all of two models": ([{"density": 1}, {"density": 1}, {}], {"density": 0.5}, []),
    "embeddings dense": ([{}, {}, {}], {"density": EMBEDDINGS_DENSE}, []),
    "all dense but the embeddings": ([{}, {}, {}], {"density": NONE_DENSE}, []),
    "dense in the first layer": ([{}, {}, {}], {"density": [1.0, 0.5]}, []),
    "not set, and too much": ([{}, {}, {}], {"gamma": 0.2}, [DEFAULT, INFEASIBLE]),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base of 39 tensors and three fine-tunings."""
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "base", layers=4)
    return [base, *(finetune(base, root / f"{i}", seed=i) for i in (1, 2, 3))]


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of this package since the last call."""
    records = [r for r in caplog.records if r.name.startswith("mergekit_breadcrumbs")]
    assert all(record.levelno == logging.WARNING for record in records)
    caplog.clear()
    return [record.getMessage() for record in records]


def _assert_said(caplog: pytest.LogCaptureFixture, expected: list[str]) -> None:
    said = _said(caplog)
    assert len(said) == len(expected), said
    assert all(map(str.startswith, said, expected)), said


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("name", CASES)
def test_once_per_merge(
    name: str,
    method: str,
    models: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each merge of a process says its own, once for all tensors and models."""
    own, shared, expected = CASES[name]
    base, *tuned = models
    parts = {p: {"weight": 0.5, **o} for p, o in zip(tuned, own, strict=True)}
    for _ in range(2):
        merge(configuration(method, base, parts, shared), tmp_path / "out")
        _assert_said(caplog, expected)


def test_place(
    models: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first model and tensor of which too much is asked are named."""
    base, a, b, _ = models
    gamma = [{"filter": "layers.2.mlp.up_proj", "value": 0.5}, {"value": 0.0}]
    parts = {a: {"weight": 1.0}, b: {"weight": 1.0, "gamma": gamma}}
    merge(
        configuration("breadcrumbs", base, parts, {"density": 0.75}), tmp_path / "out"
    )
    assert _said(caplog) == [
        "density + gamma is 1.25, more than 1, for model"
        f" {b}, tensor model.layers.2.mlp.up_proj.weight (said once): density wins,"
        " and fewer of the largest elements are dropped"
    ]


def test_several_slices(
    models: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All slices together are one merge."""
    slices = [
        {
            "sources": [
                {"model": str(path), "layer_range": [layer, layer + 1]}
                for path in models
            ],
            "parameters": own,
        }
        for layer, own in enumerate(({"density": 1}, {}, {"density": 1}, {}))
    ]
    shared = {"weight": 1.0, "gamma": 0.2}
    config = configuration("breadcrumbs", models[0], {}, shared, slices=slices)
    del config["models"]
    for _ in range(2):
        merge(config, tmp_path / "out")
        _assert_said(caplog, [DEFAULT, INFEASIBLE])


# `mergekit-pytorch` knows no layers, so no gradients.
RAW_CASES = [name for name in CASES if "layer" not in name]


@pytest.mark.parametrize("name", RAW_CASES)
def test_raw_pytorch(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`mergekit-pytorch` plans in its own way, and is one merge too."""
    own, shared, expected = CASES[name]
    paths = []
    for i in range(4):
        tensors = {n: torch.full((30,), float(i)) for n in ("embed_tokens", "mlp", "w")}
        paths.append(save_tensors(tensors, tmp_path / f"{i}.safetensors"))
    parts = {p: {"weight": 0.5, **o} for p, o in zip(paths[1:], own, strict=True)}
    config = RawPyTorchMergeConfig.model_validate(
        configuration("breadcrumbs", paths[0], parts, shared)
    )
    for _ in range(2):
        out = str(tmp_path / "out")
        Executor(plan_flat_merge(config, out, False, False, MergeOptions())).execute()
        _assert_said(caplog, expected)


IN_PYTHON: dict[str, tuple[dict[str, Any], list[str]]] = {
    "density set": ({"density": 0.9}, []),
    "density not set": ({}, [DEFAULT]),
    "too much": ({"density": [0.5, 0.75], "gamma": 0.5}, [INFEASIBLE]),
    "all of everything": ({"density": 1}, [ALL_KEPT]),
    "all of one model": ({"density": [1, 0.5]}, []),
}


@pytest.mark.parametrize("case", IN_PYTHON)
def test_library_calls(case: str, caplog: pytest.LogCaptureFixture) -> None:
    """A call is a merge."""
    parameters, expected = IN_PYTHON[case]
    parameters = {"weight": 1.0, **parameters}
    models = [{f"w{i}": torch.rand(30) for i in range(5)} for _ in range(3)]
    for _ in range(2):
        merge_methods.merge_state_dicts(
            models, "breadcrumbs", base=0, parameters=parameters
        )
        _assert_said(caplog, expected)
        tensors = [model["w0"] for model in models]
        for name in (None, "w0"):
            merge_methods.merge_tensors(
                tensors, "breadcrumbs", base_index=0, name=name, parameters=parameters
            )
            _assert_said(caplog, expected)
