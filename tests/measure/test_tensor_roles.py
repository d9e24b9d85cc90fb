"""What tensors do in their models, by the names of many architectures."""

import pytest

from mergekit_breadcrumbs.measure.tensor_roles import Role, role_of

ROLES = {
    Role.EMBEDDINGS: "model.embed_tokens transformer.wte transformer.wpe"
    " gpt_neox.embed_in bert.embeddings.word_embeddings"
    " bert.embeddings.token_type_embeddings shared",
    Role.QUERY: "model.layers.0.self_attn.q_proj"
    " bert.encoder.layer.1.attention.self.query"
    " encoder.block.0.layer.0.SelfAttention.q",
    Role.KEY: "model.layers.0.self_attn.k_proj encoder.layer.1.attention.self.key",
    Role.VALUE: "model.layers.0.self_attn.v_proj encoder.layer.1.attention.self.value",
    Role.FUSED: "transformer.h.0.attn.c_attn model.layers.3.self_attn.qkv_proj"
    " gpt_neox.layers.2.attention.query_key_value model.layers.0.attention.wqkv",
    Role.OUTPUT: "model.layers.0.self_attn.o_proj transformer.h.0.attn.c_proj"
    " gpt_neox.layers.2.attention.dense encoder.layer.1.attention.output.dense"
    " model.layers.0.self_attn.dense model.layers.0.attention.wo"
    " model.decoder.layers.0.self_attn.out_proj",
    Role.GATE: "model.layers.0.mlp.gate_proj model.layers.0.feed_forward.w1"
    " model.layers.0.block_sparse_moe.experts.3.w1"
    " encoder.block.0.layer.1.DenseReluDense.wi_0",
    Role.UP: "model.layers.0.mlp.up_proj transformer.h.0.mlp.c_fc"
    " gpt_neox.layers.2.mlp.dense_h_to_4h encoder.layer.1.intermediate.dense"
    " model.layers.0.mlp.fc1 model.layers.0.block_sparse_moe.experts.3.w3",
    Role.GATE_UP: "model.layers.3.mlp.gate_up_proj"
    " model.layers.0.mlp.experts.gate_up_proj",
    Role.DOWN: "model.layers.0.mlp.down_proj transformer.h.0.mlp.c_proj"
    " gpt_neox.layers.2.mlp.dense_4h_to_h encoder.layer.1.output.dense"
    " model.layers.0.mlp.fc2 model.layers.0.block_sparse_moe.experts.3.w2"
    " encoder.block.0.layer.1.DenseReluDense.wo",
    Role.NORM: "model.norm model.layers.0.input_layernorm transformer.h.0.ln_1"
    " transformer.ln_f bert.embeddings.LayerNorm model.layers.0.self_attn.q_norm"
    " encoder.layer.1.attention.output.LayerNorm",
    Role.HEAD: "lm_head embed_out classifier score output cls.predictions.decoder",
    Role.OTHER: "bert.pooler.dense model.layers.0.mlp.gate"
    " model.layers.0.block_sparse_moe.gate something.else",
}


@pytest.mark.parametrize(
    ("name", "role"),
    [(n, role) for role, names in ROLES.items() for n in names.split()],
)
def test_roles(name, role):
    """Llama, Mistral, Qwen, GPT-2, NeoX, BERT, Phi, InternLM, T5, and experts."""
    assert role_of(f"{name}.weight") is role_of(f"{name}.bias") is role
