"""Tiny checkpoints in place of the hub models and files that the examples name.

Each differs from its base as the real one does, as far as a merge can notice: in
architecture, dtype, shards, file format, rows of the embedding, tokens.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from support import checkpoints
from support.breadcrumb_files import make_file

MISTRAL, LLAMA_3 = "mistralai/Mistral-7B-v0.1", "meta-llama/Meta-Llama-3-8B"
LLAMA_2_7B, LLAMA_2_13B = "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf"
QWEN_3, VIT = "Qwen/Qwen3-4B-Instruct-2507", "./vit-pretrained.safetensors"

BF16, F16 = {"dtype": torch.bfloat16}, {"dtype": torch.float16}
SHARDED = {"max_shard_size": checkpoints.SHARDED}
PADDED = {"added_rows": 1, "added_tokens": ["[PAD]"]}

BASES: dict[str, dict[str, Any]] = {
    MISTRAL: {"architecture": "mistral", **BF16},
    LLAMA_3: {"architecture": "llama", **BF16, **SHARDED, "layers": 5},
    LLAMA_2_7B: {"architecture": "llama", **F16},
    LLAMA_2_13B: {"architecture": "llama", **F16, **SHARDED},
    # Its embedding has spare rows, and is the head too.
    QWEN_3: {"architecture": "qwen3", **BF16, "rows": 80, "tokens": 64, "tied": True},
}
FINETUNED: dict[str, tuple[str, dict[str, Any]]] = {
    "HuggingFaceH4/zephyr-7b-beta": (MISTRAL, SHARDED),
    "Intel/neural-chat-7b-v3-1": (MISTRAL, {}),
    "mistralai/Mistral-7B-Instruct-v0.1": (MISTRAL, {}),
    "mistralai/Mistral-7B-Instruct-v0.2": (MISTRAL, SHARDED),
    "meta-math/MetaMath-Mistral-7B": (MISTRAL, {**PADDED, "file_format": "bin"}),
    "teknium/OpenHermes-2.5-Mistral-7B": (
        MISTRAL,
        {"added_rows": 2, "added_tokens": ["<|im_end|>", "<|im_start|>"]},
    ),
    "meta-llama/Meta-Llama-3-8B-Instruct": (LLAMA_3, SHARDED),
    "TIGER-Lab/MAmmoTH2-8B-Plus": (LLAMA_3, {}),
    "Replete-AI/Replete-Coder-Llama3-8B": (LLAMA_3, SHARDED),
    "meta-llama/Llama-2-7b-chat-hf": (LLAMA_2_7B, {}),
    # This one has the token, but no row for it.
    "WizardLMTeam/WizardLM-13B-V1.2": (
        LLAMA_2_13B,
        {"added_tokens": ["[PAD]"], "file_format": "bin", **SHARDED},
    ),
    "vanillaOVO/WizardMath-13B-V1.0": (LLAMA_2_13B, PADDED),
    "layoric/llama-2-13b-code-alpaca": (LLAMA_2_13B, PADDED),
    "Qwen/Qwen3-4B-Thinking-2507": (QWEN_3, SHARDED),
}
ADAPTERS = {
    "LoRA-TMLR-2024/magicoder-lora-rank-64-alpha-128": LLAMA_2_7B,
    "LoRA-TMLR-2024/metamath-lora-rank-64-alpha-128": LLAMA_2_7B,
}
SPARSE = "./my-rl-tuned"
FINETUNED[SPARSE] = (MISTRAL, {"zeros": 0.9})
# Breadcrumb files: of which model, and how much they hold.
FILES = {
    "./files/zephyr": ("HuggingFaceH4/zephyr-7b-beta", 0.2),
    "./files/neural-chat": ("Intel/neural-chat-7b-v3-1", 0.2),
    "./files/instruct": ("mistralai/Mistral-7B-Instruct-v0.1", 0.2),
    "./files/sparse": (SPARSE, 1.0),
}
RAW_FINETUNED = ["./vit-cars.safetensors", "./vit-flowers.bin"]
RAW_SHAPES = [(8, 3, 4, 4), (16, 8), (8,), ()]


class StandIns:
    """The stand-ins under one directory, made on first use."""

    def __init__(self, root: Path) -> None:
        self.root = root
        known = [*BASES, *FINETUNED, *ADAPTERS, VIT, *RAW_FINETUNED, *FILES]
        self.seeds = {name: seed for seed, name in enumerate(known)}

    def path(self, name: str) -> Path:
        """Return where the stand-in for a model, an adapter or a file is."""
        if name not in self.seeds:
            pytest.fail(f"no stand-in for {name!r}: add it to a table of this module")
        path, seed = self.root / name.removeprefix("./"), self.seeds[name]
        if path.exists():
            return path
        if name in BASES:
            return checkpoints.make_base(path, seed=seed, **BASES[name])
        if name in FINETUNED:
            base, options = FINETUNED[name]
            return checkpoints.finetune(self.path(base), path, seed=seed, **options)
        if name in ADAPTERS:
            return checkpoints.make_lora(self.path(ADAPTERS[name]), path, seed=seed)
        if name in FILES:
            model, fraction = FILES[name]
            base = self.path(FINETUNED[model][0])
            path.parent.mkdir(exist_ok=True)
            make_file(base, self.path(model), path, fraction=fraction)
            return path
        if name == VIT:
            return checkpoints.save_tensors(self._raw_tensors(seed), path)
        base_tensors = checkpoints.load_tensors(self.path(VIT))
        tensors = checkpoints.finetuned_tensors(base_tensors, seed=seed)
        return checkpoints.save_tensors(tensors, path)

    def _raw_tensors(self, seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            f"weight_{len(shape)}d": torch.randn(shape, generator=generator)
            for shape in RAW_SHAPES
        }
        return tensors | {"position_ids": torch.arange(8)}

    def reference(self, reference: str) -> str:
        """Map MODEL or MODEL+ADAPTER."""
        return "+".join(str(self.path(name)) for name in reference.split("+"))
