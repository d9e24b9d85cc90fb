"""inspect, verify and status know breadcrumb files; the merge stands beside each."""

import json
import shutil

import pytest
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from support.breadcrumb_files import make_file
from support.checkpoints import make_lora
from support.repository import run_script

from mergekit_breadcrumbs.check.run import check_text


def config(made, kind="by_tensor", base="./base", **changes):
    own = {"weight": 0.5, "density": 0.15, "gamma": 0.02, **changes.pop("own", {})}
    first = {"model": f"{base}+./{kind}0", "parameters": own}
    return {
        "merge_method": "breadcrumbs",
        "base_model": base,
        "models": [first, {"model": f"{base}+./{kind}1", "parameters": own}],
        **changes,
    }


def checked(given, **options):
    """Return the problems, as "CODE: text"."""
    found = check_text(yaml.safe_dump(given), MergeOptions(**options)).problems
    return [f"{problem.code.value}: {problem}" for problem in found]


def merges(given, out_dir, **options):
    """Whether mergekit merges it."""
    try:
        run_merge(
            MergeConfiguration.model_validate(given),
            str(out_dir),
            MergeOptions(quiet=True, **options),
        )
    except Exception:
        return False
    return True


@pytest.fixture(autouse=True)
def _here(made, monkeypatch):
    monkeypatch.chdir(made.folder)


RIGHT = {
    "by tensor": {},
    "by row": {"kind": "by_row", "parameters": {"granularity": "row"}},
    "lossless": {"kind": "lossless", "own": {"density": 0.9}, "dtype": "float32"},
    "lossless by row": {"kind": "lossless", "parameters": {"granularity": "row"}},
    "another base": {"base": "./base", "base_model": "./full2", "kind": "lossless"},
    "dtype": {"dtype": "bfloat16"},
}


@pytest.mark.parametrize("changes", RIGHT.values(), ids=RIGHT)
def test_right(changes, made, tmp_path):
    """No problem is found, and none comes up."""
    given = config(made, **changes)
    assert checked(given) == []
    assert merges(given, tmp_path / "out")


WRONG = {
    "granularity": (
        {"parameters": {"granularity": "row"}},
        "BC345: parameters.granularity: must be tensor for the file of ./base+./by_t",
    ),
    "wrong base": (
        {"base": "./other"},
        "BC342: models[0].model: ./by_tensor0 was made",
    ),
    "no base": (
        {"models": [{"model": "./by_tensor0", "parameters": {"weight": 1}}]},
        "BC340: models[0].model: is a breadcrumb file, not a model: write ",
    ),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_wrong(changes, said, made, tmp_path):
    """What is an error stops the merge."""
    given = config(made, **changes)
    found = checked(given)
    assert any(problem.startswith(said) for problem in found), found
    assert not merges(given, tmp_path / "out")


WARNED = {
    "density": (
        {"own": {"density": 0.9}},
        "BC344: models[0].parameters.density: density 0.9 and gamma 0.02 ask for more"
        " than the 0.2 that the file holds; of these the largest 0.02 are dropped and"
        " the other 0.18 kept",
    ),
    "a filter": (
        {"own": {"density": [{"filter": "mlp", "value": 0.5}, {"value": 0.1}]}},
        "(for model.layers.0.mlp.up_proj.weight",
    ),
    "gamma": ({"own": {"gamma": 0.3}}, "and the other 0 kept"),
    "dtype": ({"dtype": "float32"}, "BC346: models[0].model: the file was made for"),
}


@pytest.mark.parametrize(("changes", "said"), WARNED.values(), ids=WARNED)
def test_warned(changes, said, made, tmp_path):
    """What is a warning merges."""
    given = config(made, **changes)
    found = checked(given)
    assert any(said in problem for problem in found), found
    assert merges(given, tmp_path / "out")


@pytest.mark.parametrize("lost", ["breadcrumbs.safetensors", "breadcrumbs.json"])
def test_damage(lost, made, tmp_path):
    """A damaged file is an error that names it, and is taken for no LoRA adapter."""
    shutil.copytree(made.by_tensor[0], tmp_path / "file")
    (tmp_path / "file" / lost).unlink()
    given = config(made)
    given["models"][0]["model"] = f"./base+{tmp_path / 'file'}"
    (found,) = [problem for problem in checked(given) if "BC341" in problem]
    assert str(tmp_path / "file") in found
    assert not merges(given, tmp_path / "out")


def test_adapters_are_none(made, tmp_path):
    """What is said of LoRA adapters is still said."""
    make_lora(made.base, tmp_path / "lora", seed=1)
    given = config(made)
    given["models"][0]["model"] = f"./base+{tmp_path / 'lora'}"
    assert any("--lora-merge-cache" in problem for problem in checked(given))


@pytest.mark.slow
def test_before_you_start(made, tmp_path):
    """--out tells what is read: the base and little more."""
    (tmp_path / "c.yml").write_text(yaml.safe_dump(config(made)))
    command = "inspect", "--check", "--out", tmp_path / "out", tmp_path / "c.yml"
    run = run_script("mergekit-breadcrumbs", *command, cwd=made.folder)
    assert run.returncode == 0, run.stderr
    size = (made.by_tensor[0] / "breadcrumbs.safetensors").stat().st_size
    assert f"./base+./by_tensor0 {size / 1000:.3g} kB" in run.stdout


@pytest.mark.slow
def test_report_and_verify(made, tmp_path):
    """The report reads files, and a merge of files is verified; no other is."""
    for index in range(2):
        make_file(made.base, made.full[index], tmp_path / f"by_tensor{index}")
    given = config(made, base=str(made.base))
    (tmp_path / "c.yml").write_text(yaml.safe_dump(given))
    report = run_script(
        "mergekit-breadcrumbs", "inspect", "c.yml", "--json", "r.json", cwd=tmp_path
    )
    assert report.returncode == 0, report.stderr
    assert json.loads((tmp_path / "r.json").read_text())["tensors"]
    merge = run_script("mergekit-yaml", "c.yml", "out", "--quiet", cwd=tmp_path)
    assert merge.returncode == 0, merge.stderr
    verified = run_script("mergekit-breadcrumbs", "verify", "out", cwd=tmp_path)
    assert verified.returncode == 0, verified.stdout
    assert "holds exactly what its config says" in verified.stdout
    make_file(made.base, made.full[2], tmp_path / "by_tensor0", force=True)
    verified = run_script("mergekit-breadcrumbs", "verify", "out", cwd=tmp_path)
    assert verified.returncode == 1
    shutil.rmtree(tmp_path / "by_tensor0")
    verified = run_script("mergekit-breadcrumbs", "verify", "out", cwd=tmp_path)
    assert verified.returncode == 1
    assert "by_tensor0" in verified.stdout


@pytest.mark.slow
def test_inspect_a_file(made):
    """What a file holds, in 80 columns; other folders are refused."""
    run = run_script("mergekit-breadcrumbs", "inspect", made.by_row[0])
    assert run.returncode == 0, run.stderr
    for said in (
        "the 0.2 of each row that changed most",
        "bfloat16",
        f"In a config:  - model: {made.base}+{made.by_row[0]}",
    ):
        assert said in run.stdout
    refused = run_script("mergekit-breadcrumbs", "inspect", "--check", made.by_row[0])
    assert refused.returncode == 2
    assert "--layers go with a config, not with a folder" in refused.stderr
    refused = run_script("mergekit-breadcrumbs", "inspect", made.base)
    assert refused.returncode == 2
    assert "is a directory, and no breadcrumb file" in refused.stderr
    damaged = made.folder / "damaged"
    damaged.mkdir()
    (damaged / "breadcrumbs.json").write_text("{")
    run = run_script("mergekit-breadcrumbs", "inspect", damaged)
    assert run.returncode == 1
    assert "cannot be read" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("switch", "said"), [("1", " read"), ("0", "not read")])
def test_status(switch, said, monkeypatch):
    """status says whether files are read."""
    monkeypatch.setenv("MERGEKIT_BREADCRUMBS", switch)
    run = run_script("mergekit-breadcrumbs", "status")
    (line,) = [x for x in run.stdout.splitlines() if x.startswith("breadcrumb files")]
    assert line.endswith(said)
