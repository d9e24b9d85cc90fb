"""What is recommended for many models, by a merge and by a check."""

import logging

import pytest
import yaml
from support.checked_configs import said
from support.checkpoints import finetune, make_base
from support.merging import configuration, merge

from mergekit_breadcrumbs.host.parameters import MANY

SAYS = "models with density {density:g} and weights of {weight:g} change the base a lot"

# Number of models, weight of each, shared parameters, and whether something is said.
CASES = {
    "many": (MANY, 1.0, {"density": 0.9}, True),
    "density not set": (MANY, 1.0, {}, True),
    "by a negative lambda": (MANY, 1.0, {"density": 0.5, "lambda": -0.5}, True),
    "few": (MANY - 1, 1.0, {"density": 0.9}, False),
    "weights that share": (MANY, 1 / MANY, {"density": 0.9}, False),
    "a small lambda": (MANY, 1.0, {"density": 0.9, "lambda": 0.2}, False),
    "normalized": (MANY, 1.0, {"density": 0.9, "normalize": True}, False),
    "sparse": (MANY, 1.0, {"density": 0.1}, False),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and as many fine-tunings as are many."""
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "base", layers=1)
    return [base, *(finetune(base, root / f"{i}", seed=i) for i in range(MANY))]


def config_of(case, models):
    number, weight, shared, _ = CASES[case]
    parts = {path: {"weight": weight} for path in models[1 : 1 + number]}
    return configuration("breadcrumbs", models[0], parts, shared)


def expected_of(case):
    number, weight, shared, said = CASES[case]
    values = {
        "density": shared.get("density", 0.9),
        "weight": weight * abs(shared.get("lambda", 1.0)),
    }
    return [f"{number} {SAYS.format(**values)}"] if said else []


@pytest.mark.parametrize("case", CASES)
def test_said_by_a_merge(case, models, tmp_path, caplog):
    """Once, not for each tensor."""
    with caplog.at_level(logging.WARNING, "mergekit_breadcrumbs"):
        merge(config_of(case, models), tmp_path / "out")
    found = [r.getMessage() for r in caplog.records if "change the base" in r.message]
    assert [text.partition(";")[0] for text in found] == expected_of(case)


@pytest.mark.parametrize("case", CASES)
def test_said_by_a_check(case, models):
    """Once, as a warning with its code, where the density is set or could be."""
    text = yaml.safe_dump(dict(config_of(case, models)))
    found = [line for line in said(text) if "BC217" in line]
    for line, expected in zip(found, expected_of(case), strict=True):
        assert f" warning BC217: parameters.density: {expected}; density 0.1" in line
