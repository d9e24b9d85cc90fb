"""Stands in for the `tests/common.py` that mergekit's sdist does not carry.

Written from how mergekit's test modules call it. `test_host_suite` copies this file
into mergekit's unpacked `tests/`, where it is imported as `tests.common`.
"""

import os
import tempfile
from collections.abc import Callable

import torch
import transformers
from mergekit.architecture import get_architecture_info
from mergekit.architecture.auto import infer_architecture_info
from mergekit.config import MergeConfiguration
from mergekit.io import LazyTensorLoader
from mergekit.merge import MergeOptions, run_merge

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def make_picollama(path: str | os.PathLike[str], vocab_size: int = 64) -> str:
    """Write a random Llama, float32, input and output embeddings untied."""
    config = transformers.LlamaConfig(vocab_size=vocab_size, **SIZES)
    return _write(transformers.LlamaForCausalLM(config), path)


def make_picogranite(path: str | os.PathLike[str], vocab_size: int = 64) -> str:
    """Write a random Granite."""
    config = transformers.GraniteConfig(vocab_size=vocab_size, **SIZES)
    return _write(transformers.GraniteForCausalLM(config), path)


def make_gpt2size(path: str | os.PathLike[str], vocab_size: int = 64) -> str:
    """Write a random GPT-2 with the twelve layers of the smallest published one."""
    config = transformers.GPT2Config(
        vocab_size=vocab_size, n_positions=64, n_embd=32, n_layer=12, n_head=4
    )
    return _write(transformers.GPT2LMHeadModel(config), path)


def make_picoLlaVa(path: str | os.PathLike[str]) -> str:  # noqa: N802
    """Write a random LLaVA: a vision tower, a projector and a Llama."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            image_size=32, patch_size=8, projection_dim=32, **SIZES
        ),
        text_config=transformers.LlamaConfig(vocab_size=64, **SIZES),
        image_token_index=63,
    )
    return _write(transformers.LlavaForConditionalGeneration(config), path)


def run_and_check_merge(
    config: MergeConfiguration,
    validate: Callable[[str], None] | None = None,
    auto_arch: bool = False,
) -> None:
    """Merge to disk; every tensor must be there and finite; then ask `validate`.

    `auto_arch` takes the list of tensors from the checkpoints themselves, for models
    that mergekit has no table of.
    """
    options = MergeOptions(quiet=True)
    with tempfile.TemporaryDirectory() as out:
        run_merge(config, out_path=out, options=options)
        merged = LazyTensorLoader.from_disk(out)
        for name in merged.index.tensor_paths:
            assert torch.isfinite(merged.get_tensor(name)).all(), name
        if auto_arch:
            models = tuple(config.referenced_models())
            info = infer_architecture_info(models, config.base_model, options)
        else:
            info = get_architecture_info(config, options)
        required = {
            weight.name
            for weight in info.all_weights(transformers.AutoConfig.from_pretrained(out))
            if not weight.optional
        }
        assert required
        assert required <= set(merged.index.tensor_paths)
        if validate:
            validate(out)


def _write(model: transformers.PreTrainedModel, path: str | os.PathLike[str]) -> str:
    model.save_pretrained(path, safe_serialization=True)
    return str(path)
