"""What verify concludes: which implementation made a folder, which tensors are lost."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mergekit.merge_methods import registered_methods
from support.architectures import TEXT
from support.checkpoints import finetune, load_tensors, make_base, save_tensors
from support.damage import text
from support.merged_folders import merge_folder, models, said, verified
from support.merging import configuration

from mergekit_breadcrumbs.host.repeat import other_implementation
from mergekit_breadcrumbs.verify.faults import remedy

A = {"weight": 0.7, "density": 0.8, "gamma": 0.05}
BUILT_IN_CARD = "using the [Model Breadcrumbs](https://x) merge method"


def _config(paths: Sequence[str], method: str = "breadcrumbs", **own: Any) -> Any:
    base, *tuned = map(Path, paths)
    return configuration(method, base, dict.fromkeys(tuned, A | own))


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Models in bfloat16, which the built-in method sums in bfloat16."""
    return models(tmp_path_factory.mktemp("coarse"), dtype=torch.bfloat16)


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_made_by_the_built_in(method: str, coarse: list[str], tmp_path: Path) -> None:
    """The built-in method makes other bits, and these are recognised."""
    config = _config(coarse, method)
    before = registered_methods()
    with other_implementation(method) as other:
        built_in = config | {"merge_method": other}
        folder = merge_folder(built_in, tmp_path / "out", told=config)
    found = verified(folder)
    assert registered_methods() == before
    differing = [f for f in found.faults if f.code.value == "BC901"]
    assert differing
    *_, verdict = found.faults
    assert (verdict.code.value, verdict.text) == (
        "BC902",
        f"mergekit's built-in {method} makes these tensors; in use here is"
        " mergekit-breadcrumbs",
    )
    assert len(found.faults) == len(differing) + 1
    assert remedy(found.faults).startswith("merge again with mergekit-breadcrumbs (")


def test_built_in_with_its_own_defaults(coarse: list[str], tmp_path: Path) -> None:
    """A density that the config leaves out is 1 there, and 0.9 here."""
    config = configuration(
        "breadcrumbs", Path(coarse[0]), {Path(coarse[1]): {"weight": 0.5}}
    )
    with other_implementation("breadcrumbs") as other:
        built_in = config | {"merge_method": other}
        folder = merge_folder(built_in, tmp_path / "out", told=config)
    assert said(folder)[-1].startswith("BC902 mergekit's built-in breadcrumbs makes")


def test_neither_implementation(coarse: list[str], tmp_path: Path) -> None:
    """Another weight is no matter of the implementation."""
    told, made = _config(coarse), _config(coarse, weight=0.6)
    folder = merge_folder(made, tmp_path / "out", told=told)
    assert {line[:5] for line in said(folder)} == {"BC901"}


def test_card(tmp_path: Path) -> None:
    """In float32 both make the same bits here: the card is a hint, and no fault."""
    folder = merge_folder(_config(models(tmp_path / "m")), tmp_path / "out")
    assert verified(folder).notes == []
    text("README.md", "", BUILT_IN_CARD)(folder)
    found = verified(folder)
    assert found.faults == []
    assert found.notes == [
        "The model's card (README.md) says that mergekit's built-in breadcrumbs made"
        " it. Its tensors are the same to the bit."
    ]


def test_random_method(coarse: list[str], tmp_path: Path) -> None:
    """Without its seed a random merge cannot be made again, and that is said."""
    config = _config(coarse, "dare_ties")
    folder = merge_folder(config, tmp_path / "out", random_seed=5)
    found = verified(folder)
    assert {fault.code.value for fault in found.faults} == {"BC901", "BC902"}
    assert remedy(found.faults) == "give the merge's own seed with --random-seed N"
    assert said(folder, random_seed=5) == []
    assert {line[:5] for line in said(folder, random_seed=6)} == {"BC901"}


def test_not_finite_as_merged(tmp_path: Path) -> None:
    """What a config makes infinite, by a method of mergekit's own, is a fault."""
    paths = models(tmp_path)
    for path in paths:
        file = Path(path) / "model.safetensors"
        found = load_tensors(file)
        found["model.norm.weight"][:2] = 1e6
        save_tensors(found, file)
    config = _config(paths) | {"out_dtype": "float16"}
    config["merge_method"] = "task_arithmetic"
    folder = merge_folder(config, tmp_path / "out")
    assert said(folder) == ["BC910 model.norm.weight has 2 elements not finite"]


def test_truncated_embeddings(tmp_path: Path) -> None:
    """mergekit cuts the embeddings and leaves the config as it was."""
    base = make_base(tmp_path / "base", rows=66, tokens=64)
    small = make_base(tmp_path / "small")
    config = _config([str(base), str(small)])
    folder = merge_folder(config, tmp_path / "out", unsafe_truncate_embeddings=True)
    assert said(folder, unsafe_truncate_embeddings=True) == [
        "BC915 model.embed_tokens.weight has 64 rows, but config.json says vocab_size"
        " 66",
        "BC915 lm_head.weight has 64 rows, but config.json says vocab_size 66",
    ]


def test_lost_biases(tmp_path: Path) -> None:
    """Biases that mergekit's Llama does not know are not in the merged model."""
    base = make_base(tmp_path / "base")
    names = [f"model.layers.{i}.self_attn.q_proj.bias" for i in (0, 1)]
    old = "model.layers.0.self_attn.rotary_emb.inv_freq"
    extra = {name: torch.ones(32) for name in [*names, old]}
    save_tensors(load_tensors(base) | extra, base / "model.safetensors")
    tuned = finetune(base, tmp_path / "tuned", seed=1)
    folder = merge_folder(_config([str(base), str(tuned)]), tmp_path / "out")
    # The config does not say that there are biases, so transformers loads none.
    assert said(folder) == []
    [note] = verified(folder).notes
    assert "will lack 2 tensors" in note
    assert "which transformers does not load" in note
    for model in (base, folder):
        config = json.loads((model / "config.json").read_text())
        config["attention_bias"] = True
        (model / "config.json").write_text(json.dumps(config))
    assert said(folder) == [f"BC905 {name}" for name in names]


def _mixtral() -> Any:
    config = transformers.MixtralConfig(**TEXT, num_local_experts=4)
    return transformers.MixtralForCausalLM(config)


def _olmoe() -> Any:
    config = transformers.OlmoeConfig(**TEXT, num_experts=4, num_experts_per_tok=2)
    return transformers.OlmoeForCausalLM(config)


def _gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32
    )
    return transformers.GPT2LMHeadModel(config)


def _vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    return transformers.ViTForImageClassification(config)


@pytest.mark.parametrize(
    ("make", "lost"), [(_mixtral, 0), (_olmoe, 0), (_gpt2, 0), (_vit, 32)]
)
def test_renamed_and_joined(make: Callable[[], Any], lost: int, tmp_path: Path) -> None:
    """What mergekit reads by another name, or joined, is no loss; the rest is."""
    paths = [str(tmp_path / "base"), str(tmp_path / "tuned")]
    with torch.random.fork_rng(devices=[]):
        for path in paths:
            make().save_pretrained(path)
    folder = merge_folder(_config(paths), tmp_path / "out", copy_tokenizer=False)
    found = said(folder)
    assert {line[:5] for line in found} <= {"BC905"}
    assert len(found) == lost
