"""The installed command `mergekit-breadcrumbs inspect`, from file to figures."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.checkpoints import finetune, load_tensors, make_base
from support.merging import configuration
from support.repository import run_script

from mergekit_breadcrumbs.measure.report import Report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base of two layers and two fine-tunings."""
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base", layers=2)
    return [base, *(finetune(base, folder / f"m{s}", seed=s) for s in (1, 2))]


def _inspect(
    models: list[Path], folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    base, *tuned = models
    weights = {model: {"weight": 0.5} for model in tuned}
    config = configuration("breadcrumbs", base, weights)
    (folder / "config.yml").write_text(yaml.safe_dump(dict(config)))
    return run_script(
        "mergekit-breadcrumbs", "inspect", "config.yml", *options, cwd=folder
    )


def test_everything_at_once(models: list[Path], tmp_path: Path) -> None:
    """A table, JSON and a picture; a bar on standard error; no model."""
    done = _inspect(models, tmp_path, "--json", "it.json", "--plot", "it.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("breadcrumbs of 2 into base: 21 tensors, 2 layers\n")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "100%" in done.stderr
    report = Report.model_validate_json((tmp_path / "it.json").read_text())
    assert len(report.tensors) == 21
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"config.yml", "it.json", "it.png"}


def test_json_alone_on_standard_output(models: list[Path], tmp_path: Path) -> None:
    """Another program can read it as it comes, and two runs say the same."""
    runs = [_inspect(models, tmp_path, "--json", "-", "--quiet") for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert json.loads(runs[0].stdout)["version"] == 1


def test_layers(models: list[Path], tmp_path: Path) -> None:
    """The last layer only."""
    done = _inspect(models, tmp_path, "--layers", "-1", "--json", "it.json")
    assert done.returncode == 0, done.stderr
    tensors = json.loads((tmp_path / "it.json").read_text())["tensors"]
    assert {tensor["layer"] for tensor in tensors} == {1}


def test_not_finite(models: list[Path], tmp_path: Path) -> None:
    """What stops the merge stops the inspection, in a sentence; nothing is written."""
    broken = tmp_path / "broken"
    shutil.copytree(models[1], broken)
    tensors = load_tensors(broken)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][0, 0] = torch.nan
    for file in broken.glob("*.safetensors*"):
        file.unlink()
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    done = _inspect([models[0], broken], tmp_path, "--quiet", "--json", "it.json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: the task vector must be finite; 1 of ")
    assert last.endswith(f"(model {broken}, tensor {name})")
    assert not (tmp_path / "it.json").exists()
