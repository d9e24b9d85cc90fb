"""The README says what is so."""

import re

import torch
from mergekit import merge_methods
from support.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL).group(1)


def test_config_is_the_minimal_example():
    """The config on the first screen is the one that the example tests run."""
    minimal = ROOT / "examples" / "yaml" / "minimal.yml"
    assert _block("yaml") == minimal.read_text(encoding="utf-8")


def test_parameter_table_is_the_spec():
    """Every parameter is in the table, with its scope and its default."""
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \| (\S+) \|", README, re.MULTILINE)
    spec = merge_methods.get("breadcrumbs").spec
    expected = [
        (
            parameter.name,
            "yes" if parameter.scope.value == "non_base" else "no",
            "required" if parameter.required else str(parameter.default).lower(),
        )
        for parameter in spec.parameters
    ]
    assert rows == expected


def test_python_example_runs():
    """The five lines merge modules as they say."""
    generator = torch.Generator().manual_seed(0)
    base, math, code = (torch.nn.Linear(8, 8) for _ in range(3))
    for module in (base, math, code):
        for weight in module.state_dict().values():
            weight.normal_(generator=generator)
    names = {"base": base, "math": math, "code": code}
    exec(_block("python"), names)
    assert names["merged"].keys() == base.state_dict().keys()
    assert not torch.equal(names["merged"]["weight"], base.weight)


def test_files_that_it_names_exist():
    """No link and no command leads nowhere."""
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    scripts = re.findall(r"`python (\S+\.py)`", README)
    assert links
    assert scripts
    for name in (*links, *scripts):
        assert (ROOT / name).exists(), name
