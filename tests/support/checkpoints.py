"""Tiny random checkpoints on disk, in the layouts that real merges read.

Everything is a function of its seed. A base is made with transformers, a fine-tuning
by changing the tensors of a base, so that the two differ as real ones do: by small
heavy-tailed deltas, rounded to the checkpoint's dtype, many of them exactly zero.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import transformers
from huggingface_hub import save_torch_state_dict
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from torch import Tensor

Architecture = Literal["llama", "mistral", "qwen3", "bert"]
FileFormat = Literal["safetensors", "bin"]

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
VOCABULARY_TENSORS = {"model.embed_tokens.weight", "lm_head.weight"}
# Small enough to cut a checkpoint of this module into several shards.
SHARDED = "16KB"


def make_base(
    out_dir: Path,
    architecture: Architecture = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    layers: int = 2,
    rows: int = 64,
    tokens: int | None = None,
    tied: bool = False,
    max_shard_size: str = "5GB",
    file_format: FileFormat = "safetensors",
) -> Path:
    """Write a randomly initialised model, its config and its tokenizer.

    `rows` is the height of the embedding, `tokens` the size of the tokenizer: the
    same by default, but a real model may have spare rows, or tokens without a row.
    """
    config = _config(architecture, layers=layers, rows=rows, tied=tied)
    config.dtype = dtype
    auto_class = (
        transformers.AutoModelForSequenceClassification
        if architecture == "bert"
        else transformers.AutoModelForCausalLM
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class.from_config(config).to(dtype)
    config.architectures = [type(model).__name__]
    config.save_pretrained(out_dir)
    tied_names = model.all_tied_weights_keys.keys()
    tensors = {k: v for k, v in model.state_dict().items() if k not in tied_names}
    _save_weights(tensors, out_dir, max_shard_size, file_format)
    make_tokenizer(rows if tokens is None else tokens).save_pretrained(out_dir)
    return out_dir


def finetune(
    base_dir: Path,
    out_dir: Path,
    *,
    seed: int,
    scale: float = 0.005,
    zeros: float = 0.25,
    added_rows: int = 0,
    added_tokens: Sequence[str] = (),
    max_shard_size: str = "5GB",
    file_format: FileFormat = "safetensors",
) -> Path:
    """Write a fine-tuning of `base_dir`, its config and its tokenizer.

    `added_rows` enlarges the embedding and the head, `added_tokens` the tokenizer;
    real fine-tunings do the one, the other, or both.
    """
    tensors = finetuned_tensors(
        load_tensors(base_dir), seed=seed, scale=scale, zeros=zeros
    )
    config = transformers.AutoConfig.from_pretrained(base_dir)
    if added_rows:
        generator = torch.Generator().manual_seed(seed)
        for name in sorted(VOCABULARY_TENSORS & tensors.keys()):
            tensor = tensors[name]
            new = 0.02 * torch.randn(added_rows, tensor.shape[1], generator=generator)
            tensors[name] = torch.cat([tensor, new.to(tensor.dtype)])
        config.vocab_size += added_rows
    config.save_pretrained(out_dir)
    _save_weights(tensors, out_dir, max_shard_size, file_format)
    vocabulary = json.loads((base_dir / "tokenizer.json").read_text())["model"]["vocab"]
    make_tokenizer(len(vocabulary), added_tokens).save_pretrained(out_dir)
    return out_dir


def finetuned_tensors(
    tensors: Mapping[str, Tensor],
    *,
    seed: int,
    scale: float = 0.005,
    zeros: float = 0.25,
) -> dict[str, Tensor]:
    """Return `tensors` with a delta added to each; a `zeros` share of it is 0.

    A delta is a normal times a log-normal: a few elements are tens of times larger
    than the typical one, which is what gamma is for.
    """
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in sorted(tensors.items()):
        if tensor.is_floating_point():
            normal, spread = torch.randn(2, *tensor.shape, generator=generator)
            changed = torch.rand(tensor.shape, generator=generator) >= zeros
            delta = scale * normal * torch.exp(spread) * changed
            tensor = (tensor.float() + delta).to(tensor.dtype)
        result[name] = tensor
    return result


def make_lora(base_dir: Path, out_dir: Path, *, seed: int, rank: int = 4) -> Path:
    """Write a PEFT LoRA adapter for `base_dir` that changes two kinds of matrix.

    The files are written directly: building a PEFT model only to save it would load
    the base, and raises deprecation warnings of transformers 5.
    """
    targets = ("q_proj", "down_proj")
    LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base_dir),
    ).save_pretrained(out_dir)
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for name, tensor in sorted(load_tensors(base_dir).items()):
        module = name.removesuffix(".weight")
        if module.endswith(targets):
            rows, columns = tensor.shape
            a = torch.randn(rank, columns, generator=generator)
            b = torch.randn(rows, rank, generator=generator)
            factors[f"base_model.model.{module}.lora_A.weight"] = 0.05 * a
            factors[f"base_model.model.{module}.lora_B.weight"] = 0.05 * b
    save_tensors(factors, out_dir / "adapter_model.safetensors")
    return out_dir


def make_tokenizer(
    tokens: int, added_tokens: Sequence[str] = ()
) -> transformers.PreTrainedTokenizerBase:
    """Return a tokenizer with a vocabulary of `tokens` words, plus `added_tokens`."""
    words = [*SPECIAL_TOKENS, *(f"word{i}" for i in range(len(SPECIAL_TOKENS), tokens))]
    vocabulary = {word: i for i, word in enumerate(words)}
    unk, bos, eos = SPECIAL_TOKENS
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token=unk)),
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
    )
    tokenizer.add_tokens(list(added_tokens))
    return tokenizer


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a checkpoint directory, or of one weights file."""
    if path.is_dir():
        files = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
        if not files:
            raise FileNotFoundError(f"no weights in {path}")
        return {k: v for file in files for k, v in load_tensors(file).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> Path:
    """Write one weights file: safetensors, or a pickled state dict, by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    else:
        torch.save(dict(tensors), path)
    return path


def _config(
    architecture: Architecture, *, layers: int, rows: int, tied: bool
) -> transformers.PretrainedConfig:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "vocab_size": rows,
        "tie_word_embeddings": tied,
    }
    if architecture == "bert":
        return transformers.BertConfig(**sizes)
    sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    sizes |= {"bos_token_id": 1, "eos_token_id": 2}
    if architecture == "llama":
        return transformers.LlamaConfig(**sizes)
    if architecture == "mistral":
        return transformers.MistralConfig(**sizes)
    return transformers.Qwen3Config(**sizes)


def _save_weights(
    tensors: Mapping[str, Tensor],
    out_dir: Path,
    max_shard_size: str,
    file_format: FileFormat,
) -> None:
    stem = "model" if file_format == "safetensors" else "pytorch_model"
    save_torch_state_dict(
        dict(tensors),
        out_dir,
        filename_pattern=f"{stem}{{suffix}}.{file_format}",
        max_shard_size=max_shard_size,
        safe_serialization=file_format == "safetensors",
    )
