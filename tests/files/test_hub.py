"""`model: org/base+org/file`: everything from a hub, by name."""

import os

import pytest
import torch
import yaml
from support.breadcrumb_files import make_file
from support.checkpoints import finetune, load_tensors, make_base
from support.hub_server import serving, wait_until_idle
from support.repository import run_script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    base = make_base(root / "org" / "base", dtype=torch.bfloat16, rows=2100)
    full = finetune(base, root / "org" / "full", seed=1)
    make_file(base, full, root / "org" / "file", fraction=0.1)
    make_base(root / "org" / "other", dtype=torch.bfloat16, rows=2100, seed=7)
    return root


def test_from_the_hub(hub_folder, tmp_path):
    """Checked before the download, merged, extracted: the bits of the checkpoint."""
    own = {"weight": 0.5, "density": 0.08, "gamma": 0.02}
    models = {"file": "org/base+org/file", "full": "org/full"}
    models["wrong"] = "org/other+org/file@main"
    for name, model in models.items():
        base = model.partition("+")[0] if "+" in model else "org/base"
        config = {"merge_method": "breadcrumbs", "base_model": base}
        config["models"] = [{"model": model, "parameters": own}]
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(config))
    with serving(hub_folder) as server:
        env = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "home"),
        }
        options = {"cwd": tmp_path, "env": env}
        check = "mergekit-breadcrumbs", "inspect", "--check"
        done = run_script(*check, "file.yml", **options)
        assert done.returncode == 0, done.stderr
        assert "BC343" in done.stdout  # made from a folder: the name is another
        done = run_script(*check, "wrong.yml", **options)
        assert "whether org/other is the same shows after the" in done.stdout
        wait_until_idle(server)
        assert not [*(tmp_path / "home").rglob("*.safetensors")]
        for name in ("file", "full"):
            done = run_script("mergekit-yaml", f"{name}.yml", name, **options)
            assert done.returncode == 0, done.stderr
        done = run_script("mergekit-yaml", "wrong.yml", "wrong", **options)
        assert done.returncode != 0
        assert "was made from another base: " in done.stderr
        assert "not org/other" in done.stderr
        extract = "mergekit-breadcrumbs", "extract", "org/base", "org/full", "again"
        done = run_script(*extract, "--fraction", "0.1", **options)
        assert done.returncode == 0, done.stderr
        assert (
            f'"commit": "{server.commit("org/base")}"'
            in (tmp_path / "again" / "breadcrumbs.json").read_text()
        )
        assert "base_model: org/base" in (tmp_path / "again" / "README.md").read_text()
    file, full = (load_tensors(tmp_path / name) for name in ("file", "full"))
    assert all(torch.equal(file[name], full[name]) for name in full)
