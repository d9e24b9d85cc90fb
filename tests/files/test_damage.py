"""Files that are damaged, hostile, foreign, or used with another base."""

import json
import shutil

import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file
from support.breadcrumb_files import make_file
from support.checkpoints import load_tensors, save_tensors
from support.repository import run_script

from mergekit_breadcrumbs.core.stored import WrongBaseError
from mergekit_breadcrumbs.files.reader import BreadcrumbFile, is_breadcrumb_file
from mergekit_breadcrumbs.files.shards import DamagedFileError

NAME = "model.embed_tokens.weight"


def merge(base, file, out_dir):
    own = {"weight": 1.0, "density": 0.1, "gamma": 0.01}
    config = {"merge_method": "breadcrumbs", "base_model": str(base)}
    config["models"] = [{"model": f"{base}+{file}", "parameters": own}]
    given = MergeConfiguration.model_validate(config)
    run_merge(given, str(out_dir), MergeOptions(quiet=True))


def manifest(change):
    """Return a damage that changes the manifest."""

    def damage(folder):
        path = folder / "breadcrumbs.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))

    return damage


def entry(**values):
    return manifest(lambda content: content["tensors"][NAME].update(values))


def tensors(change):
    """Return a damage that changes the tensors."""

    def damage(folder):
        path = folder / "breadcrumbs.safetensors"
        held = load_file(path)
        change(held)
        save_file(held, path)

    return damage


def part(name, change):
    """Return a damage that changes a part of the largest tensor."""

    def damage(held):
        key = f"{NAME}:{name}"
        held[key] = change(held[key].clone())

    return tensors(damage)


def swapped(low):
    """Exchange the first two positions, where they are near each other."""
    first = int(low[0])
    low[0] = (first & 0b11110000) | ((first & 3) << 2) | ((first >> 2) & 3)
    return low


def changed_at(index, value):
    def change(given):
        given[index] = value
        return given

    return change


def text(path, content):
    return lambda folder: (folder / path).write_text(content)


def cut(path):
    def damage(folder):
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: len(content) // 2])

    return damage


DAMAGES = {
    "a newer version": (manifest(lambda c: c.update(version=2)), "is of version 2"),
    "a version that is text": (manifest(lambda c: c.update(version="x")), "version:"),
    "a foreign format": (manifest(lambda c: c.update(format="lora")), "format:"),
    "an unknown key": (manifest(lambda c: c.update(more=1)), "more:"),
    "no fraction": (manifest(lambda c: c.pop("fraction") and None), "fraction:"),
    "fraction 0": (manifest(lambda c: c.update(fraction=0)), "fraction:"),
    "fraction NaN": (text("breadcrumbs.json", '{"fraction": NaN}'), "breadcrumbs.json"),
    "no JSON": (text("breadcrumbs.json", "{"), "cannot be read"),
    "a list": (text("breadcrumbs.json", "[]"), "breadcrumbs.json"),
    "nested deeply": (text("breadcrumbs.json", "[" * 99999), "cannot be read"),
    "half a manifest": (cut("breadcrumbs.json"), "cannot be read"),
    "half the tensors": (cut("breadcrumbs.safetensors"), "breadcrumbs.safetensors"),
    "no tensors": (lambda f: (f / "breadcrumbs.safetensors").unlink(), "is damaged"),
    "a shard is missing": (
        text(
            "breadcrumbs.safetensors.index.json",
            '{"weight_map": {"x": "breadcrumbs-00001-of-00002.safetensors"}}',
        ),
        "there is no breadcrumbs-00001",
    ),
    "an index that leads out": (
        text("breadcrumbs.safetensors.index.json", '{"weight_map": {"x": "../a"}}'),
        "names '../a'",
    ),
    "an index that is none": (
        text("breadcrumbs.safetensors.index.json", "[]"),
        "index.json cannot be read",
    ),
    "no such dtype": (entry(ranked_in="float8"), "ranked_in"),
    "another dtype": (entry(base_dtype="nonsense"), "no dtype nonsense"),
    "fewer are stored": (entry(stored=5), f"tensor {NAME}: values is"),
    "negative": (entry(stored=-1), "stored"),
    "another code": (entry(low_bits=8), f"tensor {NAME}: "),
    "no code": (entry(low_bits=None), f"tensor {NAME}: "),
    "another shape": (entry(shape=[5, 5]), f"tensor {NAME}"),
    "a huge shape": (entry(shape=[1 << 40, 1 << 20]), f"tensor {NAME}"),
    "a turned shape": (entry(shape=[32, 2100]), f"tensor {NAME} is of shape"),
    "another checksum": (entry(checksum="0" * 16), f"tensor {NAME} has other values"),
    "no values": (tensors(lambda held: held.pop(f"{NAME}:values")), "there is no"),
    "values of integers": (part("values", lambda v: v.view(torch.int16)), "values is"),
    "fewer values": (part("values", lambda v: v[1:]), "values is"),
    "a position lost": (part("bits", changed_at(0, 0)), "positions are stored"),
    "a position more": (part("bits", changed_at(0, 255)), "positions are stored"),
    "no counts": (part("counts", lambda c: c[:0]), f"tensor {NAME}: "),
    "negative counts": (part("counts", changed_at(0, -5)), f"tensor {NAME}: counts"),
    "other counts": (part("counts", lambda c: c.flip(0)), f"tensor {NAME}: "),
    "too few low bits": (part("low", lambda low: low[1:]), f"tensor {NAME}: low"),
    "not ascending": (part("low", lambda low: low.fill_(0)), "not ascending"),
    "NaN": (part("values", changed_at(3, torch.nan)), NAME),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_damage(damage, said, made, tmp_path):
    """An error names file and tensor, and nothing is written that looks whole."""
    file = tmp_path / "file"
    shutil.copytree(made.by_tensor[0], file)
    damage(file)
    with pytest.raises(ValueError, match=r"(?s).*") as error:
        merge(made.base, file, tmp_path / "out")
    assert said in str(error.value)
    assert str(file) in str(error.value)
    assert not list(tmp_path.glob("out/*.json"))


def test_the_undamaged_file(made, tmp_path):
    """The test above can pass only because of the damage."""
    merge(made.base, made.by_tensor[0], tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


def test_wrong_base_while_planning(made, tmp_path):
    """Another base is refused before anything is merged; both are named."""
    with pytest.raises(WrongBaseError) as error:
        merge(made.other, made.by_tensor[0], tmp_path / "out")
    assert f"{made.by_tensor[0]} was made from another base: {made.base}, not" in str(
        error.value
    )
    assert str(made.other) in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["by_tensor", "by_row", "lossless"])
def test_wrong_base_in_one_tensor(kind, made, tmp_path):
    """For every single tensor: a base that differs in it alone is refused."""
    file = BreadcrumbFile(getattr(made, kind)[0])
    original = load_tensors(made.base)
    for name in file.names():
        stored = file.stored(name)
        if not stored.positions.stored:
            continue
        other = original[name].clone()
        at = int(stored.positions.ranked(0, 1))
        other.view(-1)[at] += 1
        with pytest.raises(WrongBaseError, match=name.replace(".", r"\.")):
            stored.put_together(other)


def test_wrong_base_in_the_last_tensor(made, tmp_path):
    """Refused when it is read, where the small tensors are the right ones."""
    base = tmp_path / "base"
    shutil.copytree(made.base, base)
    held = load_tensors(base)
    held[NAME][0, 0] += 1
    (base / "model.safetensors").unlink()
    save_tensors(held, base / "model.safetensors")
    with pytest.raises(WrongBaseError, match=r"model\.embed_tokens\.weight"):
        merge(base, made.by_tensor[0], tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_base_without_the_tensor(made, tmp_path):
    """A base that lacks a tensor is another base."""
    base = tmp_path / "base"
    shutil.copytree(made.base, base)
    held = load_tensors(base)
    held.pop("model.norm.weight")
    (base / "model.safetensors").unlink()
    save_tensors(held, base / "model.safetensors")
    with pytest.raises(WrongBaseError, match=r"has no tensor model\.norm\.weight"):
        merge(base, made.by_tensor[0], tmp_path / "out")


@pytest.mark.slow
def test_without_the_hook(made, tmp_path, monkeypatch):
    """PEFT, which takes a file for an adapter, says what to install."""
    monkeypatch.setenv("MERGEKIT_BREADCRUMBS", "0")
    own = {"weight": 1.0}
    config = {"merge_method": "task_arithmetic", "base_model": str(made.base)}
    model = f"{made.base}+{made.by_tensor[0]}"
    config["models"] = [{"model": model, "parameters": own}]
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config))
    command = "c.yml", "out", "--lora-merge-cache", "cache"
    run = run_script("mergekit-yaml", *command, cwd=tmp_path)
    assert run.returncode != 0
    assert "not a LoRA adapter: pip install mergekit-breadcrumbs" in run.stderr


def test_what_is_a_file(made, tmp_path):
    """A folder with a manifest, or whose adapter_config.json is that of a file."""
    assert is_breadcrumb_file(made.by_tensor[0])
    assert not is_breadcrumb_file(made.base)
    shutil.copytree(made.by_tensor[0], tmp_path / "file")
    (tmp_path / "file" / "breadcrumbs.json").unlink()
    assert is_breadcrumb_file(tmp_path / "file")
    # Somebody's model may be called that, and --force must not replace it.
    (tmp_path / "file" / "adapter_config.json").unlink()
    assert not is_breadcrumb_file(tmp_path / "file")


def test_nothing_changed(made, tmp_path):
    """A file of a model that is the base holds nothing, and merges to the base."""
    make_file(made.base, made.base, tmp_path / "file")
    assert not (tmp_path / "file" / "breadcrumbs.safetensors").exists()
    merge(made.base, tmp_path / "file", tmp_path / "out")
    merged, base = load_tensors(tmp_path / "out"), load_tensors(made.base)
    assert all(torch.equal(merged[name], base[name]) for name in base)


def test_no_manifest():
    """An error, not a traceback of something else."""
    with pytest.raises(DamagedFileError, match="cannot be read"):
        BreadcrumbFile("nowhere")
