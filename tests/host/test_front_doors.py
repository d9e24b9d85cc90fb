"""One merge through every front door of mergekit: METHOD's numbers, and one result."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit import merge_methods
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from support.checkpoints import SHARDED, finetune, load_tensors, make_base, save_tensors
from support.merging import Tensors, assert_model_merged, configuration, merge
from support.ray_session import ray_session
from support.repository import run, script

METHODS = ("breadcrumbs", "breadcrumbs_ties")
PER_MODEL = {
    "weight": [0.7, -0.35, 0.5],
    "density": [0.6, 0.3, 0.9],
    "gamma": [0.02, 0.0, 0.01],
}
SHARED = {"lambda": 1.25, "normalize": True, "rescale": True}
URL = "https://arxiv.org/abs/2312.06795"
PRETTY_NAMES = {
    "breadcrumbs": "Model Breadcrumbs (mergekit-breadcrumbs)",
    "breadcrumbs_ties": "Model Breadcrumbs with TIES (mergekit-breadcrumbs)",
}


@dataclass(frozen=True)
class Family:
    """A bfloat16 base in several files, three fine-tunings in one file each."""

    base: Path
    finetuned: list[Path]
    out: Path

    def tensors(self) -> list[Tensors]:
        return [load_tensors(path) for path in (self.base, *self.finetuned)]

    def config(self, method: str, paths: Sequence[Path] = ()) -> dict[str, Any]:
        """The merge of these checkpoints, or of others in their place."""
        base, *tuned = paths or (self.base, *self.finetuned)
        own = [
            dict(zip(PER_MODEL, row, strict=True))
            for row in zip(*PER_MODEL.values(), strict=True)
        ]
        models = dict(zip(tuned, own, strict=True))
        return configuration(method, base, models, SHARED)

    def arguments(self, method: str, out: Path) -> tuple[Any, ...]:
        """What to call `run_merge` with."""
        config = MergeConfiguration.model_validate(self.config(method))
        return config, str(out), MergeOptions(quiet=True)


Door = Callable[[Family, Path], None]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    root = tmp_path_factory.mktemp("doors")
    base = make_base(root / "base", dtype=torch.bfloat16, max_shard_size=SHARDED)
    assert len(list(base.glob("*.safetensors"))) > 1
    tuned = [finetune(base, root / f"tuned{i}", seed=i) for i in (1, 2, 3)]
    return Family(base, tuned, root)


def _run(*command: str | Path, **environment: str) -> None:
    done = run(*command, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr


def _write(config: Any, path: Path) -> Path:
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def mergekit_yaml(family: Family, out: Path) -> None:
    for method in METHODS:
        config = _write(family.config(method), out / f"{method}.yml")
        _run(script("mergekit-yaml"), config, out / method)


def switched_off(family: Family, out: Path) -> None:
    config = _write(family.config(METHODS[0]), out / "config.yml")
    _run(script("mergekit-yaml"), config, out / METHODS[0], MERGEKIT_BREADCRUMBS="0")


def run_yaml_module(family: Family, out: Path) -> None:
    for method in METHODS:
        config = _write(family.config(method), out / f"{method}.yml")
        _run(sys.executable, "-m", "mergekit.scripts.run_yaml", config, out / method)


def mergekit_multi(family: Family, out: Path) -> None:
    # mergekit would take a merge named after its method for a model.
    names = {method: f"merge-{i}" for i, method in enumerate(METHODS)}
    documents = [{"name": names[m], **family.config(m)} for m in METHODS]
    path = out / "multi.yml"
    path.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    _run(script("mergekit-multi"), path, "--intermediate-dir", out)
    for method, name in names.items():
        (out / name).rename(out / method)


def mergekit_pytorch(family: Family, out: Path) -> None:
    base = save_tensors(load_tensors(family.base), out / "base.safetensors")
    tuned = [path / "model.safetensors" for path in family.finetuned]
    for method in METHODS:
        config = family.config(method, [base, *tuned])
        _run(
            script("mergekit-pytorch"),
            _write(config, out / f"{method}.yml"),
            out / method,
        )


def run_merge_here(family: Family, out: Path) -> None:
    for method in METHODS:
        merge(family.config(method), out / method)


def merge_tensors(family: Family, out: Path) -> None:
    base, *tuned = family.tensors()
    for method in METHODS:
        merged = {
            name: merge_methods.merge_tensors(
                [model[name] for model in (base, *tuned)],
                method,
                base_index=0,
                name=name,
                parameters={**PER_MODEL, **SHARED},
            )
            for name in base
        }
        save_tensors(merged, out / method / "model.safetensors")


def merge_state_dicts(family: Family, out: Path) -> None:
    names = ("base", "x", "y", "z")
    models = dict(zip(names, family.tensors(), strict=True))
    per_model = {
        key: dict(zip(names[1:], values, strict=True))
        for key, values in PER_MODEL.items()
    }
    for method in METHODS:
        merged = merge_methods.merge_state_dicts(
            models, method, base="base", parameters={**per_model, **SHARED}
        )
        save_tensors(merged, out / method / "model.safetensors")


def spawned_child(family: Family, out: Path) -> None:
    _in_child("spawn", family, out)


def forked_child(family: Family, out: Path) -> None:
    _in_child("fork", family, out)


def _in_child(start: str, family: Family, out: Path) -> None:
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(1, mp_context=context) as child:
        for method in METHODS:
            arguments = family.arguments(method, out / method)
            child.submit(run_merge, *arguments).result(timeout=300)


# Without these Ray writes a token into the home directory and reports its use.
def ray_worker(family: Family, out: Path) -> None:
    with ray_session() as ray:
        for method in METHODS:
            arguments = family.arguments(method, out / method)
            ray.get(ray.remote(run_merge).remote(*arguments), timeout=300)


# Nearly all of their time is imports on one core, so two of them run at a time.
IN_PROCESSES = [
    mergekit_yaml,
    run_yaml_module,
    mergekit_multi,
    mergekit_pytorch,
    spawned_child,
]
DOORS = [
    run_merge_here,
    merge_tensors,
    merge_state_dicts,
    *IN_PROCESSES,
    # Python 3.12 and later warn that the child of a threaded process may hang.
    pytest.param(
        forked_child,
        marks=pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    ),
    ray_worker,
]


@pytest.fixture(scope="module")
def merged(family: Family) -> Iterator[Callable[[Door], Path]]:
    """Give the directory in which a door has merged by both methods."""
    out = {}

    def through(door: Door) -> Path:
        out_dir = family.out / door.__name__
        out_dir.mkdir()
        door(family, out_dir)
        return out_dir

    def result(door: Door) -> Path:
        if door not in out:
            out[door] = started[door].result() if door in started else through(door)
        return out[door]

    with ThreadPoolExecutor(2) as pool:
        doors = (*IN_PROCESSES, switched_off)
        started = {door: pool.submit(through, door) for door in doors}
        yield result


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("door", DOORS)
def test_door(
    door: Door, method: str, family: Family, merged: Callable[[Door], Path]
) -> None:
    """What comes out is the oracle's, and bit for bit what `run_merge` gives here."""
    actual = load_tensors(merged(door) / method)
    base, *tuned = family.tensors()
    options = {"lambda_": SHARED["lambda"], "normalize": True, "rescale": True}
    assert_model_merged(
        actual, base, tuned, **PER_MODEL, **options, ties=method == METHODS[1]
    )
    here = load_tensors(merged(run_merge_here) / method)
    assert [n for n in here if not torch.equal(actual[n], here[n])] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_readme_says_who_merged(method: str, merged: Callable[[Door], Path]) -> None:
    """The model card names this implementation and links the paper."""
    card = (merged(mergekit_yaml) / method / "README.md").read_text(encoding="utf-8")
    assert f"using the [{PRETTY_NAMES[method]}]({URL}) merge method" in card


@pytest.mark.slow
def test_switched_off(merged: Callable[[Door], Path]) -> None:
    """With MERGEKIT_BREADCRUMBS=0 a child process merges with mergekit's built-in."""
    out_dir = merged(switched_off) / METHODS[0]
    card = (out_dir / "README.md").read_text(encoding="utf-8")
    assert f"using the [Model Breadcrumbs]({URL}) merge method" in card
