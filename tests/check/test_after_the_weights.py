"""What mergekit does when all weights are written, and would stop at."""

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml
from huggingface_hub.errors import RepositoryNotFoundError
from support.checked_configs import said
from support.checkpoints import finetune, make_base, make_lora
from support.merging import merge
from support.repository import run_script

MODELS = """\
merge_method: breadcrumbs
base_model: {}
models:
  - model: {}
    parameters: {{weight: 0.5}}
  - model: {}
    parameters: {{weight: 0.5}}
parameters: {{density: 0.9}}
"""
SLICES = """\
merge_method: breadcrumbs
base_model: ./{0}
slices:
  - sources:
      - {{model: ./{0}, layer_range: [0, {1}]}}
      - {{model: ./{0}_math, layer_range: [0, {1}]}}
  - sources:
      - {{model: ./{0}, layer_range: [1, 2]}}
      - {{model: ./{0}_math, layer_range: [1, 2]}}
parameters: {{weight: 0.5, density: 0.9}}
"""
# Of PEFT with transformers 5.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")

ASKED = (
    "{} warning BC328: {}: mergekit asks the hub about this path when all weights are"
    " written, and stops there if there is no answer ({}): write {}"
)
OFFLINE = "HF_HUB_OFFLINE is set"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose paths can be written in many ways, and two architectures."""
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "base")
    math = finetune(base, root / "math", seed=1)
    make_lora(base, root / "lora", seed=2)
    for name in ("org/code", "code--2", "a/deep/code", "llama", "llama_math"):
        shutil.copytree(base if name == "llama" else math, root / name)
    finetune(make_base(root / "qwen", "qwen3"), root / "qwen_math", seed=3)
    return root


@pytest.fixture(autouse=True)
def _beside_the_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


def _merge(text: str, out: Path, **options: Any) -> set[str]:
    """Return the files that a merge leaves besides its weights."""
    try:
        merge(yaml.safe_load(text), out, **options)
    except Exception:
        assert (out / "model.safetensors").exists()
    return {path.name for path in out.iterdir()} & {"config.json", "tokenizer.json"}


WHOLE = {"config.json", "tokenizer.json"}
PATHS = {
    "as they should be": (("./base", "./math", "a/deep/code"), ()),
    "that the hub refuses as names": (("base/", "./math", "code--2"), ()),
    "of one name": (("base", "./math", "./org/code"), ((2, "base_model", "./base"),)),
    "of two names": (
        ("./base", "./math", "org/code"),
        ((6, "models[1].model", "./org/code"),),
    ),
    "of an adapter": (
        ("./base", "./math", "base@main+lora"),
        ((6, "models[1].model", "./base@main+./lora"),),
    ),
    "of two models": (
        ("base", "math", "./org/code"),
        ((2, "base_model", "./base"), (4, "models[0].model", "./math")),
    ),
}


@pytest.mark.parametrize("reason", PATHS)
def test_paths(reason: str, models: Path, tmp_path: Path) -> None:
    """A path that could be a name on the hub ends the merge when it is offline."""
    names, problems = PATHS[reason]
    text = MODELS.format(*names)
    options = {"lora_merge_cache": str(tmp_path / "cache")}
    assert said(text, **options) == [
        ASKED.format(line, place, OFFLINE, written) for line, place, written in problems
    ]
    left = {"config.json"} if problems else WHOLE
    assert _merge(text, tmp_path / "out", **options) == left
    for _, place, written in problems:
        index = {"base_model": 0, "models[0].model": 1, "models[1].model": 2}[place]
        text = text.replace(f": {names[index]}\n", f": {written}\n")
    assert said(text, **options) == []


ANSWERS = {
    "there is one": (None, ""),
    "there is none": (RepositoryNotFoundError, ""),
    "no network": (ConnectionError("no route to host"), "no route to host"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_paths_while_online(answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is asked once, with a time limit, and only if mergekit would ask."""
    error, reason = ANSWERS[answer]
    asked = []

    def repo_info(self: Any, name: str, **options: Any) -> None:
        asked.append((name, options))
        if isinstance(error, Exception):
            raise error
        if error is not None:
            raise error.__new__(error)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    problems = said(MODELS.format("base", "math", "./org/code"))
    assert asked == [("base", {"timeout": 2, "token": False})]
    why = f"the hub cannot be reached: {reason}"
    places = {"base": (2, "base_model"), "math": (4, "models[0].model")}
    expected = [ASKED.format(*p, why, f"./{name}") for name, p in places.items()]
    assert problems == (expected if reason else [])
    asked.clear()
    assert said(MODELS.format("./base", "./math", "./org/code")) == []
    assert asked == []


COUNTS = "`num_hidden_layers` (3) must be equal to the number of `layer_types` (2)"
CONFIGS = {
    "as many layers": (SLICES.format("qwen", 1), [], WHOLE),
    "more layers": (
        SLICES.format("qwen", 2),
        [
            "3 error BC329: slices: the merged model's config.json cannot be written,"
            f" which mergekit finds when all weights are written: ValueError: {COUNTS}"
        ],
        set(),
    ),
    "more layers of one type": (SLICES.format("llama", 2), [], WHOLE),
}


@pytest.mark.parametrize("reason", CONFIGS)
def test_merged_config(reason: str, tmp_path: Path) -> None:
    """What transformers refuses to save is foreseen."""
    text, problems, left = CONFIGS[reason]
    other = "3 warning BC403"  # another number of layers, which is meant here
    assert [p for p in said(text) if not p.startswith(other)] == problems
    assert _merge(text, tmp_path / "out") == left


@pytest.mark.slow
def test_the_real_command(models: Path, tmp_path: Path) -> None:
    """mergekit-yaml ends with a traceback, and leaves a model without a tokenizer."""
    config = tmp_path / "config.yml"
    config.write_text(MODELS.format("base", "./math", "./org/code"))
    done = run_script("mergekit-yaml", config, tmp_path / "out", cwd=models)
    assert done.returncode != 0
    assert "OfflineModeIsEnabled" in done.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())
    assert not (tmp_path / "out" / "tokenizer.json").exists()
