"""What checks foresee of each architecture, and what then happens to it.

In the test run it is one architecture of every model type; with ALL_ARCHITECTURES=1 in
the environment it is all of them, which takes several minutes.
"""

import copy
import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from mergekit.architecture.auto import infer_architecture_info
from mergekit.common import ModelReference
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from support.architectures import TEXT, chosen, make_models
from support.checked_configs import said
from transformers.utils import logging

CONFIG = """\
merge_method: breadcrumbs
base_model: ./base
models:
  - {model: ./a, parameters: {weight: 0.6}}
  - {model: ./b, parameters: {weight: 0.4}}
parameters: {density: 0.7, gamma: 0.05}
dtype: float32
"""
PARTS = 8
EVERYTHING = bool(os.environ.get("ALL_ARCHITECTURES"))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")


_read_config = cache(ModelReference.config)


@pytest.fixture
def _configs_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """mergekit reads a model's config again for every tensor: a third of the time."""

    def config(model: ModelReference, trust_remote_code: bool = False) -> Any:
        return copy.deepcopy(_read_config(model, trust_remote_code))

    monkeypatch.setattr(ModelReference, "config", config)


def _forget() -> None:
    """mergekit keeps what it has read, by path, for the life of a process."""
    LoaderCache().loaders.clear()
    infer_architecture_info.cache_clear()
    _read_config.cache_clear()


def _merged(architecture: str) -> str:
    """Merge; return "whole", "lost" if transformers misses weights, or "stops"."""
    try:
        config = MergeConfiguration.model_validate(yaml.safe_load(CONFIG))
        run_merge(config, "out", MergeOptions(quiet=True, copy_tokenizer=False))
        model_class = getattr(transformers, architecture)
        _, info = model_class.from_pretrained("out", output_loading_info=True)
    # mergekit stops with anything, and transformers does at a lost buffer.
    except Exception:
        return "stops"
    return "lost" if info["missing_keys"] else "whole"


@pytest.mark.slow
@pytest.mark.usefixtures("_configs_read_once")
@pytest.mark.parametrize("part", range(PARTS))
def test_both_ways(
    part: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is refused for a lost tensor loses it; what passes merges and is whole."""
    torch.manual_seed(0)
    tried, wrong = 0, []
    for model_type, architecture in chosen(EVERYTHING, part, PARTS):
        root = tmp_path_factory.mktemp("models")
        monkeypatch.chdir(root)
        if not make_models(model_type, architecture, root):
            continue
        _forget()
        problems = said(CONFIG)
        codes = {line.split()[2].rstrip(":") for line in problems if " error " in line}
        expected = "lost" if "BC504" in codes else "stops" if codes else "whole"
        # With another error it may not come to the loss; of nothing nothing is written.
        nothing = any("100 %" in line for line in problems)
        possible = {"lost", "stops"} if len(codes) > 1 or nothing else {expected}
        _forget()
        found = _merged(architecture)
        tried += 1
        if found not in possible:
            wrong.append((architecture, found, problems))
    print(f"architectures tried: {tried}")
    assert wrong == []
    assert tried >= 25


MOE: dict[str, Any] = {
    **TEXT,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
}
GPT2 = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
RIGHT: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama, tied": ("LlamaForCausalLM", {**TEXT, "tie_word_embeddings": True}),
    "Llama, untied": ("LlamaForCausalLM", {**TEXT, "tie_word_embeddings": False}),
    "Mistral": ("MistralForCausalLM", TEXT),
    "Qwen2": ("Qwen2ForCausalLM", TEXT),
    "Qwen3": ("Qwen3ForCausalLM", TEXT),
    "Qwen3-MoE": ("Qwen3MoeForCausalLM", MOE),
    "Mixtral": ("MixtralForCausalLM", MOE),
    "OLMoE": ("OlmoeForCausalLM", MOE),
    "Gemma 2": ("Gemma2ForCausalLM", TEXT),
    "Gemma 3": ("Gemma3ForCausalLM", TEXT),
    "Phi-3": ("Phi3ForCausalLM", TEXT),
    "GPT-2": ("GPT2LMHeadModel", GPT2),
    "BERT for classification": ("BertForSequenceClassification", TEXT),
}


def _write(architecture: str, settings: dict[str, Any], pickled: bool) -> None:
    model_class = getattr(transformers, architecture)
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        model = model_class(model_class.config_class(**settings))
        if not pickled:
            model.save_pretrained(name)
            continue
        model.config.architectures = [architecture]
        model.config.save_pretrained(name)
        # Both names of a tied weight are in such a file.
        torch.save(model.state_dict(), Path(name, "pytorch_model.bin"))


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "PyTorch"])
@pytest.mark.parametrize("name", RIGHT)
def test_no_false_alarm(
    name: str, pickled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right config has no problem; where mergekit infers, it warns as before."""
    monkeypatch.chdir(tmp_path)
    _write(*RIGHT[name], pickled)
    problems = said(CONFIG)
    assert [line for line in problems if "No JSON architecture found" not in line] == []
