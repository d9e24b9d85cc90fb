"""Tokenizer settings: what is said of each, and what a merge really makes of it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import transformers
import yaml
from support.checked_configs import said
from support.checkpoints import finetune, make_base
from support.merging import merge
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from mergekit_breadcrumbs.check import vocabularies

CONFIG = """\
merge_method: breadcrumbs
base_model: ./{base}
models: [{{model: ./{tuned}, parameters: {{weight: 0.5}}}}]
parameters: {{density: 0.9}}
{setting}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of 64 tokens, and models whose tokenizers do not go with it."""
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "base")
    finetune(base, root / "math", seed=1)
    more = finetune(base, root / "more", seed=2, added_rows=2, added_tokens=["a", "b"])
    padded = make_base(root / "padded", rows=70, tokens=64)
    finetune(padded, root / "padded_math", seed=3)
    crowded = make_base(root / "crowded", tokens=66)
    finetune(crowded, root / "crowded_math", seed=4)
    for name in ("short", "short_math"):
        shutil.copytree(crowded, root / name)
        config = json.loads((crowded / "config.json").read_text()) | {"vocab_size": 66}
        (root / name / "config.json").write_text(json.dumps(config))
    for token in ("a", "b"):
        finetune(padded, root / f"padded_{token}", seed=6, added_tokens=[token])
    qwen = make_base(root / "qwen", "qwen3")
    finetune(qwen, root / "qwen_math", seed=5)
    _write(make_base(qwen, "qwen3"), None)
    for name, source, tokenizer in (
        ("bare", base, None),
        ("bare_math", root / "math", None),
        ("bare_more", more, None),
        ("broken", root / "math", "{"),
        ("words", base, _words({f"w{i}": i for i in range(66)})),
        ("gaps", base, _words({"<unk>": 0, "w1": 1, "w9": 9})),
    ):
        _write(Path(shutil.copytree(source, root / name)), tokenizer)
    shutil.copytree(root / "gaps", root / "gaps_math")
    for name, template in (("chatty", "{{ 1 }}"), ("chattier", "{{ 2 }}")):
        shutil.copytree(root / "math", root / name)
        (root / name / "chat_template.jinja").write_text(template)
    return root


def _write(model: Path, tokenizer: str | None) -> None:
    """Change a model's tokenizer, or take it away."""
    if tokenizer is None:
        (model / "tokenizer.json").unlink()
        (model / "tokenizer_config.json").unlink()
    else:
        (model / "tokenizer.json").write_text(tokenizer)


def _words(vocabulary: dict[str, int]) -> str:
    unknown = next(iter(vocabulary))
    return str(Tokenizer(WordLevel(vocabulary, unk_token=unknown)).to_str())


@pytest.fixture(autouse=True)
def _beside_the_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


class Case(NamedTuple):
    """A config, the problems, and how many rows a merge gives or what it raises."""

    text: str
    problems: list[str]
    outcome: str


def _cases() -> dict[str, Case]:
    """Read the cases: "== REASON [BASE MODEL]", and lines by their first character.

    "+" is the setting, "=" the outcome; the others are what is said.
    """
    content = Path(__file__).with_name("cases_tokenizers.txt").read_text("utf-8")
    found = {}
    for part in re.split(r"^== ", content, flags=re.MULTILINE)[1:]:
        title, *lines = part.strip().split("\n")
        reason, base, tuned = re.findall(r"(.+) \[(\S+) (\S+)\]", title)[0]
        assert reason not in found, f"{reason} is there twice"
        setting = "\n".join(line[2:] for line in lines if line.startswith("+ "))
        text = CONFIG.format(base=base, tuned=tuned, setting=setting)
        problems = [line for line in lines if not line.startswith(("+ ", "= "))]
        [outcome] = (line[2:] for line in lines if line.startswith("= "))
        found[reason] = Case(text, problems, outcome)
    return found


CASES = _cases()


@pytest.mark.parametrize("reason", CASES)
def test_what_is_said(reason: str) -> None:
    """A setting gets just the lines that belong to it."""
    assert said(CASES[reason].text) == CASES[reason].problems


@pytest.mark.parametrize("reason", CASES)
def test_what_mergekit_makes_of_it(reason: str, tmp_path: Path) -> None:
    """mergekit stops, or makes as many rows, as the case says."""
    raised: list[str] = []
    try:
        tensors = merge(yaml.safe_load(CASES[reason].text), tmp_path / "out")
    except Exception as error:
        raised = [kind.__name__ for kind in type(error).__mro__[:-3]]
    if raised:
        assert CASES[reason].outcome in raised
    else:
        rows = len(tensors["model.embed_tokens.weight"])
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert (CASES[reason].outcome, rows) == (str(rows), config["vocab_size"])


def test_a_source_that_may_be_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the hub may be asked, a name that it could know is not refused."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    case = CASES["a name that the hub may know"]
    assert said(case.text) == []
    assert said(case.text.replace("org/more", "unoin")) != []


def test_tokenizers_are_loaded_only_where_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tokenizer of the usual size takes a second, so none is loaded in vain."""
    loaded = []
    load = transformers.AutoTokenizer.from_pretrained

    def note(path: str, **options: object) -> object:
        loaded.append(path)
        return load(path, **options)

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", note)
    assert said(CASES["no setting"].text) == []
    assert loaded == []
    assert said(CASES["base"].text) == []
    assert sorted(loaded) == ["./base", "./math"]


def test_two_models_that_use_a_spare_row() -> None:
    """For tokens of their own, that the base knows nothing of."""
    text = CONFIG.format(base="padded", tuned="padded_a", setting="")
    assert said(text) == []
    more = "[{model: ./padded_b, parameters: {weight: 0.5}}, "
    assert said(text.replace("[", more, 1)) == [
        "3 warning BC614: models[1].model: its tokenizer gives 1 number to other"
        " tokens, such as 64 to 'a' ('b' in ./padded_b): rows of the embeddings are"
        " merged by number; tokenizer: {source: union} merges them by token"
    ]


def test_unions_of_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mergekit would take long to join the tokenizers, that is not waited for."""
    monkeypatch.setattr(vocabularies, "build_union_tokenizer", _never)
    monkeypatch.setattr(vocabularies, "_QUICKLY_ADDED", 1)
    assert said(CASES["union by default"].text) == []


def test_a_pipe_for_a_tokenizer(models: Path) -> None:
    """Nobody waits for what may never come."""
    shutil.copytree(models / "math", models / "piped")
    (models / "piped" / "tokenizer.json").unlink()
    os.mkfifo(models / "piped" / "tokenizer.json")
    text = CASES["base"].text.replace("./math", "./piped")
    [problem] = said(text)
    assert "BC310" in problem
    assert "tokenizer.json is a named pipe" in problem


_never: Callable[..., None] = pytest.fail
