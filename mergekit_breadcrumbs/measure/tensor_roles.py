"""What a tensor does in its model, told by its name alone."""

from __future__ import annotations

import re
from enum import Enum


class Role(str, Enum):
    """What tensors are grouped by, in the order of the tables."""

    EMBEDDINGS = "embeddings"
    QUERY = "attention q"
    KEY = "attention k"
    VALUE = "attention v"
    FUSED = "attention qkv"
    OUTPUT = "attention o"
    GATE = "MLP gate"
    UP = "MLP up"
    GATE_UP = "MLP gate+up"
    DOWN = "MLP down"
    NORM = "norms"
    HEAD = "head"
    OTHER = "other"


# The first that matches decides. A name is written with a dot at either end, so that
# `.` in a pattern is the border of a part of the name.
_PATTERNS = (
    (Role.NORM, r"norm|\.ln_|\.ln\d?\."),
    # BERT's embedding of token types and GPT-2's wte and wpe included.
    (Role.EMBEDDINGS, r"embed_tokens|_embeddings?\.|\.embed_in\.|embed_positions"),
    (
        Role.EMBEDDINGS,
        r"\.wte\.|\.wpe\.|\.shared\.|\.tok_embeddings\.|patch_embed|\.embeddings\.weight",
    ),
    (Role.FUSED, r"\.c_attn\.|\.w_pack\.|\.in_proj_|query_key_value|\.\w*qkv\w*\."),
    (Role.FUSED, r"\.kv_a_proj|\.kv_b_proj|\.in_proj_qkv"),
    (Role.QUERY, r"\.q_proj\.|\.q_[ab]_proj|\.query\.|\.wq\.|\.q_lin\.|attention\.q\."),
    (Role.KEY, r"\.k_proj\.|\.key\.|\.wk\.|\.k_lin\.|attention\.k\."),
    (Role.VALUE, r"\.v_proj\.|\.value\.|\.wv\.|\.v_lin\.|attention\.v\."),
    (Role.OUTPUT, r"\.o_proj\.|attn\.(c_|out_)?proj|attention\.(wo|o|dense|out_lin)\."),
    (Role.OUTPUT, r"attn\.dense\.|attention\.output\.dense|attention\.out_proj"),
    # Experts of Mixtral and GPT-OSS, InternLM, T5, and Qwen's first, in its own way.
    (Role.UP, r"\.mlp\.w1\.|\.w3\.|\.wi_1\."),
    (Role.GATE_UP, r"gate_up_proj|\.input_linear\.|\.gate_and_up"),
    (Role.GATE, r"\.gate_proj\.|\.mlp\.w2\.|\.w1\.|\.wi_0\.|\.c_fc_0\."),
    (Role.DOWN, r"\.down_proj\.|\.fc2\.|\.c_proj\.|4h_to_h|\.output\.dense\.|\.w2\."),
    (Role.DOWN, r"\.wo\.|\.lin2\.|\.fc_out\.|\.output_linear\.|linear_fc2"),
    (Role.UP, r"\.up_proj\.|\.fc1\.|\.c_fc\.|h_to_4h|\.intermediate\.dense\.|\.wi\."),
    (Role.UP, r"\.lin1\.|\.fc_in\.|\.c_fc_1\.|linear_fc1"),
    (Role.HEAD, r"lm_head|\.embed_out\.|\.score\.|classifier|^\.output\.|\.cls\."),
    (Role.HEAD, r"qa_outputs|\.vocab_\w+\.|\.output_layer\."),
)
_COMPILED = tuple((role, re.compile(pattern)) for role, pattern in _PATTERNS)


def role_of(name: str) -> Role:
    """Return a tensor's role, whatever architecture its name is from.

    Example:
        >>> role_of("model.layers.3.self_attn.q_proj.weight").value
        'attention q'
        >>> role_of("bert.encoder.layer.0.output.dense.bias").value
        'MLP down'
    """
    bounded = f".{name.lower()}."
    return next((role for role, p in _COMPILED if p.search(bounded)), Role.OTHER)
