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
