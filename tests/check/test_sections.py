"""The one walk over a config, as YAML has it and as mergekit has it."""

from typing import Any

import pytest
import yaml
from mergekit.config import MergeConfiguration
from support.checked_configs import MODELS, MODULES, SLICES

from mergekit_breadcrumbs.check.sections import sections

WALKS = {
    "models": (MODELS, [(), ("models", 0), ("models", 1)]),
    "slices": (
        SLICES,
        [
            (),
            ("slices", 0),
            ("slices", 0, "sources", 0),
            ("slices", 0, "sources", 1),
            ("slices", 1),
            ("slices", 1, "sources", 0),
            ("slices", 1, "sources", 1),
        ],
    ),
    "modules": (
        MODULES,
        [(), ("modules", "default"), ("modules", "default", "models", 0)],
    ),
}


@pytest.mark.parametrize("name", WALKS)
def test_same_walk_over_both(name: str) -> None:
    """Every section, before what stands in it, of the file and of mergekit's object."""
    text, places = WALKS[name]
    data = yaml.safe_load(text)
    assert [section.place for section in sections(data)] == places
    parsed = MergeConfiguration.model_validate(data)
    assert [section.place for section in sections(parsed)] == places


ODD: dict[str, Any] = {
    "models is a word": {"models": "math"},
    "models are words": {"models": ["math", None, 3]},
    "modules is a list": {"modules": [[]], "slices": [{"sources": {}}]},
    "sections where none may be": {"models": [{"models": [{"model": "a"}]}]},
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_no_section_is_passed_over(name: str) -> None:
    """Values of a wrong kind, and sections where none may be, end no walk."""
    kinds = [section.kind for section in sections(ODD[name])]
    assert kinds in (["file"], ["file", "model"], ["file", "output slice"])


def test_an_anchor_that_leads_back_to_itself() -> None:
    """A section that holds itself is walked as deep as there are kinds, no deeper."""
    data = yaml.safe_load("slices: &a [{sources: *a, model: x}]")
    assert [section.kind for section in sections(data)] == [
        "file",
        "output slice",
        "source",
    ]


def test_levels_and_base() -> None:
    """Parameters are looked for outwards, and a slice may have a base of its own."""
    data = yaml.safe_load(SLICES)
    data["slices"][1]["base_model"] = "other"
    found = {section.place: section for section in sections(data)}
    source = found["slices", 1, "sources", 0]
    assert [level.place for level in source.levels] == [
        ("slices", 1, "sources", 0),
        ("slices", 1),
        (),
    ]
    assert source.base_model == "other"
    assert found["slices", 0, "sources", 0].base_model == "./base"
