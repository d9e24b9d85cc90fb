"""The script that merges, verifies and evaluates a recipe, on tiny twins of models."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
import transformers
from support import questions
from support.examples import EXAMPLES
from support.repository import ROOT, run, script

pytestmark = pytest.mark.slow
SCRIPT = ROOT / "examples" / "evaluate.sh"
RECIPES = [file for file in EXAMPLES if re.search(r"_\d+b$", file.stem)]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A folder with a base, its fine-tunings, and a task."""
    root = tmp_path_factory.mktemp("twins")
    base = questions.make_model(root / "base", chat=True)
    for seed in range(3):
        model = transformers.LlamaForCausalLM.from_pretrained(base)
        generator = torch.Generator().manual_seed(seed)
        for weight in model.state_dict().values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        model.save_pretrained(root / f"tuned{seed}")
        transformers.AutoTokenizer.from_pretrained(base).save_pretrained(
            root / f"tuned{seed}"
        )
    tasks = root / "tasks"
    questions.write_task(tasks, "bc_one", questions.choices(8, 1), **questions.CHOICES)
    return root


def twin_of(recipe: Path, twins: Path, folder: Path) -> Path:
    """Write a recipe about the twins, with a task of their own."""
    text = recipe.read_text()
    models = iter(f"{twins}/tuned{i}" for i in range(3))
    text = re.sub(r"(?<=- model: )\S+", lambda found: next(models), text)
    text = re.sub(r"(?<=base_model: )\S+", f"{twins}/base", text)
    text = re.sub(r"--tasks \S+", f"--tasks bc_one --include_path {twins}/tasks", text)
    # No GPU, and no vLLM.
    text = re.sub(r"--model vllm", "--model hf", text)
    text = re.sub(r",max_model_len=\d+", "", text)
    path = folder / recipe.name
    path.write_text(text)
    return path


def evaluate(*arguments):
    folder = script("lm_eval").parent
    environment = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
    }
    return run(SCRIPT, *arguments, env=os.environ | environment)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_recipe(recipe, twins, tmp_path):
    """It merges, says that all is well, and leaves the scores of the recipe's tasks."""
    own, out = twin_of(recipe, twins, tmp_path), tmp_path / "it's out"
    done = evaluate(own, out, "--limit", "4", "--batch_size", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "holds exactly what its config says" in " ".join(done.stdout.split())
    [file] = (out / "results").rglob("results_*.json")
    results = json.loads(file.read_text())
    assert 0 <= results["results"]["bc_one"]["acc,none"] <= 1
    assert results["n-samples"]["bc_one"]["effective"] == 4
    assert (out / "merged" / "mergekit_config.yml").exists()


def test_other_files_are_refused(tmp_path):
    """A config without such a command, or none at all, is an error before any merge."""
    minimal = ROOT / "examples" / "yaml" / "minimal.yml"
    done = evaluate(minimal, tmp_path / "out")
    assert done.returncode == 1
    assert "no comment of it has a command of lm_eval" in done.stderr
    assert not (tmp_path / "out").exists()
    assert evaluate(minimal).returncode == 2
