"""What no config has, and files that are none: an answer at once, never a traceback."""

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mergekit.options import MergeOptions
from support.checked_configs import MODELS, said
from support.checkpoints import finetune, make_base, make_lora

from mergekit_breadcrumbs.check.run import check_file
from mergekit_breadcrumbs.check.text import problem_lines
from mergekit_breadcrumbs.host import files

SECONDS = 10
HEAD = "merge_method: breadcrumbs\nbase_model: base\nmodels:\n  - model: math\n"


def _laughs(key: str) -> str:
    """A key whose value stands for 9 to the power of 9 words."""
    lines = ["x:", "  - &a0 [lol]"]
    lines += [f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    return "\n".join([*lines, f"{key}: *a8", ""])


MERGED = [
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)
]
KEYS = ("merge_method", "base_model", "models", "slices", "modules", "dtype", "x y")
KEYS += ("tokenizer", "tokenizer_source", "chat_template", "parameters", "out_dtype")
TOO_LARGE = {
    "10 MB of comments": "# a\n" * 2_500_000,
    "a long list": HEAD + "x:\n" + "  - a\n" * 300_000,
    "a long list in brackets": f"{HEAD}x: [{'a,' * 300_000}]\n",
    "merges of merges": "\n".join(["a0: &a0 {x: 1}", *MERGED]),
    "a long integer": f"{HEAD}dtype: 1{'0' * 400_000}\n",
    "a long hexadecimal integer": f"{HEAD}dtype: 0x{'f' * 400_000}\n",
    "a long number to the base of 60": f"{HEAD}dtype: {':'.join('1' * 100_000)}\n",
    **{f"aliases of aliases in {key}": _laughs(key) for key in KEYS},
}


@pytest.mark.parametrize("reason", TOO_LARGE)
def test_too_large(reason: str) -> None:
    """It is said at once that this is no config."""
    began = time.monotonic()
    [problem] = said(TOO_LARGE[reason])
    assert " error BC112: the file has " in problem
    assert time.monotonic() - began < SECONDS


LARGE = {
    "unknown keys": HEAD + "".join(f"key{i}: 1\n" for i in range(20_000)),
    "filters": f"{HEAD}parameters:\n  gamma: [{'{filter: a},' * 15_000}]\n",
    "equal keys": HEAD + "x: 1\n" * 20_000,
    "a long text": f"{HEAD}chat_template: '{'a' * 900_000}'\n",
    "a long key": f"{HEAD}? '{'a' * 900_000}'\n: 1\n",
    "a long tag": f"{HEAD}x: !{'a' * 900_000}\n",
    "a deep list": HEAD + "x: " + "[" * 100_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("reason", LARGE)
def test_large(reason: str) -> None:
    """Each fault is counted, the first hundred of a kind are told, on short lines."""
    Path("large.yml").write_text(LARGE[reason])
    began = time.monotonic()
    checked = check_file(Path("large.yml"), MergeOptions())
    lines = list(problem_lines(checked, Path("large.yml"), excerpts=True))
    assert time.monotonic() - began < SECONDS
    assert 0 < len(lines) < 800
    assert max(map(len, lines)) < 600
    if reason == "unknown keys":
        assert checked.problems.count("error") == 20_001
        assert lines[-1] == "large.yml: and 19900 more of BC104"


@pytest.fixture(scope="module", autouse=True)
def _beside_the_models(tmp_path_factory: pytest.TempPathFactory) -> object:
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        base = make_base(root / "base")
        finetune(base, root / "math", seed=1)
        make_lora(base, root / "lora", seed=2)
        (root / "good.yml").write_text(MODELS.replace("code", "other"))
        yield


@pytest.fixture
def model() -> Path:
    """A model that is to be damaged."""
    for file in Path("other").glob("*") if Path("other").exists() else ():
        file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
    return finetune(Path("base"), Path("other"), seed=3)


def _pointer(path: Path) -> None:
    path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


ODD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is a named pipe, not a file"),
    "socket": (_socket, "is a socket, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file"),
    "directory": (Path.mkdir, "is a directory, not a file"),
    "pointer": (_pointer, "is a Git LFS pointer, not the file: run git lfs pull"),
}
NAMES = ("config.json", "model.safetensors", "model.safetensors.index.json")
NAMES += ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ODD_FILES)
def test_what_is_no_file(kind: str, name: str, model: Path) -> None:
    """A file of a model that is something else is named, and never opened."""
    make, expected = ODD_FILES[kind]
    (model / name).unlink(missing_ok=True)
    make(model / name)
    assert said(MODELS.replace("code", "other")) == [
        f"7 error BC310: models[1].model: its {name} {expected}"
    ]


def test_shard_that_is_no_file(model: Path) -> None:
    """An index may name a pipe."""
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "pipe")
    index = '{"weight_map": {"model.norm.weight": "pipe"}}'
    (model / "model.safetensors.index.json").write_text(index)
    [problem] = said(MODELS.replace("code", "other"))
    assert problem.endswith(
        "its weights cannot be read: pipe is a named pipe, not a file"
    )


def test_adapter_that_is_no_file() -> None:
    """The files of an adapter are looked at, too."""
    file = Path("lora", "adapter_config.json")
    file.unlink()
    os.mkfifo(file)
    problems = said(MODELS.replace("./code", "./base+./lora"), lora_merge_cache="cache")
    assert problems == [
        "7 error BC310: models[1].model: the LoRA adapter's adapter_config.json is a"
        " named pipe, not a file"
    ]


def test_links_that_lead_nowhere(model: Path) -> None:
    """A link to nothing is no file for mergekit either, and one in a circle as well."""
    (model / "generation_config.json").symlink_to("gone")
    assert said(MODELS.replace("code", "other")) == []
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("model.safetensors")
    [problem] = said(MODELS.replace("code", "other"))
    assert "its weights cannot be read" in problem


@pytest.mark.parametrize(
    "key", ["num_hidden_layers", "n_layer", "num_local_experts", "depth"]
)
def test_config_of_a_billion_layers(key: str, model: Path) -> None:
    """Whoever makes them one by one, transformers too, would never be done."""
    config = json.loads((model / "config.json").read_text())
    config["text_config"] = {key: 10**9}
    (model / "config.json").write_text(json.dumps(config))
    assert said(MODELS.replace("code", "other")) == [
        f"7 error BC309: models[1].model: its config.json says 1,000,000,000 for {key}"
    ]


def test_thousands_of_models() -> None:
    """A list of models that are all there is not planned, which takes its square."""
    models = "".join(f"  - model: .{'/' * n}math\n" for n in range(1, 320))
    began = time.monotonic()
    text = "merge_method: breadcrumbs\nbase_model: base\nmodels:\n" + models
    *_, problem = (line for line in said(text) if " error " in line)
    assert problem == "3 error BC112: models: has 320 models: that is no config"
    assert time.monotonic() - began < SECONDS


def _check(path: Path) -> list[str]:
    return [str(problem) for problem in check_file(path, MergeOptions()).problems]


def test_pipe_without_a_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A config that nobody writes is an error, after a while."""
    monkeypatch.setattr(files, "_PATIENCE", 0.1)
    os.mkfifo("silent")
    assert _check(Path("silent")) == [
        "the file cannot be read: nobody writes to this named pipe"
    ]


def test_config_from_a_pipe() -> None:
    """A config may come through a pipe, at once, after a while, or from a shell."""
    text = b"merge_method: ties\nmodels: []\n"
    os.mkfifo("pipe")

    def write(pause: float) -> None:
        with open("pipe", "wb", buffering=0) as stream:
            time.sleep(pause)
            stream.write(text[:5])
            time.sleep(pause)
            stream.write(text[5:])

    Path("pipe.yml").write_bytes(text)
    for pause in (0, 0.3):
        writer = threading.Thread(target=write, args=(pause,))
        writer.start()
        assert _check(Path("pipe")) == _check(Path("pipe.yml"))
        writer.join()
    reader, end = os.pipe()
    os.write(end, text)
    os.close(end)
    assert _check(Path(f"/dev/fd/{reader}")) == _check(Path("pipe.yml"))
    os.close(reader)


@pytest.mark.parametrize("path", ["/dev/zero", "/", "gone"])
def test_config_that_is_no_file(path: str) -> None:
    """A sentence, and no endless reading."""
    [problem] = _check(Path(path))
    assert "\x00" not in problem


def test_pickles_before_zip(model: Path) -> None:
    """Old checkpoints are read as mergekit reads them: not lazily."""
    assert stat.S_ISREG((model / "model.safetensors").stat().st_mode)
    (model / "model.safetensors").unlink()
    state = {"model.norm.weight": torch.zeros(32)}
    name = "pytorch_model.bin"
    torch.save(state, model / name, _use_new_zipfile_serialization=False)
    [lacking] = said(MODELS.replace("code", "other"))
    assert "its weights lack" in lacking
    [problem] = said(MODELS.replace("code", "other"), lazy_unpickle=True)
    assert problem.endswith(
        f"{name} cannot be read with --lazy-unpickle: File is not a zip file"
    )
