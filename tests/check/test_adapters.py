"""LoRA adapters: what is said of each, and what a merge really makes of it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import peft
import pytest
import torch
import transformers
import yaml
from mergekit.common import ModelReference
from mergekit.io.tasks import LoaderCache
from support.checked_configs import said
from support.checkpoints import (
    finetune,
    load_tensors,
    make_base,
    make_lora,
    save_tensors,
)
from support.merging import merge

from mergekit_breadcrumbs.host.adapter_cache import merged_folder

# PEFT warns of adapters that do not fit, and uses what transformers 5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = """\
merge_method: breadcrumbs
base_model: ./{base}
models: [{{model: {model}, parameters: {{weight: 0.5}}}}]
parameters: {{density: 0.9}}
"""
LORA: dict[str, Any] = {"r": 4, "target_modules": ["q_proj"]}
EMBEDDINGS = ["embed_tokens", "lm_head"]
TRAINED: dict[str, Any] = {
    "linear": peft.LoraConfig(r=4, target_modules="all-linear", use_rslora=True),
    "embedded": peft.LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    "whole": peft.LoraConfig(**LORA, modules_to_save=EMBEDDINGS),
    "resized": peft.LoraConfig(**LORA, modules_to_save=EMBEDDINGS),
    "dora": peft.LoraConfig(**LORA, use_dora=True),
    "pissa": peft.LoraConfig(**LORA, init_lora_weights="pissa"),
    "ia3": peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
    "biased": peft.LoraConfig(**LORA, lora_bias=True),
    "prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
}
FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, adapters for it of all kinds, and models that they do not fit."""
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "base")
    math = finetune(base, root / "math", seed=1)
    make_base(root / "deep", layers=3)
    make_base(root / "shallow", layers=1)
    make_base(root / "mistral", "mistral")
    for name, settings in TRAINED.items():
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        if name == "resized":
            model.resize_token_embeddings(66)
        settings.task_type = "CAUSAL_LM"
        peft.get_peft_model(model, settings).save_pretrained(root / name)
    lora = make_lora(base, root / "lora", seed=2)
    tensors = load_tensors(lora / FILE)
    for name in (
        "pickled",
        "old",
        "weightless",
        "cut",
        "broken",
        "strange",
        "elsewhere",
    ):
        shutil.copytree(lora, root / name)
    for name, new in (("pickled", True), ("old", False)):
        (root / name / FILE).unlink()
        file = root / name / "adapter_model.bin"
        torch.save(tensors, file, _use_new_zipfile_serialization=new)
    (root / "weightless" / FILE).unlink()
    (root / "cut" / FILE).write_bytes((lora / FILE).read_bytes()[:-9])
    (root / "broken" / "adapter_config.json").write_text("{")
    _change(root / "strange", peft_type="NOPE")
    _change(root / "elsewhere", target_modules=["c_attn"], base_model_name_or_path="")
    shutil.copytree(math, root / "both")
    shutil.copytree(lora, root / "both", dirs_exist_ok=True)
    return root


def _change(adapter: Path, **settings: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.fixture(autouse=True)
def _beside_the_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(models)
    yield
    # It belongs to the class, and the same names are merged again.
    LoaderCache().loaders.clear()


class Case(NamedTuple):
    """A base, what is merged into it, the one problem, and what mergekit does.

    That is `stops`, or `merges`, which is more than it should if there is an error.
    """

    base: str
    model: str
    problem: str
    outcome: str

    @property
    def text(self) -> str:
        return CONFIG.format(base=self.base, model=self.model)


def _fits(*adapters: str) -> dict[str, Case]:
    return {n: Case("base", f"./base+./{n}", "", "merges") for n in adapters}


def _unusable(name: str, reason: str) -> Case:
    text = (
        f"3 error BC322: models[0].model: the LoRA adapter './{name}' cannot be merged"
    )
    return Case("base", f"./base+./{name}", f"{text}: {reason}", "stops")


def _unfit(base: str, name: str, reason: str, outcome: str) -> Case:
    text = f"3 error BC321: models[0].model: the LoRA adapter './{name}' does not fit"
    return Case(base, f"./{base}+./{name}", f"{text} this model: {reason}", outcome)


AS_MODEL = "{} error BC320: {}: is a LoRA adapter: write "
WHERE = "(its adapter_config.json says"
CASES = {
    **_fits("lora", "linear", "embedded", "whole", "dora", "pissa", "ia3"),
    **_fits("pickled", "old"),
    "a model of the same shapes": Case("mistral", "./mistral+./lora", "", "merges"),
    "no weights": _unusable(
        "weightless", "it has no weights: there is no adapter_model.safetensors"
    ),
    "cut short": _unusable(
        "cut",
        "its adapter_model.safetensors cannot be read: Error while deserializing"
        " header: incomplete metadata, file not fully covered",
    ),
    "a broken config": _unusable(
        "broken",
        "its adapter_config.json cannot be used: Expecting property name enclosed in"
        " double quotes: line 1 column 2 (char 1)",
    ),
    "an unknown kind": _unusable(
        "strange", "its adapter_config.json cannot be used: KeyError: 'NOPE'"
    ),
    "biases that the model has not": _unusable(
        "biased",
        "Impossible to merge LoRA with `lora_bias=True` because the base layer has no"
        " bias.",
    ),
    "a prompt": _unusable(
        "prompt", "it is of the kind PROMPT_TUNING, which cannot be merged into a model"
    ),
    "other modules": _unfit(
        "base",
        "elsewhere",
        "Target modules {'c_attn'} not found in the base model. Please check the target"
        " modules and try again.",
        "stops",
    ),
    "resized": _unfit(
        "base",
        "resized",
        f"its model.embed_tokens.original_module.weight has the shape 66 x 32, in the"
        f" model 64 x 32 {WHERE} that it was trained on BASE)",
        "stops",
    ),
    "more layers": _unfit(
        "deep",
        "lora",
        "it lacks model.layers.2.self_attn.q_proj.lora_A.weight and 3 more: PEFT would"
        f" change nothing there {WHERE} that it was trained on BASE)",
        "merges",
    ),
    "fewer layers": _unfit(
        "shallow",
        "lora",
        "the model has no place for its model.layers.1.mlp.down_proj.lora_A.weight and"
        f" 3 more: PEFT would leave that out {WHERE} that it was trained on BASE)",
        "merges",
    ),
    "an adapter alone": Case(
        "base",
        "./lora",
        AS_MODEL.format(3, "models[0].model")
        + f"BASE+./lora, with the model that it was trained on {WHERE} 'BASE')",
        "stops",
    ),
    "the wrong way round": Case(
        "base",
        "./lora+./base",
        AS_MODEL.format(3, "models[0].model") + "./base+./lora, the model first",
        "stops",
    ),
    "beside a model": Case(
        "base",
        "./both",
        "3 warning BC323: models[0].model: the directory './both' holds a LoRA adapter"
        " as well (adapter_config.json): transformers applies it when it loads the"
        " model, mergekit does not",
        "merges",
    ),
    "a model as adapter": Case(
        "base",
        "./base+./math",
        "3 error BC313: models[0].model: no adapter_config.json in the LoRA adapter"
        " './math'",
        "stops",
    ),
}


def _outcome(text: str, out: Path, **options: Any) -> str:
    try:
        merge(yaml.safe_load(text), out, **options)
    except Exception:
        return "stops"
    return "merges"


@pytest.mark.parametrize("reason", CASES)
def test_adapters(reason: str, models: Path, tmp_path: Path) -> None:
    """Each is merged, or told of; and PEFT does with it what is said here."""
    case, options = CASES[reason], {"lora_merge_cache": str(tmp_path / "cache")}
    problem = case.problem.replace("BASE)", f"{models / 'base'})")
    problem = problem.replace("'BASE'", f"'{models / 'base'}'")
    assert said(case.text, **options) == [problem] * bool(problem)
    assert not (tmp_path / "cache").exists()
    assert _outcome(case.text, tmp_path / "out", **options) == case.outcome


def _empty(folder: Path) -> None:
    pass


def _config_alone(folder: Path) -> None:
    shutil.copy("math/config.json", folder)


def _whole(folder: Path) -> None:
    shutil.copytree("math", folder, dirs_exist_ok=True)
    os.utime(folder / "model.safetensors", (2**31, 2**31))


def _weights_alone(folder: Path) -> None:
    shutil.copy("math/model.safetensors", folder)


def _cut(folder: Path) -> None:
    _whole(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def _no_shard(folder: Path) -> None:
    _config_alone(folder)
    content = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def _earlier(folder: Path) -> None:
    _whole(folder)
    os.utime(folder / "model.safetensors", (1, 1))


def _of_another_model(folder: Path) -> None:
    _whole(folder)
    tensors = load_tensors(folder)
    del tensors["model.norm.weight"]
    save_tensors(tensors, folder / "model.safetensors")
    os.utime(folder / "model.safetensors", (2**31, 2**31))


LEFT = {
    _whole: ([], "merges"),
    _empty: (["BC324"], "stops"),
    _config_alone: (["BC324"], "stops"),
    _weights_alone: (["BC324"], "merges"),
    _cut: (["BC324"], "stops"),
    _no_shard: (["BC324"], "stops"),
    _earlier: (["BC325"], "merges"),
    _of_another_model: (["BC501"], "stops"),
}


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
def test_what_is_in_the_cache(leave: Any, tmp_path: Path) -> None:
    """mergekit takes what is in the cache for the merged model; so do the checks."""
    codes, outcome = LEFT[leave]
    text = CASES["lora"].text
    reference = ModelReference.model_validate("./base+./lora")
    folder = merged_folder(reference, str(tmp_path))
    folder.mkdir()
    leave(folder)
    options = {"lora_merge_cache": str(tmp_path)}
    problems = said(text, **options)
    assert [problem.split()[2].strip(":") for problem in problems] == codes
    assert all(str(folder) in p for p in problems if "BC32" in p)
    assert _outcome(text, tmp_path / "out", **options) == outcome
    assert [path for path in tmp_path.iterdir() if path.name != "out"] == [folder]


DTYPES = "must be one of bfloat16, float16, float32, float64; got"
OPTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a dtype": ({"lora_merge_dtype": "bfloat16"}, "", "merges"),
    "a folder to be made": ({"lora_merge_cache": "new/one"}, "", "merges"),
    "no dtype": (
        {"lora_merge_dtype": "bf16"},
        f"error BC326: models[0].model: --lora-merge-dtype {DTYPES} 'bf16'",
        "stops",
    ),
    "a dtype of integers": (
        {"lora_merge_dtype": "int64"},
        f"error BC326: models[0].model: --lora-merge-dtype {DTYPES} 'int64'",
        "stops",
    ),
    "a file": (
        {"lora_merge_cache": "base/config.json/cache"},
        "error BC326: models[0].model: --lora-merge-cache: {}/base/config.json is not"
        " a directory",
        "stops",
    ),
    "an adapter's own": (
        {"lora_merge_cache": "./lora/"},
        "warning BC327: models[0].model: --lora-merge-cache './lora/' is the directory"
        " of a model",
        "merges",
    ),
}


@pytest.mark.parametrize("reason", OPTIONS)
def test_options(reason: str, models: Path, tmp_path: Path) -> None:
    """Options of merging adapters are looked at where there is one to be merged."""
    options, problem, outcome = OPTIONS[reason]
    options = {"lora_merge_cache": str(tmp_path / "cache"), **options}
    text, plain = CASES["lora"].text, CONFIG.format(base="base", model="./math")
    expected = f"3 {problem}".replace("{}", str(models))
    assert said(text, **options) == [expected] * bool(problem)
    assert said(plain, **options) == []
    assert _outcome(text, tmp_path / "out", **options) == outcome


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory in which nothing can be made is told of."""
    monkeypatch.setattr("os.access", lambda _, mode: mode == os.R_OK)
    [problem] = said(CASES["lora"].text, lora_merge_cache=str(tmp_path))
    assert "BC326" in problem
    assert f"{tmp_path} cannot be written to" in problem
