"""Each check, with a config that violates just it, and all that is then said.

The configs and the texts are in the files cases_*.txt.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
import yaml
from mergekit import merge_methods
from mergekit.io import LazyTensorLoader
from mergekit.io.tasks import LoaderCache
from mergekit.merge_methods import registry
from mergekit.options import MergeOptions
from mergekit.plan import MergePlanner
from support.checked_configs import MODELS, cases, make_models, said
from support.merging import merge

from mergekit_breadcrumbs.check.run import check_text
from mergekit_breadcrumbs.check.text import summary

CASES = {
    f"{subject}: {reason}": case
    for subject in ("parameters", "structure", "models")
    for reason, case in cases(f"cases_{subject}.txt").items()
}


class TensorWasReadError(BaseException):
    """What reading a tensor raises here; no check can catch it by mistake."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that the configs name."""
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _beside_the_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names in configs are relative; and no tensor can be read."""

    def read(self: Any, key: str, *args: Any, **kwargs: Any) -> None:
        raise TensorWasReadError(key)

    monkeypatch.chdir(models)
    monkeypatch.setattr(LazyTensorLoader, "get_tensor", read)


@pytest.mark.parametrize("reason", CASES)
def test_what_is_said(reason: str) -> None:
    """A config with one thing wrong gets just the lines that belong to it."""
    assert said(CASES[reason].text) == CASES[reason].problems


def test_all_at_once() -> None:
    """The case of everything has at least one problem from each group of checks."""
    [case] = (case for reason, case in CASES.items() if "everything at once" in reason)
    wanted = ("merge_method", "unknown key", "unknown parameter", "must be in [0, 1]")
    for part in (*wanted, "not found", "dtype", "finite number"):
        assert any(part in problem for problem in case.problems), part


@pytest.mark.parametrize("reason", CASES)
def test_what_mergekit_makes_of_it(reason: str, tmp_path: Path) -> None:
    """mergekit refuses just the configs with errors, but for those marked otherwise."""
    planned = True
    try:
        merge(yaml.safe_load(CASES[reason].text), tmp_path / "out")
    except TensorWasReadError:
        pass
    except Exception:
        planned = False
    assert planned == CASES[reason].planned


def test_counts() -> None:
    """The closing line says what was looked at."""
    checked = check_text(MODELS, MergeOptions())
    assert summary(checked) == "no problems (3 models, 21 tensors, 2 layers checked)"
    assert (checked.models, checked.tensors, checked.layers) == (3, 21, 2)


def test_nothing_is_left_behind() -> None:
    """A merge after the checks finds mergekit as it was, and the config untouched."""
    loggers = [logging.getLogger(name) for name in ("mergekit", "mergekit_breadcrumbs")]
    before = [(list(lg.handlers), lg.propagate) for lg in loggers]
    loaders = dict(LoaderCache().loaders)
    config = check_text(MODELS, MergeOptions()).config
    assert config is not None
    assert config.models is not None
    assert config.modules is None
    assert LoaderCache().loaders == loaders
    assert [(list(lg.handlers), lg.propagate) for lg in loggers] == before


ODD_CONFIGS = {
    "architectures": [7, [[1]], {}, "LlamaForCausalLM", ["A", "B"]],
    "num_hidden_layers": ["2", None, 2.5, -1, [2]],
    "model_type": [7, None, "nope"],
}


@pytest.mark.parametrize("model", ["base", "code"])
@pytest.mark.parametrize(
    ("key", "value"), [(k, v) for k, values in ODD_CONFIGS.items() for v in values]
)
def test_odd_config_json(key: str, value: Any, model: str, models: Path) -> None:
    """A config.json with a value of a wrong kind is an error, never a traceback."""
    problems = _said_of_odd(key, value, model, models)
    assert any(" error " in problem for problem in problems)


@pytest.mark.parametrize("name", [7, None])
def test_architecture_with_an_odd_name(name: Any, models: Path) -> None:
    """mergekit infers an architecture that it does not know, whatever its name."""
    problems = _said_of_odd("architectures", [name], "base", models)
    assert f"0 warning BC702: No JSON architecture found for {name}" in problems
    assert not any(" error " in problem for problem in problems)


def _said_of_odd(key: str, value: Any, model: str, models: Path) -> list[str]:
    shutil.copytree(models / model, models / "odd", dirs_exist_ok=True)
    config = json.loads((models / model / "config.json").read_text())
    (models / "odd" / "config.json").write_text(json.dumps({**config, key: value}))
    return said(MODELS.replace(f": ./{model}", ": ./odd"))


def test_damaged_data_is_not_noticed(models: Path) -> None:
    """Only headers are read: numbers of any kind pass."""
    file = models / "garbage" / "model.safetensors"
    file.parent.mkdir()
    (file.parent / "config.json").write_bytes(
        (models / "code/config.json").read_bytes()
    )
    content = bytearray((models / "code" / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start:] = b"\xff" * (len(content) - start)
    file.write_bytes(content)
    assert said(MODELS.replace("code", "garbage")) == []


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "allow_crimes": ("mistral", {"allow_crimes": True}),
    "unsafe_truncate_embeddings": ("wide", {"unsafe_truncate_embeddings": True}),
    "lora_merge_cache": ("base+./lora", {"lora_merge_cache": "adapted"}),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_allow_more(name: str, models: Path) -> None:
    """What mergekit does with an option is no error with it, and one without."""
    model, options = OPTIONS[name]
    text = MODELS.replace("code", model)
    assert len(said(text)) == 1
    assert said(text, **options) == []
    assert not (models / "adapted").exists(), "an adapter was merged"


def test_architecture_that_mergekit_infers(tmp_path: Path) -> None:
    """A kind of model that mergekit has no description of is checked all the same."""
    config = transformers.OPTConfig(
        hidden_size=8,
        word_embed_proj_dim=8,
        ffn_dim=8,
        num_hidden_layers=3,
        num_attention_heads=2,
        vocab_size=16,
        max_position_embeddings=8,
    )
    for name in ("base", "math", "code"):
        transformers.OPTForCausalLM(config).save_pretrained(tmp_path / name)
    text = MODELS.replace("0.9", "[{filter: fc3, value: 0.5}, {value: 0.9}]")
    for name in ("base", "math", "code"):
        text = text.replace(f": ./{name}", f": {tmp_path / name}")
    *_, problem = said(text)
    assert problem == (
        "11 error BC215: parameters.density[0].filter: no tensor that this applies to"
        " has 'fc3' in its name (OPTForCausalLM); did you mean fc2?"
    )


def test_planner_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only mergekit's planner finds is said as a problem, too."""

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(MergePlanner, "plan_tensor", fail)
    assert said(MODELS) == [
        "0 error BC701: mergekit cannot plan this merge: no such luck"
    ]


def test_another_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where mergekit would merge with another implementation, that is an error."""
    other = merge_methods.get("ties")
    monkeypatch.setitem(registry._METHODS, "breadcrumbs", other)
    assert said(MODELS) == [
        "1 error BC202: merge_method: another implementation is in use: see"
        " mergekit-breadcrumbs status"
    ]
