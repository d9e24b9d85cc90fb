"""Scores from functions in Python, which are in files and modules of their own."""

import os
import re
import sys

import pytest
import torch
from support.candidates import FolderCandidate
from support.checkpoints import make_base

from mergekit_breadcrumbs.tune.function import find_function
from mergekit_breadcrumbs.tune.scores import Score, ScoringFailed

SOURCE = """
import os, sys, time
from pathlib import Path
import torch

def good(candidate):
    return 0.5

def several(candidate):
    return {"a": torch.tensor(0.5), "b": (0.25, 0.01)}

def with_folder(candidate):
    with open(os.path.join(candidate, "config.json")) as file:
        return len(file.read()) > 2 and 1.0

def with_model(candidate):
    model, tokenizer = candidate.load()
    return {"layers": model.config.num_hidden_layers, "words": len(tokenizer)}

def from_pretrained(candidate):
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(candidate)
    return model.config.num_hidden_layers

def with_sibling(candidate):
    import sibling
    return sibling.VALUE

class Scorer:
    @staticmethod
    def score(candidate):
        return 0.75

value = 7

def fails(candidate):
    raise ValueError("no data\\x1b[31m\\nat all")

def fails_deep(candidate):
    torch.ones(2, 3) @ torch.ones(2, 3)

def fails_silently(candidate):
    assert False

def ends(candidate):
    sys.exit("bye")

def gives_nan(candidate):
    return torch.nan

def gives_nothing(candidate):
    pass

def hangs(candidate):
    time.sleep(60)

def interrupted(candidate):
    raise KeyboardInterrupt
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a file, a module and a package of functions."""
    (tmp_path / "my score.py").write_text(SOURCE)
    (tmp_path / "my_score.py").write_text(SOURCE)
    (tmp_path / "pack").mkdir()
    for parent in (tmp_path, tmp_path / "pack"):
        (parent / "sibling.py").write_text("VALUE = 0.125")
    (tmp_path / "pack" / "inner.py").write_text(SOURCE)
    (tmp_path / "json.py").write_text("def f(candidate): return 9")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "needs.py").write_text("import nosuchmodule\n")
    (tmp_path / "raises.py").write_text("\n\nx = 1 / 0\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("model") / "model")


PLACES = {
    "file": "my score.py",
    "path": "./pack/inner.py",
    "module": "my_score",
    "package": "pack.inner",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_places(place, folder, model):
    """A file or a module, in the working directory or below."""
    candidate = FolderCandidate(model)
    assert find_function(f"{place}:good")(candidate) == {"score": Score(0.5)}
    assert find_function(f"{place}:with_sibling")(candidate) == {"score": Score(0.125)}
    assert find_function(f"{place}:Scorer.score")(candidate) == {"score": Score(0.75)}
    assert candidate.asked == candidate.loaded == 0


def test_results(folder, model):
    """Numbers of any kind, with names, and with errors."""
    assert find_function("my_score:several")(FolderCandidate(model)) == {
        "a": Score(0.5),
        "b": Score(0.25, 0.01),
    }


@pytest.mark.parametrize(
    ("name", "asked", "loaded", "expected"),
    [
        ("with_folder", 1, 0, {"score": Score(1.0)}),
        ("from_pretrained", 1, 0, {"score": Score(2.0)}),
        ("with_model", 0, 1, {"layers": Score(2.0), "words": Score(64.0)}),
    ],
)
def test_candidate(name, asked, loaded, expected, folder, model):
    """It is a path, and a model in memory that is written nowhere."""
    candidate = FolderCandidate(model)
    assert find_function(f"my_score:{name}")(candidate) == expected
    assert (min(candidate.asked, 1), candidate.loaded) == (asked, loaded)


def test_own_name_of_a_file(folder, model):
    """A file with the name of a module that is loaded is itself, and hides nothing."""
    module = sys.modules["json"]
    assert find_function("json.py:f")(FolderCandidate(model)) == {"score": Score(9.0)}
    assert sys.modules["json"] is module


def line_of(text):
    return SOURCE[: SOURCE.index(text)].count("\n") + 1


FAILURES = {
    "fails": rf"ValueError: no data\x1b[31m at all, in {{}} line {line_of('raise V')}",
    "fails_deep": f", in {{}} line {line_of('torch.ones(2')}",
    "fails_silently": f"AssertionError, in {{}} line {line_of('assert F')}",
    "ends": f"SystemExit: bye, in {{}} line {line_of('sys.exit')}",
    "gives_nan": "score must be a finite number; got nan",
    "gives_nothing": "score must be a number; got None",
    "hangs": "timed out after 0.2 s",
}


@pytest.mark.parametrize("place", ["my_score", "my score.py"])
@pytest.mark.parametrize(("name", "said"), FAILURES.items(), ids=FAILURES)
def test_failures(place, name, said, folder, model):
    """One line says what happened, and in which of the user's own lines."""
    scorer = find_function(f"{place}:{name}", 0.2 if name == "hangs" else None)
    with pytest.raises(ScoringFailed) as raised:
        scorer(FolderCandidate(model))
    text, said = str(raised.value), said.format(f"{place.removesuffix('.py')}.py")
    assert text.endswith(said) if said.startswith(",") else text == said
    assert text.isprintable()
    # A traceback would keep the model of a function that failed.
    assert raised.value.__context__ is None


def test_interrupt(folder, model):
    """Ctrl-C is no failure of the function."""
    with pytest.raises(KeyboardInterrupt):
        find_function("my_score:interrupted")(FolderCandidate(model))


REFUSED = {
    "function": ("my_score:god", "my_score has no function god; did you mean good?"),
    "method": (
        "my_score:Scorer.scor",
        "my_score has no function Scorer.scor; did you mean score?",
    ),
    "no function": ("my_score:value", "value of my_score is no function"),
    "module": (
        "my_scor:good",
        "there is no module my_scor in {cwd}, nor installed; did you mean my_score?",
    ),
    "module of a package": (
        "pack.iner:good",
        "there is no module iner in pack; did you mean inner?",
    ),
    "file": (
        "mi score.py:good",
        "there is no file mi score.py; did you mean my score.py?",
    ),
    "folder": ("nowhere/score.py:good", "there is no file nowhere/score.py"),
    "syntax": ("broken.py:f", "{cwd}/broken.py cannot be imported: SyntaxError: "),
    "missing import": (
        "needs:f",
        "needs cannot be imported: ModuleNotFoundError: No module named"
        " 'nosuchmodule', in needs.py line 1",
    ),
    "raises": (
        "raises.py:f",
        "{cwd}/raises.py cannot be imported: ZeroDivisionError: division by zero, in"
        " raises.py line 3",
    ),
    "exits": (
        "exits.py:f",
        "{cwd}/exits.py cannot be imported: SystemExit: 3, in exits.py line 2",
    ),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(text, said, folder):
    """What cannot be imported is named, with the nearest name that can be."""
    said = re.escape(said.format(cwd=os.getcwd()))
    with pytest.raises(ValueError, match=f"^{said}(?<=SyntaxError: )|^{said}$"):
        find_function(text)


def test_mended(folder, model):
    """A file that could not be imported is imported anew when it is mended."""
    broken = folder / "mend.py"
    broken.write_text("raise ValueError")
    with pytest.raises(ValueError, match="cannot be imported"):
        find_function("mend.py:f")
    broken.write_text("def f(candidate): return 0.5  # mended")
    assert find_function("mend.py:f")(FolderCandidate(model)) == {"score": Score(0.5)}


def test_memory_is_freed(folder, model):
    """Nothing of a failed function is kept."""
    (folder / "holds.py").write_text(
        "import torch, weakref\nclass T:\n    pass\nkept = []\n"
        "def f(candidate):\n    big = T()\n    kept.append(weakref.ref(big))\n"
        "    raise RuntimeError\n"
    )
    with pytest.raises(ScoringFailed) as raised:
        find_function("holds:f")(FolderCandidate(model))
    assert sys.modules["holds"].kept[0]() is None
    assert str(raised.value).startswith("RuntimeError, in holds.py")
    assert torch.is_grad_enabled()
