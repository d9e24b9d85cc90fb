"""The README and the other documents say what is so."""

import re
import shutil
import subprocess
import sys

import pytest
import torch
from mergekit import merge_methods
from support.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_it_names_exist(document):
    """No link and no command leads nowhere."""
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!http)([^)]+)\)", text)
    scripts = re.findall(r"\b(?:python|pytest) (\w\S+\.py)", text)
    assert links or scripts
    for script in scripts:
        assert (ROOT / script).exists(), script
    for link in links:
        path, _, heading = link.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), link
        if heading:
            lines = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            assert heading in {line.lower().replace(" ", "-") for line in lines}, link


@pytest.mark.slow
def test_claims_are_those_of_the_json(tmp_path):
    """The benchmark writes the same tables from its JSON, below the introduction."""
    for name in ("claims.md", "claims.json"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    script = ROOT / "benchmarks" / "claims.py"
    command = [sys.executable, script, "--rewrite", "--out", tmp_path]
    subprocess.run(command, check=True, timeout=300)
    written, published = (
        (folder / "claims.md").read_text(encoding="utf-8")
        for folder in (tmp_path, ROOT / "docs")
    )
    assert written == published
