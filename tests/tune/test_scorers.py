"""What the option --score may say."""

import math
import os
import re
import sys

import pytest
from support.candidates import FolderCandidate

from mergekit_breadcrumbs.tune.command import CommandScorer
from mergekit_breadcrumbs.tune.function import FunctionScorer
from mergekit_breadcrumbs.tune.scorers import read_scorer
from mergekit_breadcrumbs.tune.scores import Repeated, Score, ScoringFailed


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    (tmp_path / "own_score.py").write_text("def f(candidate): return 0.5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_score", None)


KINDS = {
    "python score.py {model}": CommandScorer,
    "own_score.py:f {model}": CommandScorer,
    "./score.sh '{model}' | tail -1": CommandScorer,
    "own_score:f": FunctionScorer,
    " own_score.py:f ": FunctionScorer,
    "./own_score.py:f": FunctionScorer,
}


@pytest.mark.parametrize(("text", "kind"), KINDS.items(), ids=KINDS)
def test_kinds(text, kind):
    """A command has the folder's place in it; a function has a colon, and no space."""
    scorer = read_scorer(text, timeout=7)
    assert type(scorer) is kind
    assert scorer.timeout == 7


REFUSED = {
    "python score.py": "the command 'python score.py' must have {model} in it",
    "python score.py {Model}": "must have {model} in it, where the folder goes",
    "": "the command '' must have {model} in it",
    "lm_eval:gsm8k": "lm_eval:gsm8k: tasks of lm-eval begin with lm-eval:",
    "own_scor:f": "there is no module own_scor in",
    "own_score:g": "own_score has no function g",
    "evil\x1b[31m": r"the command 'evil\x1b[31m' must have {model} in it",
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items(), ids=map(repr, REFUSED))
def test_refused(text, said):
    """A sentence, before anything is merged."""
    with pytest.raises(ValueError, match=re.escape(said)):
        read_scorer(text)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"timeout": 0}, "timeout must be more than 0 seconds; got 0"),
        ({"timeout": math.nan}, "timeout must be more than 0 seconds; got nan"),
        ({"timeout": -1}, "timeout must be more than 0 seconds; got -1"),
        ({"repeats": 0}, "repeats must be at least 1; got 0"),
    ],
)
def test_numbers(numbers, said):
    """Numbers out of range are refused, and shown."""
    with pytest.raises(ValueError, match=re.escape(said)):
        read_scorer("true {model}", **numbers)


def test_lm_eval_is_not_repeated():
    """It would say the same again."""
    with pytest.raises(ValueError, match="lm-eval is not repeated"):
        read_scorer("lm-eval:gsm8k", repeats=2)


def test_repeats(tmp_path):
    """A command runs as often as it is asked to, each time within its own limit."""
    (tmp_path / "numbers").write_text("1\n3\n")
    command = "head -1 {model}/numbers && sed -i 1d {model}/numbers"
    scorer = read_scorer(command, repeats=2, timeout=10)
    assert isinstance(scorer, Repeated)
    assert scorer(FolderCandidate(tmp_path)) == {"score": Score(2.0, 1.0)}
    with pytest.raises(ScoringFailed, match="it printed no score"):
        scorer(FolderCandidate(tmp_path))
    assert os.stat("numbers").st_size == 0
