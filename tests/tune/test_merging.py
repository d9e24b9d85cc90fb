"""Candidates in memory and in folders are what the console script makes."""

import copy
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import yaml
from mergekit import plan
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache, TensorWriterTask
from mergekit.options import MergeOptions
from support.breadcrumb_files import make_file
from support.checkpoints import (
    SHARDED,
    finetune,
    load_tensors,
    make_base,
    make_lora,
    make_tokenizer,
)
from support.merged_folders import verified

from mergekit_breadcrumbs.host.in_memory import Inputs
from mergekit_breadcrumbs.tune.loading import make_model
from mergekit_breadcrumbs.tune.merging import MergedCandidate, MergeFailed, Merger

# What `mergekit-yaml` runs, each time in a new process, without its imports each time.
CONSOLE_SCRIPT = """
import os, sys
from mergekit.scripts.run_yaml import main
for line in sys.stdin.read().splitlines():
    process = os.fork()
    if not process:
        try:
            main([*line.split(chr(9)), "--quiet"])
        except SystemExit as done:
            os._exit(done.code or 0)
    if os.waitpid(process, 0)[1]:
        sys.exit(line)
"""

Config = dict[str, Any]


@dataclass(frozen=True)
class Models:
    """Tiny models on disk, by what is special about them."""

    root: Path

    def __getattr__(self, name: str) -> str:
        return str(self.root / name)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "base")
    for seed, name in enumerate(("one", "two"), 1):
        finetune(base, root / name, seed=seed)
    finetune(base, root / "more", seed=3, added_rows=2, added_tokens=("<a>", "<b>"))
    old = finetune(base, root / "pickled", seed=4, file_format="bin")
    pickle = old / "pytorch_model.bin"
    # As before PyTorch 1.6: what is loaded has memory like any other tensor's.
    torch.save(load_tensors(old), pickle, _use_new_zipfile_serialization=False)
    make_lora(base, root / "adapter", seed=5)
    make_file(base, root / "one", root / "file", fraction=0.5)
    tied = make_base(root / "tied", "qwen3", dtype=torch.bfloat16, tied=True)
    finetune(tied, root / "tied_one", seed=6)
    bert = make_base(root / "bert", "bert")
    finetune(bert, root / "bert_one", seed=7)
    tokenizer = make_tokenizer(64)
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(base)
    transformers.GenerationConfig(max_new_tokens=7).save_pretrained(base)
    return Models(root)


def merging(method: str, base: str, *inputs: str, **keys: Any) -> Config:
    """The merge of some models, each with half its weight."""
    entries = [{"model": model, "parameters": {"weight": 0.5}} for model in inputs]
    return {"merge_method": method, "base_model": base, "models": entries, **keys}


def crumbs(base: str, *inputs: str, **keys: Any) -> Config:
    parameters = {"density": 0.4, "gamma": 0.05, **keys.pop("parameters", {})}
    return merging("breadcrumbs", base, *inputs, parameters=parameters, **keys)


def layers(model: str, first: int, last: int) -> Config:
    return {"sources": [{"model": model, "layer_range": [first, last]}]}


@dataclass(frozen=True)
class Case:
    """A config by the models that there are, and options of mergekit."""

    config: Callable[[Models], Config]
    options: dict[str, Any] = field(default_factory=dict)


HALF = {"density": 0.5}
BY_ROW = {"granularity": "row"}
ADAPTERS = {"lora_merge_cache": "adapters"}
CASES = {
    "breadcrumbs": Case(lambda m: crumbs(m.base, m.one, m.two)),
    "by row": Case(lambda m: crumbs(m.base, m.one, m.two, parameters=BY_ROW)),
    "breadcrumbs_ties": Case(
        lambda m: crumbs(m.base, m.one, m.two) | {"merge_method": "breadcrumbs_ties"}
    ),
    "task_arithmetic": Case(lambda m: merging("task_arithmetic", m.base, m.one, m.two)),
    "ties": Case(lambda m: merging("ties", m.base, m.one, m.two, parameters=HALF)),
    "dare_linear": Case(
        lambda m: merging("dare_linear", m.base, m.one, m.two, parameters=HALF),
        {"random_seed": 7},
    ),
    "layers twice": Case(
        lambda m: {
            "merge_method": "passthrough",
            "slices": [layers(m.one, 0, 2), layers(m.one, 1, 2), layers(m.two, 0, 1)],
        }
    ),
    "joint vocabulary": Case(
        lambda m: crumbs(m.base, m.one, m.more, tokenizer_source="union")
    ),
    "tokens": Case(
        lambda m: crumbs(
            m.base,
            m.more,
            tokenizer={
                "source": "union",
                "tokens": {"<a>": {"source": m.more, "force": True}},
                "pad_to_multiple_of": 8,
            },
            chat_template="chatml",
        )
    ),
    "chat template": Case(lambda m: crumbs(m.base, m.one, chat_template="chatml")),
    "dtype": Case(lambda m: crumbs(m.base, m.one, m.two, dtype="bfloat16")),
    "out_dtype": Case(
        lambda m: crumbs(m.base, m.one, dtype="float32", out_dtype="bfloat16")
    ),
    "only out_dtype": Case(lambda m: crumbs(m.tied, m.tied_one, out_dtype="float32")),
    "tied": Case(lambda m: crumbs(m.tied, m.tied_one)),
    "pickles": Case(lambda m: crumbs(m.base, m.pickled)),
    "pickles as they are": Case(
        lambda m: {"merge_method": "passthrough", "models": [{"model": m.pickled}]}
    ),
    "encoder": Case(lambda m: crumbs(m.bert, m.bert_one)),
    "breadcrumb file": Case(lambda m: crumbs(m.base, f"{m.base}+{m.file}", m.two)),
    "file as it is": Case(lambda m: alone(f"{m.base}+{m.file}")),
    "adapter": Case(lambda m: crumbs(m.base, f"{m.base}+{m.adapter}"), ADAPTERS),
    "adapter as it is": Case(lambda m: alone(f"{m.base}+{m.adapter}"), ADAPTERS),
}


def alone(model: str) -> Config:
    return {"merge_method": "passthrough", "models": [{"model": model}]}


@pytest.fixture(scope="module")
def written(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with what the console script makes of each case, by its name."""
    out = tmp_path_factory.mktemp("written")
    lines = []
    for name, case in CASES.items():
        config = out / f"{name}.yml"
        config.write_text(yaml.safe_dump(case.config(models)), "utf-8")
        line = [str(config), str(out / name)]
        for key, value in case.options.items():
            value = out / value if key == "lora_merge_cache" else value
            line += [f"--{key.replace('_', '-')}", str(value)]
        lines.append("\t".join(line))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CONSOLE_SCRIPT],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


def options(case: Case) -> MergeOptions:
    """Return a case's options, but for the cache, which a merger makes itself."""
    own = {k: v for k, v in case.options.items() if k != "lora_merge_cache"}
    return MergeOptions(**own)


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check names, dtypes, and every bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        one, other = (t.contiguous().view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(one, other), name


def logits(model: Any) -> torch.Tensor:
    assert not model.training
    with torch.no_grad():
        result: torch.Tensor = model(torch.tensor([[1, 5, 9, 40, 2]])).logits
    return result


@pytest.mark.parametrize("name", CASES)
def test_same_bits(name: str, models: Models, written: Path, tmp_path: Path) -> None:
    """In memory and in a folder, a candidate has the bits of the console script's.

    So it has a second time, when all inputs are open.
    """
    case, expected = CASES[name], load_tensors(written / name)
    with Merger(options(case), tmp_path) as merger:
        for _ in range(2):
            candidate = merger.candidate(case.config(models))
            model, tokenizer = candidate.load()
            folder = candidate.folder()
            assert_same(load_tensors(folder), expected)
            assert_as_loaded(model, tokenizer, written / name)
            candidate.close()
            assert not folder.exists()
    assert list(tmp_path.iterdir()) == []


def assert_as_loaded(model: Any, tokenizer: Any, folder: Path) -> None:
    """Check that a model is what transformers loads from a folder."""
    named = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    loaded = getattr(transformers, named).from_pretrained(folder)
    assert type(model) is type(loaded)
    assert_same(model.state_dict(), loaded.state_dict())
    assert_same(dict(model.named_buffers()), dict(loaded.named_buffers()))
    # Where memory begins may change the last bit; a copy's is PyTorch's own, too.
    assert_same({"": logits(model)}, {"": logits(copy.deepcopy(loaded))})
    if loaded.can_generate():
        ours, theirs = (
            {
                key: value
                for key, value in m.generation_config.to_dict().items()
                if value
            }
            for m in (model, loaded)
        )
        assert ours == theirs
    ours, theirs = (c.to_dict() for c in (model.config, loaded.config))
    assert ours | {"_name_or_path": ""} == theirs | {"_name_or_path": ""}
    written = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == written.get_vocab()
    assert tokenizer.chat_template == written.chat_template
    assert tokenizer.special_tokens_map == written.special_tokens_map


def test_folder_says_what_it_is(models: Models) -> None:
    """The config lies in a candidate's folder, which `verify` finds to be right."""
    with Merger(MergeOptions()) as merger:
        folder = merger.candidate(CASES["breadcrumbs"].config(models)).folder()
        found = verified(folder)
    assert (found.faults, found.tensors) == ([], 21)


def test_weights_are_not_copied(models: Models, tmp_path: Path) -> None:
    """A model in memory has the very tensors that the merge made, and no others."""
    config = MergeConfiguration.model_validate(CASES["dtype"].config(models))
    tensors = Inputs(MergeOptions()).merge_in_memory(config, tmp_path)
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    model = make_model(tensors, tmp_path)
    parameters = dict(model.named_parameters())
    assert {name: p.data_ptr() for name, p in parameters.items()} == places
    stored = {n: p.untyped_storage().nbytes() for n, p in parameters.items()}
    assert stored == sizes


@pytest.mark.parametrize("name", ["layers twice", "pickles as they are"])
def test_change_in_place_is_of_no_effect(name: str, models: Models) -> None:
    """Who changes a weight in place changes no other, and no input of later merges."""
    config = CASES[name].config(models)
    with Merger(MergeOptions()) as merger:
        before = copy.deepcopy(merger.candidate(config).load()[0].state_dict())
        changed = merger.candidate(config).load()[0].state_dict()
        for index, tensor in enumerate(changed.values()):
            tensor.fill_(index)
        assert [t.flatten()[0] for t in changed.values()] == list(range(len(changed)))
        assert_same(merger.candidate(config).load()[0].state_dict(), before)


def test_inputs_are_opened_once(models: Models, tmp_path: Path) -> None:
    """Later merges read what the first has opened: the files of weights may be gone."""
    base = make_base(tmp_path / "base", max_shard_size=SHARDED)
    one = finetune(base, tmp_path / "one", seed=1, max_shard_size=SHARDED)
    assert len(list(one.glob("*.safetensors"))) > 1
    adapter = make_lora(base, tmp_path / "adapter", seed=2)
    make_file(base, finetune(base, tmp_path / "two", seed=3), tmp_path / "file")
    config = crumbs(f"{base}", f"{one}", f"{base}+{adapter}", f"{base}+{tmp_path}/file")
    with Merger(MergeOptions()) as merger:
        before = merger.candidate(config).load()[0].state_dict()
        for file in tmp_path.rglob("*.safetensors"):
            file.unlink()
        assert_same(merger.candidate(config).load()[0].state_dict(), before)
    with (
        Merger(MergeOptions()) as merger,
        pytest.raises(MergeFailed, match="No such file or directory"),
    ):
        merger.candidate(config).load()


def state() -> tuple[Any, ...]:
    """Return what mergekit and the random numbers remember."""
    numbers = torch.get_rng_state().tolist(), random.getstate()
    settings = dict(vars(LoaderCache()))
    return *numbers, str(np.random.get_state()), dict(LoaderCache.loaders), settings


@pytest.mark.parametrize("wrong", [{}, {"density": 2}], ids=["done", "failed"])
def test_nothing_is_left_behind(
    wrong: dict[str, Any], models: Models, capfd: Any, caplog: Any
) -> None:
    """A merge leaves mergekit and the random numbers as they were, and says nothing."""
    config = CASES["joint vocabulary"].config(models)
    config["parameters"] |= wrong
    with Merger(MergeOptions(random_seed=3, trust_remote_code=True)) as merger:
        LoaderCache().setup(MergeOptions())
        LoaderCache().get(MergeConfiguration.model_validate(config).base_model)
        before = state()
        for use in (MergedCandidate.load, MergedCandidate.folder):
            if wrong:
                with pytest.raises(MergeFailed):
                    use(merger.candidate(config))
            else:
                use(merger.candidate(config))
            assert state() == before
        assert plan.TensorWriterTask is TensorWriterTask
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_order_of_models_is_fixed(models: Models) -> None:
    """New tokens of several models have the same numbers in every process."""
    names = ("d", "a", "c", "b")
    for seed, name in enumerate(names):
        added: dict[str, Any] = {"added_rows": 1, "added_tokens": (f"<{name}>",)}
        finetune(Path(models.base), models.root / name, seed=seed, **added)
    inputs = [f"{models.root / name}" for name in names]
    config = crumbs(models.base, *inputs, tokenizer_source="union")
    with Merger(MergeOptions()) as merger:
        vocabulary = merger.candidate(config).load()[1].get_vocab()
    assert [vocabulary[f"<{name}>"] for name in "abcd"] == [64, 65, 66, 67]


def test_paths_like_names_of_the_hub(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that could be a repository of the hub is not looked up there."""
    monkeypatch.chdir(models.root.parent)
    name = models.root.name
    with Merger(MergeOptions()) as merger:
        folder = merger.candidate(crumbs(f"{name}/base", f"{name}/one")).folder()
        assert (folder / "model.safetensors").is_file()


def test_random_method_without_seed(models: Models) -> None:
    """In one process a config makes one model, whatever is drawn in between."""
    config = CASES["dare_linear"].config(models)
    with Merger(MergeOptions()) as merger:
        candidate = merger.candidate(config)
        expected = load_tensors(candidate.folder())
        torch.rand(5)
        assert_same(merger.candidate(config).load()[0].state_dict(), expected)


@pytest.mark.parametrize("case", ["adapter as it is", "file as it is"])
def test_input_by_itself(case: str, models: Models, written: Path) -> None:
    """A model with an adapter or a file is put together, and has its own dtype."""
    config = CASES[case].config(models)
    [entry] = config["models"]
    like = crumbs(models.base, entry["model"], dtype="bfloat16")
    with Merger(MergeOptions()) as merger:
        config = MergeConfiguration.model_validate(like)
        candidate = merger.model(entry["model"], like=config)
        assert_as_loaded(*candidate.load(), written / case)
        assert_same(load_tensors(candidate.folder()), load_tensors(written / case))


def test_plain_model_by_itself(models: Models) -> None:
    """A plain model is its own folder, loaded as it is and never removed."""
    like = MergeConfiguration.model_validate(CASES["dtype"].config(models))
    with Merger(MergeOptions()) as merger:
        candidate = merger.model(models.base, like=like)
        assert_as_loaded(*candidate.load(), Path(models.base))
        assert f"{candidate.folder()}" == models.base
        candidate.close()
    assert Path(models.base, "model.safetensors").is_file()


def test_seconds_and_laziness(models: Models, tmp_path: Path) -> None:
    """Nothing happens before the first need, nothing twice, and its time is counted."""
    with Merger(MergeOptions(), tmp_path) as merger:
        [root] = tmp_path.iterdir()
        candidate = merger.candidate(CASES["dtype"].config(models))
        before = set(root.iterdir())
        assert candidate.seconds == 0
        model, _ = candidate.load()
        seconds = candidate.seconds
        assert seconds > 0
        assert candidate.load()[0] is model
        assert candidate.seconds == seconds
        folder = Path(candidate)
        assert (folder / "model.safetensors").is_file()
        assert candidate.seconds > seconds
        assert candidate.folder() == folder
        candidate.close()
        assert set(root.iterdir()) == before


def test_without_tokenizer(models: Models, tmp_path: Path) -> None:
    """Where there is no tokenizer to copy, there is a model all the same."""
    base, one = make_base(tmp_path / "base"), tmp_path / "one"
    finetune(base, one, seed=1)
    for file in tmp_path.rglob("tokenizer*"):
        file.unlink()
    with Merger(MergeOptions()) as merger:
        model, tokenizer = merger.candidate(crumbs(f"{base}", f"{one}")).load()
    assert tokenizer is None
    assert logits(model).isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"parameters": {"density": 1.5}}, "density must be in"),
        ({"merge_method": "breadcrumb"}, "Unimplemented merge method breadcrumb"),
        ({"base_model": "nowhere/at/all"}, "nowhere/at/all"),
        ({"models": None}, "Exactly one of"),
        ({"dtype": "float3"}, 'Unimplemented dtype "float3"'),
    ],
)
def test_failed_merge(wrong: Config, said: str, models: Models, tmp_path: Path) -> None:
    """A merge that fails says why on one line, and leaves no folder."""
    config = CASES["breadcrumbs"].config(models) | wrong
    with Merger(MergeOptions(), tmp_path) as merger:
        [root] = tmp_path.iterdir()
        before = set(root.iterdir())
        for use in (MergedCandidate.load, MergedCandidate.folder):
            with pytest.raises(MergeFailed) as failed:
                use(merger.candidate(config))
            assert said in str(failed.value)
            assert "\n" not in str(failed.value)
        assert set(root.iterdir()) == before


def test_interrupted(models: Models, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a merge leaves nothing, and mergekit as it was."""
    config = CASES["breadcrumbs"].config(models)
    before = state()
    code = LoaderCache.get

    def interrupt(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch, Merger(MergeOptions(), tmp_path) as m:
        candidate = m.candidate(config)
        patch.setattr(LoaderCache, "get", interrupt)
        with pytest.raises(KeyboardInterrupt):
            candidate.folder()
        patch.setattr(LoaderCache, "get", code)
        assert list(tmp_path.rglob("candidate-*")) == []
        assert state() == before
        assert candidate.load()[0] is not None
    assert list(tmp_path.iterdir()) == []
