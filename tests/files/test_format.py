"""The format, read by a reader that is written from docs/files.md alone."""

import json

import pytest
import torch
from safetensors import safe_open
from support.breadcrumb_files import make_file
from support.checkpoints import finetune, load_tensors, make_base, save_tensors

from mergekit_breadcrumbs.extract import run as extract_run
from mergekit_breadcrumbs.files.reader import BreadcrumbFile


def read_independently(folder, base):
    """Return the tensors of the model that a file and a base make."""
    manifest = json.loads((folder / "breadcrumbs.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("breadcrumbs", 1)
    parts = {}
    for path in folder.glob("breadcrumbs*.safetensors"):
        with safe_open(path, framework="pt") as file:
            parts |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = {name: parts[f"{name}:whole"] for name in manifest.get("whole", ())}
    for name, entry in manifest["tensors"].items():
        flat, n, positions = base[name].flatten(), base[name].numel(), []
        assert list(base[name].shape) == entry["shape"]
        values = parts.get(f"{name}:values", flat[:0])
        if entry["stored"]:
            bits = [
                b >> k & 1 for b in parts[f"{name}:bits"].tolist() for k in range(8)
            ]
            positions = [place for place, bit in enumerate(bits) if bit]
            if width := entry.get("low_bits"):
                packed, mask = parts[f"{name}:low"].tolist(), (1 << width) - 1
                low = [b >> k & mask for b in packed for k in range(0, 8, width)]
                high = [place - i for i, place in enumerate(positions)]
                positions = [h << width | lo for h, lo in zip(high, low, strict=False)]
            counts = [0] * len(parts[f"{name}:counts"])
            for p in positions:
                counts[p // 65536] += 1
            assert counts == parts[f"{name}:counts"].tolist()
        assert len(positions) == entry["stored"] == len(values)
        assert positions == sorted(set(positions))
        ranked = flat.to(getattr(torch, entry.get("ranked_in", entry["base_dtype"])))
        seen = ranked.view(getattr(torch, f"int{8 * ranked.element_size()}")).tolist()
        total = sum(seen[p] * (2 * p + 1) for p in [*positions, *range(0, n, 1024)])
        assert f"{total % 2**64:016x}" == entry["checksum"]
        dtype = values.dtype
        if manifest["fraction"] != 1:
            dtype = torch.promote_types(flat.dtype, values.dtype)
        flat = flat.to(dtype, copy=True)
        flat[positions] = values.to(dtype)
        model[name] = flat.view(entry["shape"])
    return model


def assert_agree(folder, base):
    file, own = BreadcrumbFile(folder), load_tensors(base)
    read = read_independently(folder, own)
    assert sorted(read) == sorted(file.names())
    for name, tensor in read.items():
        if name in file.manifest.whole:
            assert torch.equal(tensor, file.whole(name))
            continue
        together = file.stored(name).put_together(own[name])
        assert together.dtype == tensor.dtype
        assert torch.equal(together, tensor), name
    return read


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.2, 0.5, 1.0])
def test_fractions(fraction, granularity, made, tmp_path):
    """Every way to encode positions."""
    request = {"fraction": fraction, "granularity": granularity}
    make_file(made.base, made.full[0], tmp_path / "file", **request)
    assert_agree(tmp_path / "file", made.base)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("ranked", [None, "bfloat16", "float32"])
@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_dtypes(dtype, ranked, fraction, tmp_path):
    """Every dtype of the checkpoint and of the ranking."""
    base = make_base(tmp_path / "base", dtype=getattr(torch, dtype), layers=1)
    full = finetune(base, tmp_path / "full", seed=1)
    make_file(base, full, tmp_path / "file", dtype=ranked, fraction=fraction)
    read = assert_agree(tmp_path / "file", base)
    if fraction == 1 and ranked is None:
        tuned = load_tensors(full)
        assert all(torch.equal(read[name], tuned[name]) for name in tuned)


def test_shards_integers_and_whole_tensors(tmp_path, monkeypatch):
    """Several files, buffers of integers, and tensors that the base lacks."""
    base = make_base(tmp_path / "base", layers=1)
    full = finetune(base, tmp_path / "full", seed=1)
    for folder, step in ((base, 3), (full, 4)):
        held = load_tensors(folder)
        held["steps"] = torch.arange(0, 2000 * step, step)
        if folder == full:
            held["extra"] = torch.ones(3, 3)
        (folder / "model.safetensors").unlink()
        save_tensors(held, folder / "model.safetensors")
    monkeypatch.setattr(extract_run, "SHARD", 4096)
    make_file(base, full, tmp_path / "file")
    assert len(list((tmp_path / "file").glob("breadcrumbs-*.safetensors"))) > 2
    assert_agree(tmp_path / "file", base)
