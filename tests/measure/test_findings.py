"""What is said to stand out, on reports that are made by hand."""

import pytest
from support.inspected import NO_CHANGE, report, tensor, usual, vector

from mergekit_breadcrumbs.measure.findings import findings

Q = "model.layers.0.self_attn.q_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"

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
    "gamma takes most of what changed": (
        report(
            tensor(Q, HALF, vector("org/math")),
            tensor(
                "model.layers.0.input_layernorm.weight",
                HALF,
                vector("org/math", zero=97, squares=(1, 95, 4), gamma=0.04),
            ),
            tensor("model.norm.weight", HALF, vector("org/math", zero=96)),
        ),
        "math: gamma takes most of what changed in 2 tensors, where nearly all is"
        " exactly zero: model.layers.0.input_layernorm.weight, model.norm.weight. Keep"
        " all that changed there with density: [{filter: input_layernorm, value: 1},"
        " {filter: model.norm, value: 1}, {value: 0.9}] and gamma: [{filter:"
        " input_layernorm, value: 0}, {filter: model.norm, value: 0}, {value: 0.02}].",
    ),
    "large ones add up": (
        report(tensor(Q, HALF, HALF, together={"kept": 144, "large": 64})),
        "gamma is worth setting: what it drops points the same way in several models"
        " (mean cosine 0.103, of what is kept 0.029)",
    ),
    "large ones add up in the only part": (
        report(tensor(Q, HALF, HALF, together={"kept": 100, "large": 61})),
        "gamma is worth setting",
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
    "ordinary numbers": usual(),
    "ties that all survive": usual(lower=(0.5, 0.5, 30, 30)),
    "ties at zero, which add nothing": usual(lower=(0.0, 0.0, 30, 10)),
    "gamma takes less than half of what changed": report(
        tensor(Q, HALF), tensor(DOWN, vector("org/code", zero=95))
    ),
    "gamma takes nothing of few changes": report(
        tensor(Q, HALF),
        tensor(DOWN, vector("org/code", zero=99, counts=(10, 90, 0), upper=None)),
    ),
    "large ones no more alike than the rest": report(
        tensor(Q, HALF, HALF, together={"kept": 160, "large": 64})
    ),
    "large ones hardly alike": report(
        tensor(Q, HALF, HALF, together={"kept": 140, "large": 60})
    ),
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
