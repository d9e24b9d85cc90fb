"""The codes of problems: each is explained, used, and keeps its number."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.repository import ROOT

from mergekit_breadcrumbs.check.codes import GROUPS, Code, all_checks, explanations
from mergekit_breadcrumbs.cli import main

PACKAGE = ROOT / "mergekit_breadcrumbs"


def test_each_is_explained() -> None:
    """Every code has an explanation, in the order of the codes."""
    assert list(explanations()) == list(Code)
    assert [code.value for code in Code] == sorted(code.value for code in Code)
    assert {code.value[2] for code in Code} <= set(GROUPS)


@pytest.mark.parametrize("code", Code, ids=lambda code: code.value)
def test_explanations(code: Code) -> None:
    """An explanation says what is meant, why it matters and what to do."""
    title, text = explanations()[code]
    assert re.findall(r"^\*\*(.+?)\.\*\* \S", text, re.MULTILINE) == [
        "Meaning",
        "Why it matters",
        "What to do",
    ]
    assert not title.endswith(".")
    assert len(f"{code.value}  {title}") <= 80


def test_each_is_used() -> None:
    """No code is left over from a check that is gone."""
    source = "".join(p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py"))
    unused = [code.name for code in Code if f"Code.{code.name}" not in source]
    assert unused == []


def test_document() -> None:
    """docs/checks.md is what is made from the codes."""
    document = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    assert document == all_checks()


def test_explain() -> None:
    """A code in either case is explained, and all of them are listed."""
    result = CliRunner().invoke(main, ["explain", "bc203"])
    assert result.exit_code == 0
    assert result.stdout.startswith("BC203: an unknown parameter\n\nMeaning. Neither")
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    listed = CliRunner().invoke(main, ["explain"]).stdout.splitlines()
    assert [line[:5] for line in listed] == [code.value for code in Code]


@pytest.mark.parametrize(
    ("code", "said"),
    [("BC999", "no such code: BC999"), ("B\x1b[31m", "no such code: B\\x1b[31m")],
)
def test_no_such_code(code: str, said: str) -> None:
    """An unknown code is a usage error."""
    result = CliRunner().invoke(main, ["explain", code])
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.slow
def test_explaining_is_quick(tmp_path: Path) -> None:
    """Neither torch nor mergekit is imported for it."""
    program = (
        "import sys\nfrom mergekit_breadcrumbs.cli import main\n"
        "try: main(['explain', 'BC101'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'mergekit' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
