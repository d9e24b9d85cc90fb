"""Tiny models of all architectures that transformers can make so small.

There is no list of them: every config of transformers is made with small numbers
wherever it takes one of these keys, and what cannot be made that way is left out.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

LARGEST = 2_000_000
"""Models with more parameters are left out."""

TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""Sizes of a tiny language model, by the names that most configs have for them."""

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "image_size": 28,
    "patch_size": 14,
    "num_mel_bins": 8,
    "conv_kernel": 3,
    "n_group": 1,
    "topk_group": 1,
    "n_groups": 1,
    "first_k_dense_replace": 1,
    "num_hidden_groups": 1,
    "head_dim": 8,
    "d_kv": 8,
    "v_head_dim": 8,
    "kv_channels": 8,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
    "mamba_d_head": 8,
    "sliding_window": 16,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "conv_dim": [8, 8],
    "conv_stride": [2, 2],
}
for _number, _names in {
    2: "num_hidden_layers num_attention_heads num_key_value_heads num_layers num_heads"
    " n_layer n_head n_layers n_heads num_decoder_layers num_encoder_layers"
    " encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads"
    " decoder_num_hidden_layers decoder_num_attention_heads num_experts_per_tok"
    " num_experts_per_token moe_topk moe_top_k time_step_rank expand mamba_expand"
    " num_labels num_codebooks num_frames depth ff_expansion_factor"
    " global_attn_every_n_layers num_conv_pos_embedding_groups"
    " num_feat_extract_layers",
    4: "num_experts num_local_experts n_routed_experts moe_num_experts state_size"
    " mamba_d_state mamba_n_heads qk_rope_head_dim qk_nope_head_dim rotary_dim"
    " num_conv_pos_embeddings num_position_embeddings",
    16: "hidden_size d_model n_embd embed_dim dim embedding_size embedding_dim"
    " word_embed_proj_dim projection_dim attention_hidden_size decoder_hidden_size"
    " encoder_hidden_size lru_width input_dim out_hidden_size codebook_size"
    " shared_intermediate_size",
    32: "intermediate_size d_ff ffn_dim n_inner hidden_dim encoder_ffn_dim"
    " decoder_ffn_dim ffn_hidden_size ffn_intermediate_size mlp_dim d_inner"
    " decoder_intermediate_size dense_intermediate_size intermediate_size_mlp"
    " max_source_positions max_target_positions feed_forward_size",
    64: "n_positions n_ctx max_seq_len",
    1: "n_shared_experts spatial_merge_size temporal_patch_size tubelet_size",
    28: "window_size",
}.items():
    _SIZES |= dict.fromkeys(_names.split(), _number)

_FIRST = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM")
_MAPPINGS = [
    getattr(modeling_auto, name)
    for name in sorted(dir(modeling_auto))
    if name.startswith("MODEL_FOR_") and name.endswith("_MAPPING_NAMES")
] + [modeling_auto.MODEL_MAPPING_NAMES]


def small_config(config_class: type[Any], depth: int = 0) -> Any:
    """Return a config with small numbers, and with small configs inside of it."""
    default = config_class()
    sizes: dict[str, Any] = {
        key: value
        for key, value in _SIZES.items()
        if hasattr(default, key)
        and isinstance(getattr(default, key), list | tuple) == isinstance(value, list)
    }
    for key, inner in vars(default).items():
        if isinstance(inner, transformers.PretrainedConfig) and depth < 3:
            sizes[key] = small_config(type(inner), depth + 1).to_dict()
    return config_class(**sizes)


def architectures(model_type: str) -> list[str]:
    """Return the classes of a model type, those for text first."""
    names = []
    for mapping in _MAPPINGS:
        found = mapping.get(model_type) or ()
        names += [found] if isinstance(found, str) else list(found)
    known = [name for name in dict.fromkeys(names) if hasattr(transformers, name)]
    return sorted(known, key=lambda name: not name.endswith(_FIRST))


def model_types() -> list[str]:
    """Return all model types of transformers."""
    return sorted(CONFIG_MAPPING.keys())


def make_models(model_type: str, architecture: str, root: Path) -> bool:
    """Write base, a and b of an architecture; return whether it can be made so small.

    All three are whole: transformers makes up no weight of the base.
    """
    model_class = getattr(transformers, architecture)
    try:
        config = small_config(CONFIG_MAPPING[model_type])
        with torch.device("meta"):
            model = model_class(copy.deepcopy(config))
        if sum(p.numel() for p in model.parameters()) > LARGEST:
            return False
        model_class(config).save_pretrained(root / "base")
        _, info = model_class.from_pretrained(root / "base", output_loading_info=True)
    # There is nothing that some of a thousand classes do not raise.
    except Exception:
        return False
    if info["missing_keys"] or not (root / "base" / "model.safetensors").exists():
        return False
    for name in ("a", "b"):
        _finetune(root / "base", root / name)
    return True


def _finetune(base: Path, out: Path) -> None:
    out.mkdir()
    (out / "config.json").write_bytes((base / "config.json").read_bytes())
    tensors = load_file(base / "model.safetensors")
    changed = {
        name: tensor + 0.01 * torch.randn_like(tensor)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in tensors.items()
    }
    save_file(changed, out / "model.safetensors", {"format": "pt"})


def chosen(everything: bool, part: int, parts: int) -> Iterator[tuple[str, str]]:
    """Yield model types with their architectures: the first of each, or all.

    Only the model types of this part are imported, which takes a while.
    """
    for model_type in model_types()[part::parts]:
        names = architectures(model_type)
        for name in names if everything else names[:1]:
            yield model_type, name
