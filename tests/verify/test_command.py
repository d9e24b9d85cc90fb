"""The installed command `mergekit-breadcrumbs verify`, beside `mergekit-yaml`."""

import os
from pathlib import Path

import click
import pytest
import torch
import yaml
from click.testing import CliRunner
from support.checkpoints import load_tensors, save_tensors
from support.damage import tensors
from support.files import digests
from support.merged_folders import merge_folder, models, said
from support.merging import configuration
from support.repository import run, run_script, script

from mergekit_breadcrumbs.check.codes import Code
from mergekit_breadcrumbs.cli import main
from mergekit_breadcrumbs.verify.faults import Fault, remedy
from mergekit_breadcrumbs.verify.run import Verified
from mergekit_breadcrumbs.verify.text import SHOWN, fault_lines, summary

NAME = "model.layers.1.mlp.up_proj.weight"
CODES = [code for code in Code if code.value.startswith("BC9")]


def _write_config(root: Path, dtype: torch.dtype = torch.float32) -> None:
    models(root, dtype=dtype)
    config = configuration(
        "breadcrumbs",
        Path("./base"),
        {Path(f"./m{i}"): {"weight": 0.7} for i in (1, 2)},
        {"density": 0.8, "gamma": 0.05},
    )
    for model in config["models"]:
        model["model"] = f"./{model['model']}"
    config["base_model"] = "./base"
    (root / "config.yml").write_text(yaml.safe_dump(config))


@pytest.mark.slow
def test_right_and_wrong(tmp_path: Path) -> None:
    """0 for what mergekit-yaml wrote, 1 once a bit of it is changed."""
    _write_config(tmp_path)
    done = run_script("mergekit-yaml", "config.yml", "out", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = digests(tmp_path)
    done = run_script("mergekit-breadcrumbs", "verify", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "out holds exactly what its config says (21 tensors, 19,616 elements).\n"
    )
    assert "Comparing: 100%" in done.stderr
    assert digests(tmp_path) == before
    tensors(lambda found: found[NAME].view(torch.int32).view(-1)[:1].add_(1))(
        tmp_path / "out"
    )
    done = run_script("mergekit-breadcrumbs", "verify", "out", "--quiet", cwd=tmp_path)
    assert done.returncode == 1
    heading, line, *_ = done.stdout.splitlines()
    assert heading == "BC901 tensors are not what the config says:"
    assert line.startswith(f"  {NAME} differs in 1 of 1,536 elements")
    assert "does not hold what its config says (1 problem): a damaged" in done.stdout
    assert "Comparing" not in done.stderr


def test_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths in a config start where the merge ran, and not in the folder."""
    _write_config(tmp_path)
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yml").read_text())
    merge_folder(config, tmp_path / "out")
    arguments = ["verify", str(tmp_path / "out"), "--quiet"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    text = " ".join(done.stdout.split())
    assert "BC919 the merge cannot be made again here:" in text
    assert "the model ./base, which the config names, is not here" in text
    assert "run this from where the merge ran" in text
    moved = (tmp_path / "config.yml").read_text().replace("./", "../")
    (away / "moved.yml").write_text(moved)
    done = CliRunner().invoke(main, [*arguments, "--config", "moved.yml"])
    assert (done.exit_code, done.stdout[-11:]) == (0, "elements).\n"), done.stdout


@pytest.mark.slow
def test_the_built_in_made_it(tmp_path: Path) -> None:
    """A merge by mergekit's own method is told, and is right where that is used."""
    _write_config(tmp_path, torch.bfloat16)
    off = os.environ | {"MERGEKIT_BREADCRUMBS": "0"}
    arguments = ("config.yml", "out", "--quiet", "--no-safe-serialization")
    done = run(script("mergekit-yaml"), *arguments, cwd=tmp_path, env=off)
    assert done.returncode == 0, done.stderr
    command = (script("mergekit-breadcrumbs"), "verify", "out", "--quiet")
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "BC902 the folder was merged in another way" in text
    assert "mergekit's built-in breadcrumbs makes these tensors" in text
    done = run(*command, cwd=tmp_path, env=off)
    assert (done.returncode, done.stderr) == (0, "")


def test_stopped_merge(tmp_path: Path) -> None:
    """What mergekit leaves of a merge that did not come to its end is told as that."""
    paths = [Path(path) for path in models(tmp_path)]
    file = paths[1] / "model.safetensors"
    broken = load_tensors(file)
    broken["model.norm.weight"][0] = torch.nan
    save_tensors(broken, file)
    config = configuration("breadcrumbs", paths[0], {paths[1]: {"weight": 1}})
    with pytest.raises(ValueError, match="must be finite"):
        merge_folder(config, tmp_path / "out", out_shard_size=16_000)
    no_config, no_weights = said(tmp_path / "out")
    assert no_config.startswith("BC911 there is no config.json, which mergekit writes")
    assert no_weights == "BC911 there is model-1.safetensors and 5 more, and no" + (
        " finished weights"
    )
    whole = configuration("breadcrumbs", paths[0], {paths[2]: {"weight": 1}})
    merge_folder(whole, tmp_path / "out")
    [left_over] = said(tmp_path / "out")
    assert left_over.startswith("BC907 ")
    assert left_over.endswith(": left by a merge that did not finish")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "Directory 'nowhere' does not exist"),
        ([".", "--config", "nowhere.yml"], "File 'nowhere.yml' does not exist"),
        ([__file__], "is a file"),
        ([], "Missing argument 'OUT_DIR'"),
        ([".", "--random-seed", "x"], "'x' is not a valid integer"),
    ],
)
def test_usage(arguments: list[str], message: str) -> None:
    """2 for what cannot be meant."""
    done = CliRunner().invoke(main, ["verify", *arguments])
    assert done.exit_code == 2
    assert message in done.output


def test_not_a_merged_folder(tmp_path: Path) -> None:
    """An empty folder is nothing that a merge has finished."""
    done = CliRunner().invoke(main, ["verify", str(tmp_path)])
    assert done.exit_code == 1
    assert "BC911 the merge that wrote the folder did not come" in done.output


def _plain(found: Verified, **options: bool) -> list[str]:
    return click.unstyle("\n".join(fault_lines(found, **options))).splitlines()


def test_lines() -> None:
    """Headings by kind, eighty columns, whole names, and as many as can be read."""
    name = "model.layers.0.self_attn." + "x" * 80
    faults = [Fault(code, "a word or two " * 9) for code in CODES]
    faults += [Fault(Code.TENSOR_EXTRA, name), *[Fault(Code.NOT_FINITE, "t")] * 30]
    found = Verified(faults, ["A note."])
    lines = _plain(found)
    assert [line for line in lines if len(line) > 80] == [f"  {name}"]
    assert sum(not line.startswith(" ") for line in lines if "BC" in line) == len(CODES)
    assert lines.count("  t") == SHOWN - 1
    assert "  and 11 more of 31 (--all lists them)" in lines
    assert lines[-1] == "A note."
    lines = _plain(found, every=True)
    assert lines.count("  t") == 30
    assert summary(Verified(tensors=1, elements=1234), Path("a\x1bb")) == (
        "a\\x1bb holds exactly what its config says (1 tensor, 1,234 elements)."
    )


def test_what_was_not_compared() -> None:
    """Where nothing could be made again, the folder may well be right."""
    faults = [Fault(Code.CANNOT_REPEAT, "x")]
    assert summary(Verified(faults), Path("out")) == (
        "out could not be verified (1 problem): put right what stops the merge, then\n"
        "  verify again."
    )
    faults.append(Fault(Code.STALE_INDEX, "x"))
    assert summary(Verified(faults), Path("out")).startswith("out does not hold what")


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.value)
def test_remedies(code: Code) -> None:
    """For each kind of fault there is something to do."""
    assert remedy([Fault(code, "")])
