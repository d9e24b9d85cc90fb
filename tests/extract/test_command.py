"""The command `extract`, in processes of its own, on real checkpoints."""

import json
import os
import signal
import subprocess
import time

import pytest
import torch
import yaml
from mergekit.options import MergeOptions
from support.breadcrumb_files import make_file
from support.checkpoints import (
    finetune,
    load_tensors,
    make_base,
    make_lora,
    save_tensors,
)
from support.repository import run_script, script

from mergekit_breadcrumbs.extract import run as extract_run
from mergekit_breadcrumbs.extract import write
from mergekit_breadcrumbs.extract.card import adapter_config, is_hub_name, model_card
from mergekit_breadcrumbs.extract.run import Request, extract
from mergekit_breadcrumbs.files.reader import BreadcrumbFile


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base", dtype=torch.bfloat16)
    finetune(base, folder / "tuned", seed=1)
    return folder


def command(models, *arguments, **options):
    return run_script(
        "mergekit-breadcrumbs",
        *("extract", *arguments),
        cwd=models,
        env={**os.environ, "COLUMNS": "80"},
        **options,
    )


@pytest.mark.slow
def test_what_is_printed(models, tmp_path):
    """A table and the lines for a config, within 80 columns; the folder is complete."""
    run = command(models, "./base", "./tuned", tmp_path / "file", "--fraction", "0.3")
    assert run.returncode == 0, run.stderr
    assert "stored" in run.stdout
    assert " 30 % of the elements" in run.stdout
    assert f"- model: ./base+{tmp_path / 'file'}\n" in run.stdout
    assert "with density + gamma of at most 0.3 and granularity tensor" in run.stdout
    table = [line for line in run.stdout.splitlines() if "model:" not in line]
    assert max(map(len, table)) <= 80
    assert "100%" in run.stderr
    names = {path.name for path in (tmp_path / "file").iterdir()}
    assert names == {
        *("README.md", "adapter_config.json", "breadcrumbs.json"),
        "breadcrumbs.safetensors",
    }
    assert (tmp_path / "file" / "breadcrumbs.safetensors").stat().st_mode & 0o044
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_lossless(models, tmp_path):
    """With --fraction 1 the fine-tuned tensors come back to the bit."""
    run = command(models, "base", "tuned", tmp_path / "file", "--fraction=1", "--quiet")
    assert run.returncode == 0, run.stderr
    assert not run.stderr
    # Without the dots, mergekit would ask the hub.
    assert f"- model: ./base+{tmp_path / 'file'}\n" in run.stdout
    assert "- model: ./base+./file\n" in (tmp_path / "file" / "README.md").read_text()
    file, base = BreadcrumbFile(tmp_path / "file"), load_tensors(models / "base")
    for name, tensor in load_tensors(models / "tuned").items():
        together = file.stored(name).put_together(base[name])
        assert torch.equal(together.view(torch.int16), tensor.view(torch.int16))


REFUSED = {
    "no such model": (("base", "./nowhere"), "nowhere cannot be read: "),
    "the base has an adapter": (("base+tuned", "tuned"), "must have no adapter"),
    "fraction": (("base", "tuned", "--fraction", "0"), "must be in (0, 1]; got 0"),
    "fraction NaN": (
        ("base", "tuned", "--fraction", "nan"),
        "must be in (0, 1]; got nan",
    ),
    "granularity": (("base", "tuned", "--granularity", "x"), "'x' is not one of"),
    "dtype": (("base", "tuned", "--dtype", "float8"), "'float8' is not one of"),
    "another model": (("base", "wide"), "wide is no fine-tuning of base: "),
    "nothing in common": (("base", "alien"), "have no tensor in common"),
    "not finite": (("base", "nan"), "1 of 2048 elements are not (model nan, tensor"),
    "quantised": (("base", "fp8"), "holds float8_e4m3fn; take the 16-bit weights"),
    "damaged": (("base", "cut"), "cut cannot be read: "),
}


@pytest.fixture(scope="module")
def odd_models(models):
    """Models that no file can be made of."""
    held = load_tensors(models / "tuned")
    name = "model.embed_tokens.weight"
    for folder in ("wide", "alien", "nan", "fp8", "cut"):
        make_base(models / folder, dtype=torch.bfloat16)
        path = models / folder / "model.safetensors"
        changed = dict(held)
        if folder == "wide":
            changed[name] = torch.zeros(64, 64)
        elif folder == "alien":
            changed = {"another.weight": torch.zeros(3)}
        elif folder == "nan":
            changed[name] = held[name].clone()
            changed[name][3, 3] = torch.nan
        elif folder == "fp8":
            changed[name] = held[name].to(torch.float8_e4m3fn)
        path.unlink()
        save_tensors(changed, path)
        if folder == "cut":
            path.write_bytes(path.read_bytes()[:-100])
    return models


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(arguments, said, odd_models, tmp_path):
    """A sentence, and nothing is left behind."""
    base, finetuned, *options = arguments
    run = command(odd_models, base, finetuned, tmp_path / "file", *options, "--quiet")
    assert run.returncode in (1, 2), run.stdout
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way(models, tmp_path):
    """Only an earlier file is replaced, and only with --force."""
    out, other, plain = tmp_path / "file", tmp_path / "other", tmp_path / "plain"
    (tmp_path / "empty").mkdir()
    other.mkdir()
    (other / "precious").write_text("mine")
    plain.write_text("mine")
    for target in (out, tmp_path / "empty"):
        make_file(models / "base", models / "tuned", target)
    before = (out / "breadcrumbs.json").read_bytes()
    for target, force, said in (
        (out, False, "--force replaces it"),
        (other, True, "is not empty"),
        (plain, True, "is no directory"),
        (tmp_path / "no" / "where", False, "there is no directory"),
    ):
        with pytest.raises(ValueError, match=said):
            make_file(models / "base", models / "tuned", target, force=force)
    assert (out / "breadcrumbs.json").read_bytes() == before
    make_file(models / "base", models / "tuned", out, force=True, fraction=0.5)
    assert (out / "breadcrumbs.json").read_bytes() != before
    assert (other / "precious").read_text() == "mine"
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["empty", "file", "other", "plain"]


def test_full_disk(models, tmp_path, monkeypatch):
    """The old file stays, and nothing of the new one."""
    out = tmp_path / "file"
    make_file(models / "base", models / "tuned", out)
    before = (out / "breadcrumbs.json").read_bytes()

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(extract_run, "model_card", fail)
    with pytest.raises(OSError, match="No space left"):
        make_file(models / "base", models / "tuned", out, force=True)
    assert (out / "breadcrumbs.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_no_space_for_the_tensors(models, tmp_path):
    """What safetensors says of a full disk is an error that names the folder."""
    limit = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash"]
    # Where coverage is measured, its own file would hit the limit, too.
    env = {key: value for key, value in os.environ.items() if key[:3] != "COV"}
    run = subprocess.run(
        [
            *(*limit, script("mergekit-breadcrumbs"), "extract", "base", "tuned"),
            *(tmp_path / "file", "--quiet"),
        ],
        cwd=models,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert f"{tmp_path / 'file'} cannot be written: " in run.stderr
    assert "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


def test_two_at_once(models, tmp_path, monkeypatch):
    """Of two that write to one place the first is there, whole; the other is told."""
    out, write_files = tmp_path / "file", extract_run._write

    def slowly(*args, **kwargs):
        write_files(*args, **kwargs)
        monkeypatch.setattr(extract_run, "_write", write_files)
        make_file(models / "base", models / "tuned", out)

    monkeypatch.setattr(extract_run, "_write", slowly)
    with pytest.raises(write.OutDirError, match="holds a breadcrumb file already"):
        make_file(models / "base", models / "tuned", out, fraction=0.5)
    assert BreadcrumbFile(out).manifest.fraction == 0.2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_killed(models, tmp_path):
    """After kill -9 there is no folder of this name, at whatever time it comes."""
    base = make_base(tmp_path / "base", rows=200_000)
    for wait in (0.0, 0.2, 0.5):
        process = subprocess.Popen(
            [script("mergekit-breadcrumbs"), "extract", "base", "base", "file"],
            cwd=tmp_path,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("file.*.part")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(wait / 10)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "file").exists()
        for part in tmp_path.glob("file.*.part"):
            assert not (part / "README.md").exists()
    assert base.exists()


def test_added_tokens(tmp_path):
    """Rows that the base lacks are left out, with a word; the rest merges as it is."""
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    full = finetune(
        base, tmp_path / "full", seed=1, added_rows=2, added_tokens=("<a>", "<b>")
    )
    made = make_file(base, full, tmp_path / "file", fraction=1.0)
    (remark,) = made.remarks
    assert "has 66 rows, and the base's 64: the added rows are left out" in remark
    file, own, tuned = (
        BreadcrumbFile(tmp_path / "file"),
        load_tensors(base),
        load_tensors(full),
    )
    for name in own:
        together = file.stored(name).put_together(own[name])
        assert torch.equal(together, tuned[name][: len(own[name])])
    make_file(full, base, tmp_path / "back", fraction=1.0)
    file = BreadcrumbFile(tmp_path / "back")
    name = "model.embed_tokens.weight"
    together = file.stored(name).put_together(tuned[name])
    assert torch.equal(together, torch.cat([own[name], tuned[name][64:]]))


@pytest.mark.slow
def test_added_tokens_merge(tmp_path):
    """As from the full checkpoint with --unsafe-truncate-embeddings, to the bit."""
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    full = finetune(
        base, tmp_path / "full", seed=1, added_rows=2, added_tokens=("<a>", "<b>")
    )
    make_file(base, full, tmp_path / "file", fraction=1.0)
    own = {"weight": 0.5, "density": 0.15, "gamma": 0.02}
    config = {"merge_method": "task_arithmetic", "base_model": "./base"}
    for name, model in (("cut", "./full"), ("file", "./base+./file")):
        config["models"] = [{"model": model, "parameters": own}]
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(config))
        options = ["--unsafe-truncate-embeddings"] if name == "cut" else []
        run = run_script(
            "mergekit-yaml", f"{name}.yml", f"o-{name}", *options, cwd=tmp_path
        )
        assert run.returncode == 0, run.stderr
    expected, merged = (load_tensors(tmp_path / f"o-{n}") for n in ("cut", "file"))
    assert all(torch.equal(merged[name], expected[name]) for name in expected)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapter(tmp_path):
    """A model with a LoRA adapter, merged by PEFT, is a fine-tuned model."""
    base = make_base(tmp_path / "base")
    make_lora(base, tmp_path / "lora", seed=1)
    options = MergeOptions(quiet=True, lora_merge_cache=str(tmp_path / "cache"))
    request = Request(str(base), f"{base}+{tmp_path / 'lora'}", tmp_path / "file", 1.0)
    extract(request, options)
    file, own = BreadcrumbFile(tmp_path / "file"), load_tensors(base)
    (cached,) = (tmp_path / "cache").iterdir()
    merged = load_tensors(cached)
    assert merged.keys() == own.keys()
    for name, tensor in merged.items():
        assert torch.equal(file.stored(name).put_together(own[name]), tensor)
    changed = [name for name in file.names() if file.manifest.tensors[name].stored]
    assert all(name.endswith(("q_proj.weight", "down_proj.weight")) for name in changed)


def test_tensors_of_one_model(tmp_path):
    """What only the fine-tuned model has is stored whole; what it lacks is named."""
    base = make_base(tmp_path / "base")
    full = finetune(base, tmp_path / "full", seed=1)
    held = load_tensors(full)
    held["extra.weight"] = torch.arange(6.0).view(2, 3)
    held.pop("model.norm.weight")
    (full / "model.safetensors").unlink()
    save_tensors(held, full / "model.safetensors")
    made = make_file(base, full, tmp_path / "file")
    assert made.remarks == [
        "stored whole, because the base lacks them: extra.weight",
        f"{full} lacks, of the base: model.norm.weight",
    ]
    file = BreadcrumbFile(tmp_path / "file")
    assert torch.equal(file.whole("extra.weight"), held["extra.weight"])
    assert "model.norm.weight" not in file.names()


def test_card(models, tmp_path):
    """The card names the base only where a hub knows it, and no name does harm."""
    file = tmp_path / "file"
    made = make_file(models / "base", models / "tuned", file).manifest
    _, header, text = (file / "README.md").read_text().split("---\n", 2)
    assert "base_model" not in yaml.safe_load(header)
    assert "pip install mergekit-breadcrumbs" in text
    source = made.base.model_copy(update={"model": "org/base"})
    known = made.model_copy(update={"base": source})
    header = yaml.safe_load(model_card(known, "file").split("---\n")[1])
    assert header["base_model"] == "org/base"
    evil = made.base.model_copy(update={"model": "a\n---\n`b`\x1b[31m"})
    card = model_card(made.model_copy(update={"base": evil}), "file")
    assert "\x1b" not in card
    assert card.count("\n---\n") == 1
    assert list(json.loads(adapter_config())) == ["peft_type"]
    assert not is_hub_name("./a/b")
