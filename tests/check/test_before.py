"""What is said before a merge of its bytes, and of the folder that it is written to."""

import json
import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from mergekit.common import ModelReference
from mergekit.options import MergeOptions
from support.checked_configs import MODELS, SLICES, make_models
from support.checkpoints import SHARDED, finetune, load_tensors, make_base
from support.merging import merge

from mergekit_breadcrumbs.check.before import Before
from mergekit_breadcrumbs.check.run import Checked, check_text
from mergekit_breadcrumbs.cli import main

SHARDS = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
INDEX = "model.safetensors.index.json"
# The interpreter's, and that of the merge beside inputs and result.
FIXED = 350_000_000 + 64 * 2**20


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models that the configs name, and more."""
    models = make_models(tmp_path_factory.mktemp("models"))
    finetune(models / "base", models / "sharded", seed=9, max_shard_size=SHARDED)
    make_base(models / "tied", tied=True)
    finetune(models / "tied", models / "tuned", seed=1)
    return models


@pytest.fixture(autouse=True)
def _beside_the_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(models)


def _checked(text: str, out: Path | str, **options: Any) -> Checked:
    return check_text(text, MergeOptions(**options), Path(out))


def _before(text: str, out: Path | str, **options: Any) -> Before:
    before = _checked(text, out, **options).before
    assert before is not None
    return before


CODE = "  - model: code\n    parameters:\n      weight: 0.5\n"
TIED = MODELS.replace(CODE, "").replace(": ./base", ": ./tied").replace("math", "tuned")
MERGES: dict[str, tuple[str, dict[str, Any]]] = {
    "as it is": (MODELS, {}),
    "the dtype of the files": (MODELS.replace("dtype: bfloat16\n", ""), {}),
    "a dtype of its own": (MODELS + "out_dtype: float16\n", {}),
    "shards": (MODELS.replace("code", "sharded"), {"out_shard_size": 16_000}),
    "pickles": (MODELS.replace("code", "pickled"), {"safe_serialization": False}),
    "slices": (SLICES, {}),
    "tied embeddings": (TIED, {}),
    "fewer rows": (
        MODELS.replace("code", "wide"),
        {"unsafe_truncate_embeddings": True},
    ),
    "more rows": (
        MODELS.replace("code", "wide") + "tokenizer: {source: union}\n",
        {},
    ),
    "padded rows": (
        MODELS + "tokenizer: {source: base, pad_to_multiple_of: 48}\n",
        {},
    ),
}


@pytest.mark.parametrize("reason", MERGES)
def test_what_is_written(reason: str, tmp_path: Path) -> None:
    """What a merge writes is what was said: so many bytes, in files of these names.

    The names show in that no file is called old that is overwritten, and all others.
    """
    text, options = MERGES[reason]
    before = _before(text, tmp_path / "out", **options)
    assert before.write_bytes is not None
    merged = merge(
        yaml.safe_load(text), tmp_path / "out", write_model_card=False, **options
    )
    weights = sum(tensor.nbytes for tensor in merged.values())
    files = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    # A union has at most as many rows as the largest model, but may have fewer.
    slack = 2 * 2 * 32 * 4 if reason == "more rows" else 0
    assert weights <= before.write_bytes <= files + slack
    again = _checked(text, tmp_path / "out", **options)
    codes = [p.code.value for p in again.problems if p.code.value[2] == "8"]
    assert codes == ["BC803"]
    (tmp_path / "out" / "model-00009-of-00009.safetensors").touch()
    again = _checked(text, tmp_path / "out", **options)
    [stale] = [p.text for p in again.problems if p.code.value == "BC804"]
    assert "old files there: model-00009-of-00009.safetensors;" in stale


def test_what_is_read_and_taken() -> None:
    """Bytes are those of the files; memory counts what is converted and collected."""
    before = _before(MODELS.replace("code", "sharded"), "new")
    sizes = {
        f"./{name}": sum(p.stat().st_size for p in Path(name).glob("*.safetensors"))
        for name in ("base", "math", "sharded")
    }
    assert {m.model: m.read_bytes for m in before.models} == sizes
    assert [m.download_bytes for m in before.models] == [0, 0, 0]
    assert (before.download_bytes, before.adapted_bytes, before.holds) == (0, 0, [])
    elements = [t.numel() for _, t in sorted(load_tensors(Path("base")).items())]
    # Results wait to be written, while the next tensor of three models is converted.
    held = [2 * sum(elements[:n]) for n in range(len(elements))]
    peak = max(h + 2 * 4 * e for h, e in zip(held, elements, strict=True))
    assert before.memory_bytes == FIXED + peak
    plain = _before(MODELS.replace("dtype: bfloat16\n", ""), "new").memory_bytes
    assert plain == FIXED + 4 * sum(elements)
    pickled = _before(MODELS.replace("code", "pickled"), "new").memory_bytes
    file = Path("pickled/pytorch_model.bin").stat().st_size
    assert pickled == before.memory_bytes + file
    lazy = _before(MODELS.replace("code", "pickled"), "new", lazy_unpickle=True)
    assert lazy.memory_bytes == before.memory_bytes
    assert before.mapped_bytes == sizes["./base"] + sizes["./math"] + max(
        p.stat().st_size for p in Path("sharded").glob("*.safetensors")
    )


FOLDERS: dict[str, tuple[list[str], list[str]]] = {
    "empty": ([], []),
    "other files": (["README.md", "notes.txt"], []),
    "a model": (["config.json", "model.safetensors"], ["BC803"]),
    "a config": (["config.json"], ["BC803"]),
    "shards": (
        [*SHARDS, INDEX],
        [
            "BC803",
            f"BC804 {SHARDS[0]}, {SHARDS[1]}, {INDEX}; mergekit would read {INDEX};"
            " delete them",
        ],
    ),
    "pickles": (
        ["pytorch_model.bin"],
        ["BC803", "BC804 pytorch_model.bin; delete them"],
    ),
    "an adapter": (
        ["adapter_config.json", "adapter_model.safetensors"],
        [
            "BC803",
            "BC804 adapter_config.json, adapter_model.safetensors; transformers would"
            " read adapter_config.json; delete them",
        ],
    ),
}


@pytest.mark.parametrize("reason", FOLDERS)
def test_what_a_folder_holds(reason: str, tmp_path: Path) -> None:
    """Old files that are overwritten are a warning, and so are those that stay."""
    names, expected = FOLDERS[reason]
    for name in names:
        (tmp_path / name).touch()
    checked = _checked(MODELS, tmp_path)
    found = [f"{p.code.value} {p.text.split('there: ')[-1]}" for p in checked.problems]
    assert [f[: len(e)] for f, e in zip(found, expected, strict=True)] == expected
    assert not checked.failed


def test_a_single_file_where_shards_come(tmp_path: Path) -> None:
    """transformers would load the old single file in place of the new shards."""
    (tmp_path / "model.safetensors").touch()
    checked = _checked(MODELS, tmp_path, out_shard_size=16_000)
    [stale] = [p.text for p in checked.problems if p.code.value == "BC804"]
    assert stale.endswith(
        ": model.safetensors; transformers would read model.safetensors; delete them"
    )


def test_folders_that_cannot_be(tmp_path: Path, models: Path) -> None:
    """A file, what is below a file, and an input under any name are errors."""
    (tmp_path / "link").symlink_to(models / "math")
    adapted = MODELS.replace("./code", "./base+./lora")
    cache = tmp_path / "cache"
    reference = ModelReference.parse("./base+./lora")
    own = f"{reference.model._unique_id()}_{reference.lora._unique_id()}"
    for out, code in (
        ("base/config.json", "BC801"),
        ("base/config.json/deeper/still", "BC801"),
        ("base", "BC802"),
        ("./code/../code/", "BC802"),
        (str(tmp_path / "link"), "BC802"),
        ("lora", "BC802"),
        (str(cache / own), "BC802"),
    ):
        text = adapted if "lora" in out or out.startswith(str(cache)) else MODELS
        checked = _checked(text, out, lora_merge_cache=str(cache))
        errors = [p.code.value for p in checked.problems if p.severity == "error"]
        assert errors == [code], out
    for out in ("base/merged", ".", "nowhere/at/all", str(tmp_path / "link" / "x")):
        assert not _checked(MODELS, out).failed, out


def test_a_folder_that_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing may be written is an error, too; root may write anywhere."""
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "access", lambda _, mode: mode == os.R_OK)
    checked = _checked(MODELS, tmp_path / "out")
    assert [p.code.value for p in checked.problems] == ["BC801"]


Usage = namedtuple("Usage", "total used free available")


def test_too_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is too small is an error that adds up, memory is a warning."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(9, 9, 100_000, 0))
    assert not _checked(MODELS, "new").failed
    adapted = MODELS.replace("./code", "./base+./lora")
    checked = _checked(adapted, "new", lora_merge_cache="cache")
    [problem] = checked.problems
    assert problem.code.value == "BC805"
    size = Path("base/model.safetensors").stat().st_size
    assert f"{size / 1000:.3g} kB for models with their adapters" in problem.text
    assert "kB to write, " in problem.text
    assert "and 100 kB are free on the disk of 'new'" in problem.text


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less memory than a merge is likely to take is a warning."""
    usage = Usage(0, 0, 0, 400_000_000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: usage)
    [problem] = _checked(MODELS, "new").problems
    assert problem.code.value == "BC806"
    assert problem.text == (
        "the merge takes about 417 MB of memory, and 400 MB are available"
    )


def test_with_errors() -> None:
    """Where errors hide what will be written, the rest is told."""
    before = _before(MODELS.replace("code", "mistral"), "base")
    assert before.holds == ["config.json", "model.safetensors"]
    for name in ("org/nowhere", '"co\\0de"', "code/config.json"):
        before = _before(MODELS.replace("code", name), "new")
        assert before.models[-1].download_bytes is None
    before = _before("merge_method: slerp\nmodels: [{model: base}]", "new")
    assert (before.write_bytes, before.memory_bytes) == (None, None)
    assert before.models[0].read_bytes


def test_command(models: Path) -> None:
    """The block comes last, and stands in the JSON; --out goes with --check."""
    (models / "config.yml").write_text(MODELS, encoding="utf-8")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["inspect", "config.yml", *arguments])

    result = run("--check", "--out", "merged")
    size = Path("base/model.safetensors").stat().st_size
    lines = result.stdout.splitlines()
    assert lines[:2] == [
        "config.yml: no problems (3 models, 21 tensors, 2 layers checked)",
        "Before you start:",
    ]
    each = f"{size / 1000:.3g} kB"
    total = f"{3 * size / 1000:.3g} kB"
    assert (
        lines[2] == f"  read      {total}: ./base {each}, ./math {each}, ./code {each}"
    )
    assert lines[3].startswith("  write     ")
    assert " kB to merged (free: " in lines[3]
    assert lines[4].startswith("  memory    about 417 MB at its peak, and up to ")
    assert lines[5:] == ["  folder    holds no model yet"]
    found = json.loads(run("--check", "--format", "json", "--out", "merged").stdout)
    assert found["valid"]
    assert found["before"]["models"][0] == {
        "model": "./base",
        "read_bytes": size,
        "download_bytes": 0,
    }
    assert found["before"]["holds"] == []
    assert "before" not in json.loads(run("--check", "--format", "json").stdout)
    assert run("--out", "merged").exit_code == 2
    assert not Path("merged").exists()
