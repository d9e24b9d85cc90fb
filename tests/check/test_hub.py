"""Names on a hub: what is said of them, and how much is read of them.

The hub is one on loopback; on the other side is the real huggingface_hub. What is wrong
with it, and what is then said, is in cases_hub.txt.
"""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mergekit.options import MergeOptions
from support.checked_configs import MODELS, make_models, said
from support.checkpoints import SHARDED, finetune, load_tensors, make_base
from support.hub_server import REFUSALS, HubServer, serving, wait_until_idle
from support.repository import run_script

from mergekit_breadcrumbs.check.run import check_text
from mergekit_breadcrumbs.check.text import before_lines
from mergekit_breadcrumbs.wording import bytes_text

HUB = re.sub(": ./(base|math|code)$", r": org/\1", MODELS, flags=re.MULTILINE)
KINDS = {*REFUSALS, "silent", "slow", "endless", "cut", "no ranges", "no sizes"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of the hub, under `org`."""
    root = tmp_path_factory.mktemp("hub")
    models = make_models(root / "org")
    finetune(models / "base", models / "sharded", seed=9, max_shard_size=SHARDED)
    return root


@pytest.fixture
def hub(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A hub that is online, an empty cache, and the models also here, without `org`."""
    monkeypatch.chdir(root / "org")
    with serving(root) as server:
        files = "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + files,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield server


def _cases() -> dict[str, list[str]]:
    text = (Path(__file__).parent / "cases_hub.txt").read_text(encoding="utf-8")
    parts = (part.strip().split("\n") for part in text.split("== ")[1:])
    return {reason: lines for reason, *lines in parts}


@pytest.mark.parametrize("reason", _cases())
def test_what_is_said(
    reason: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of a hub that is as it should not be gets just its own lines.

    It takes little time, whatever the hub does, and what is read can be held in memory.
    """
    hub.moved = {"org/old": "org/code"}
    text, expected = HUB, []
    for line in _cases()[reason]:
        key, _, value = line.partition(": ")
        if key == "model":
            text = text.replace("org/code", value)
        elif key.startswith("org/"):
            hub.faults[key] = value if value in KINDS else value.encode()
        else:
            expected.append(line)
    if {"silent", "slow"} & set(hub.faults.values()):
        # The other models are here, and may take longer.
        text = text.replace("org/base", "./base").replace("org/math", "./math")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.3)
    start = time.monotonic()
    assert said(text) == expected
    assert time.monotonic() - start < 10
    assert sum(hub.sent.values()) < 20_000_000


def test_nothing_is_left_behind(hub: HubServer, tmp_path: Path) -> None:
    """The copies of small files and headers are gone, and no cache was written to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        assert said(HUB) == []
        assert hub.requests
    assert list(tmp_path.iterdir()) == []


def test_little_is_read(hub: HubServer, root: Path) -> None:
    """Of 10 MB of weights, and all files besides, less than 2 % is read."""
    base = make_base(root / "large" / "base", rows=20_000, tokens=64)
    finetune(base, root / "large" / "tuned", seed=1, max_shard_size="3MB")
    text = re.sub(r"  - model: \w+/code\n(    .*\n)*", "", HUB)
    text = text.replace("org/base", "large/base").replace("org/math", "large/tuned")
    assert said(text) == []
    wait_until_idle(hub)
    weights = [
        size
        for name in ("large/base", "large/tuned")
        for file, size in hub.files(name).items()
        if file.endswith(".safetensors")
    ]
    assert len(weights) == 3
    assert 0 < sum(hub.sent.values()) < 0.02 * sum(weights)


def _fill_cache(hub: HubServer, cache: Path, repo: str, names: set[str]) -> None:
    commit = hub.commit(repo)
    home = cache / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    for name in names or hub.files(repo):
        shutil.copy(hub.folder / repo / name, snapshot)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_cached_whole(
    elsewhere: bool, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model that is all in the cache the hub is asked nothing."""
    cache = tmp_path / ("other" if elsewhere else "cache")
    options = {"transformers_cache": str(cache)} if elsewhere else {}
    for name in ("base", "math", "wide"):
        _fill_cache(hub, cache, f"org/{name}", set())
    [problem] = said(HUB.replace("org/code", "org/wide"), **options)
    assert "BC503: models[1].model: model.embed_tokens.weight has" in problem
    assert hub.requests == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    *rest, problem = said(HUB.replace("org/code", "org/wide"), **options)
    assert "BC503" in problem
    assert len(rest) == 3
    for text in rest:
        assert "BC307" in text
        assert text.endswith(hub.commit("org/" + Path(text).parts[-3].split("--")[-1]))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_cached_in_part(name: str, hub: HubServer, tmp_path: Path) -> None:
    """What the cache lacks is asked of the hub, and nothing else is."""
    _fill_cache(hub, tmp_path / "cache", "org/code", {name})
    assert said(HUB) == []
    assert hub.sent["org/code/tokenizer.json"]
    assert not hub.sent[f"org/code/{name}"]
    hub.faults["org/code"] = "busy"
    [problem] = said(HUB)
    assert "BC306: models[1].model: not checked" in problem


def test_no_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network models of the hub are warned about, and the others checked."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    problem, other = said(MODELS.replace(": ./math", ": org/math") + "gama: 1\n")
    assert re.fullmatch(
        r"4 warning BC306: models\[0\].model: not checked: there is no directory"
        r" 'org/math' here, and none in the hub's cache, and the hub cannot be asked"
        r" \(.+\)",
        problem,
    )
    assert "BC104" in other
    assert hub.requests == []


def test_before_a_download(hub: HubServer, tmp_path: Path) -> None:
    """What the cache has is not downloaded again; names stand for their copies."""
    options = MergeOptions(lora_merge_cache=str(tmp_path))
    text = HUB.replace("org/code", "org/pickled+org/lora")
    _fill_cache(hub, tmp_path / "cache", "org/math", {"model.safetensors"})
    _fill_cache(hub, tmp_path / "cache", "org/base", set())
    before = check_text(text, options, tmp_path / "out").before
    assert before is not None
    told = {m.model: (m.read_bytes, m.download_bytes) for m in before.models}
    weights = hub.files("org/base")["model.safetensors"]
    math, pickled = hub.files("org/math"), hub.files("org/pickled")
    others = sum(size for name, size in math.items() if name.endswith(".json"))
    pickle = pickled["pytorch_model.bin"]
    rest = sum(size for name, size in pickled.items() if name.endswith(".json"))
    lora = hub.files("org/lora")
    adapter = sum(lora[f"adapter_{n}"] for n in ("config.json", "model.safetensors"))
    assert told == {
        "org/base": (weights, 0),
        "org/math": (weights, others),
        "org/pickled+org/lora": (pickle, pickle + rest + adapter),
    }
    assert before.cache == str(tmp_path / "cache")
    assert before.adapted_bytes == pickle
    [_, line, download, adapters, *_] = before_lines(before)
    assert line.startswith(f"  read      {bytes_text(2 * weights + pickle)}: org/base ")
    size = bytes_text(before.download_bytes)
    assert download.startswith(f"  download  {size}: org/math ")
    assert adapters.startswith(f"  adapters  {bytes_text(pickle)} for ")


@pytest.mark.slow
def test_mergekit_and_the_command(root: Path, tmp_path: Path) -> None:
    """The command reads headers only; mergekit then merges from the same hub."""
    (tmp_path / "config.yml").write_text(HUB, encoding="utf-8")
    with serving(root) as server:
        env = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "home"),
        }
        options = {"cwd": tmp_path, "env": env}
        check = ("mergekit-breadcrumbs", "inspect", "--check", "config.yml")
        done = run_script(*check, **options)
        clean = "config.yml: no problems (3 models, 21 tensors, 2 layers checked)\n"
        assert (done.returncode, done.stdout) == (0, clean), done.stderr
        wait_until_idle(server)
        read, server.sent = sum(server.sent.values()), type(server.sent)()
        assert not [*(tmp_path / "home").rglob("*.safetensors")]
        done = run_script("mergekit-yaml", "config.yml", "merged", **options)
        assert done.returncode == 0, done.stderr
        weights = sum(n for name, n in server.sent.items() if "model.safe" in name)
        assert 0 < read < weights / 10
    merged = load_tensors(tmp_path / "merged")
    assert len(merged) == 21
    assert all(tensor.dtype == torch.bfloat16 for tensor in merged.values())
