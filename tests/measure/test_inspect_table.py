"""The tables, summaries and findings, on reports that are made by hand."""

import io
import re

import pytest
from support.inspected import NO_CHANGE, report, tensor, usual, vector

from mergekit_breadcrumbs.measure.findings import findings
from mergekit_breadcrumbs.measure.model_names import short_names
from mergekit_breadcrumbs.measure.table import print_report
from mergekit_breadcrumbs.measure.tensor_roles import Role, role_of

Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


def printed(of, columns=None, monkeypatch=None):
    """What is printed where there is no terminal."""
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    file = io.StringIO()
    print_report(of, file)
    return file.getvalue()


def rows_of(text, title):
    """The rows of one table, by the first column."""
    after = text[text.index(title) :].split("\n\n")[0]
    return {
        cells[0]: cells[1:]
        for line in after.splitlines()
        if len(cells := re.split(r"  +| (?=[<\d-])", line.strip())) > 2
    }


def test_figures_of_a_role_are_added_up():
    """Percentages are of sums over tensors, cuts from the least to the greatest."""
    first = vector("org/math", squares=(0, 30, 10), lower=(0.001, 0.002, 1, 1), zero=50)
    second = vector(
        "org/math", counts=(0, 100, 0), squares=(0, 60, 0), lower=None, upper=None
    )
    other = vector("org/math", upper=(9.0, 9.0, 1, 0))
    text = printed(
        report(
            tensor(Q, first, layer=0),
            tensor(Q.replace("0", "1"), second, layer=1),
            tensor(DOWN, other, layer=1),
            models=("org/math",),
        )
    )
    rows = rows_of(text, "math  weight")
    assert rows["attention q"] == [
        *("200", "25.0", "4.0", "95.0", "1.0"),
        *("1.0e-3..2.0e-3", "4.0e+00", "0.0", "90.0", "10.0"),
    ]
    assert rows["MLP down"][-5:] == ["5.0e-1", "9.0e+00", "1.0", "70.0", "29.0"]
    assert rows["all"] == [
        *("300", "16.7", "5.3", "93.3", "1.3"),
        *("1.0e-3..5.0e-1", "4.0e+00..9.0e+00", "0.5", "80.0", "19.5"),
    ]
    assert "math: 93.3 % kept, holding 80.0 % of the squared norm" in text
    assert "norm 14.1, 0.082 of the base's" in text
    assert "across models" not in text, "there is only one"


def test_where_models_meet():
    """Shares of all elements, and of those that several models change."""
    one = vector("org/math"), vector("org/code")
    text = printed(
        report(
            tensor(Q, *one, overlapping=80, opposed=20, layer=0),
            tensor(DOWN, *one, overlapping=0, opposed=0, layer=1),
        )
    )
    rows = rows_of(text, "across models")
    assert rows["attention q"] == ["100", "80.0", "25.0"]
    assert rows["MLP down"] == ["100", "0.0", "-"]
    assert rows["all"] == ["200", "40.0", "25.0"]
    assert "40.0 % of the elements are changed by two or more, 25.0 %" in text


def test_parameters_and_layers_are_said():
    """A gradient shows as a range; rows and a choice of layers are mentioned."""
    text = printed(
        report(
            tensor(Q, vector("org/math", density=0.2), layer=0, granularity="row"),
            tensor(DOWN, vector("org/math", density=0.9), layer=1),
            models=("org/math",),
            layers=[0, 1],
        )
    )
    assert "weight 0.5, density 0.2..0.9, gamma 0.02, partly by row" in text
    assert "2 tensors of layers 0, 1 alone" in text


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_fits(columns, monkeypatch):
    """No line is too long, and no cell is cut short."""
    names = ("org/a-rather-long-name-of-some-model-a", "org/b")
    wide = {"lower": (1.2e-5, 3.4e-4, 1, 1), "upper": (5.6e-3, 7.8e-2, 1, 0)}
    text = printed(usual(*names, **wide), columns, monkeypatch)
    assert max(map(len, text.splitlines())) <= columns
    cut = "1e-5..3e-4" if columns < 100 else "1.2e-5..3.4e-4"
    assert text.count(cut) == 2 * 4
    sizes = re.search("role +elements +zero", text)
    assert bool(sizes) == (columns >= 100), "narrow tables leave the sizes out"
    rows = [line for line in text.splitlines() if line.startswith("attention q")]
    assert len(rows) == 3
    assert "…" not in "".join(rows)


def test_plain_when_piped(monkeypatch):
    """No colours, and 100 columns, where there is no terminal to ask."""
    monkeypatch.delenv("COLUMNS", raising=False)
    text = printed(usual())
    assert "\x1b" not in text
    assert 90 < max(map(len, text.splitlines())) <= 100
    assert text.rstrip().endswith("Nothing stands out.")


HALF = vector("org/code")
STANDS_OUT = {
    "nothing masked": (
        report(
            tensor(
                Q,
                vector(
                    "org/math",
                    counts=(0, 100, 0),
                    squares=(0, 100, 0),
                    lower=None,
                    upper=None,
                ),
                HALF,
            )
        ),
        "math: nothing is masked",
    ),
    "nothing kept": (
        report(tensor(Q, vector("org/math", counts=(98, 0, 2)), HALF)),
        "math: nothing is kept",
    ),
    "all zero": (
        report(tensor(Q, vector("org/math", **NO_CHANGE, lower=None), HALF)),
        "math: does not differ from the base",
    ),
    "another base": (
        report(tensor(Q, vector("org/math", squares=(1, 2600, 900)), HALF)),
        "math: is hardly a fine-tuning of this base. Its task vector's norm is 0.59",
    ),
    "gamma takes most": (
        report(tensor(Q, vector("org/math", squares=(1, 40, 59)), HALF)),
        "math: gamma takes 59% of the squared norm with 2.00% of the elements",
    ),
    "only zeros are small": (
        report(tensor(Q, vector("org/math", squares=(0, 70, 30), zero=20), HALF)),
        "math: what is dropped as small is all exactly zero already",
    ),
    "ties at a cut": (
        report(tensor(Q, vector("org/math", upper=(4.0, 4.0, 12, 10)), HALF)),
        f"In {Q}, 12% of the elements are as large as the upper cut",
    ),
    "a tensor that one lacks": (
        report(tensor(Q, HALF, absent=["org/math"]), tensor(DOWN, HALF, HALF)),
        f"1 tensor is not in math, and merged without: {Q}.",
    ),
}


@pytest.mark.parametrize(("of", "said"), STANDS_OUT.values(), ids=STANDS_OUT)
def test_what_stands_out(of, said):
    """Each finding in a report that deserves it and no other."""
    [sentence] = findings(of)
    assert said in sentence


QUIET = {
    "ordinary figures": usual(),
    "ties that all survive": usual(lower=(0.5, 0.5, 30, 30)),
    "ties at zero, which add nothing": usual(lower=(0.0, 0.0, 30, 10)),
    "few ties": usual(lower=(0.5, 0.5, 4, 2)),
    "just under half to gamma": usual(squares=(1, 51, 48)),
}


@pytest.mark.parametrize("of", QUIET.values(), ids=QUIET)
def test_what_does_not(of):
    """Nothing is said where there is nothing to say."""
    assert findings(of) == []


def test_many_tensors_are_not_all_named():
    """A finding names three tensors and says how many more there are."""
    names = [f"model.layers.{i}.mlp.down_proj.weight" for i in range(9)]
    of = report(*(tensor(name, HALF, absent=["org/math"]) for name in names))
    [said] = findings(of)
    assert said.startswith("9 tensors are not in math")
    assert said.endswith(f"{names[2]} and 6 more.")


NAMES = {
    "paths and hub names": (["/m/math", "org/code"], ["math", "code"]),
    "the same last part": (["/a/x/final", "/b/x/final"], ["a/x/final", "b/x/final"]),
    "adapters": (["/b/base+/l/one", "/b/base+/l/two"], ["base+one", "base+two"]),
    "a slash at the end": (["/m/math/", "/m/code"], ["math", "code"]),
    "a revision": (["org/m@v1", "org/m@v2"], ["m@v1", "m@v2"]),
    "too long": (["o/" + "a" * 40], ["a" * 14 + "…" + "a" * 13]),
    "none": ([], []),
}


@pytest.mark.parametrize(("models", "short"), NAMES.values(), ids=NAMES)
def test_names(models, short):
    """Short, and still different."""
    assert short_names(models) == dict(zip(models, short, strict=True))


def test_long_names_that_differ_in_the_middle():
    """They are cut less, so that they still differ."""
    models = [f"o/{'a' * 20}{i}{'b' * 20}" for i in range(8)]
    assert len(set(short_names(models).values())) == 8


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
