"""A merge from breadcrumb files has the bits of the merge from full checkpoints."""

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from support.breadcrumb_files import make_file
from support.checkpoints import finetune, load_tensors, make_base
from support.files import digests
from support.ray_session import ray_session
from support.repository import run_script


def merged(config, out_dir, **options):
    run_merge(
        MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(config))),
        str(out_dir),
        MergeOptions(quiet=True, **options),
    )
    return load_tensors(out_dir)


def with_models(config, references):
    """Return a config with models in the place of A, B and C."""
    text = yaml.safe_dump(config)
    for name, reference in references.items():
        text = text.replace(f"<{name}>", str(reference))
    return yaml.safe_load(text)


def references(made, kind, mixed=()):
    names = zip("ABC", getattr(made, kind), made.full, strict=True)
    found = {
        n: full if n in mixed else f"{made.base}+{file}" for n, file, full in names
    }
    return {"base": made.base, **found}


def assert_same(config, made, tmp_path, kind, mixed=(), **options):
    full = dict(zip("ABC", made.full, strict=True), base=made.base)
    expected = merged(with_models(config, full), tmp_path / "full", **options)
    files = with_models(config, references(made, kind, mixed))
    result = merged(files, tmp_path / "files", **options)
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        assert result[name].dtype == tensor.dtype
        assert torch.equal(result[name], tensor), name


def models(**parameters):
    return [
        {"model": "<A>", "parameters": {"weight": 0.5, "density": 0.15, "gamma": 0.02}},
        {"model": "<B>", "parameters": {"weight": 0.4, "density": 0.1, "gamma": 0.01}},
        {"model": "<C>", "parameters": {"weight": -0.3, "density": 0.05, **parameters}},
    ]


def slices(layers):
    sources = [
        {"model": "<A>", "layer_range": layers, "parameters": {"weight": 0.7}},
        {"model": "<B>", "layer_range": layers, "parameters": {"weight": 0.2}},
        {"model": "<base>", "layer_range": layers},
    ]
    return {"sources": sources}


FILTERS = [{"filter": "mlp", "value": 0.05}, {"filter": "self_attn", "value": 0.18}]
CONFIGS = {
    "plain": {"models": models()},
    "bfloat16": {"models": models(), "dtype": "bfloat16"},
    "rescale": {"models": models(), "parameters": {"rescale": True}},
    "normalize": {
        "models": models(),
        "parameters": {"normalize": True, "rescale": True, "lambda": 0.7},
    },
    "gradients": {
        "models": models(gamma=[0, 0.05, 0.1], density=[0.02, 0.1]),
    },
    "filters": {"models": models(density=[*FILTERS, {"value": 0.1}])},
    "slices": {
        "slices": [slices([0, 1]), slices([0, 2])],
        "parameters": {"density": 0.12, "gamma": 0.03},
    },
    "out_dtype": {"models": models(), "out_dtype": "float32"},
    "tokenizer": {"models": models(), "tokenizer": {"source": "base"}},
}


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_same_bits(config, method, granularity, made, tmp_path):
    """Both methods and granularities, with everything that a config can ask for."""
    parameters = {**config.get("parameters", {}), "granularity": granularity}
    config = {**config, "merge_method": method, "base_model": "<base>"}
    config["parameters"] = parameters
    kind = {"tensor": "by_tensor", "row": "by_row"}[granularity]
    assert_same(config, made, tmp_path, kind)


@pytest.mark.parametrize("kind", ["by_tensor", "lossless"])
@pytest.mark.parametrize("options", [{"lazy_unpickle": True}, {"low_cpu_memory": True}])
def test_files_and_full_models(kind, options, made, tmp_path):
    """Files beside full models, in one merge."""
    config = {"merge_method": "breadcrumbs", "base_model": "<base>", "models": models()}
    assert_same(config, made, tmp_path, kind, mixed=("B",), **options)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float16"])
def test_lossless(dtype, granularity, made, tmp_path):
    """A lossless file serves any density, any granularity and any dtype."""
    given = [
        {"model": f"<{name}>", "parameters": {"weight": 0.5, "density": density}}
        for name, density in (("A", 0.9), ("B", 0.5), ("C", 1.0))
    ]
    config = {"merge_method": "breadcrumbs", "base_model": "<base>", "dtype": dtype}
    config |= {"models": given, "parameters": {"granularity": granularity}}
    assert_same(config, made, tmp_path, "lossless")


OTHERS = {
    "task_arithmetic": {"models": models(), "base_model": "<base>"},
    "ties": {"models": models(), "base_model": "<base>"},
    "linear": {
        "models": [
            {"model": "<A>", "parameters": {"weight": 0.5}},
            {"model": "<B>", "parameters": {"weight": 0.5}},
        ]
    },
    "slerp": {
        "models": [{"model": "<A>"}, {"model": "<B>"}],
        "base_model": "<A>",
        "parameters": {"t": 0.3},
    },
    "passthrough": {"models": [{"model": "<A>"}]},
    "breadcrumbs": {"models": models(), "base_model": "<other>"},
}


@pytest.mark.parametrize("method", OTHERS)
def test_an_ordinary_model(method, made, tmp_path):
    """Other methods, and other bases, read a file as the model that it gives back."""
    config = {"merge_method": method, **OTHERS[method], "dtype": "bfloat16"}
    config = with_models(config, {"other": made.other})
    assert_same(config, made, tmp_path, "lossless")


@pytest.mark.slow
def test_console_script(made, tmp_path):
    """The unmodified command: same weights, config and tokenizer."""
    config = {"merge_method": "breadcrumbs", "base_model": "<base>", "models": models()}
    full = dict(zip("ABC", made.full, strict=True), base=made.base)
    for name, given in (("full", full), ("file", references(made, "by_tensor"))):
        text = yaml.safe_dump(with_models(config, given))
        (tmp_path / f"{name}.yml").write_text(text)
        command = f"{name}.yml", name, "--no-write-model-card", "--quiet"
        run = run_script("mergekit-yaml", *command, cwd=tmp_path)
        assert run.returncode == 0, run.stderr
    assert digests(tmp_path / "file") == digests(tmp_path / "full")


def spawned(*arguments):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(run_merge, *arguments).result(120)


def ray_worker(*arguments):
    with ray_session() as ray:
        ray.get(ray.remote(run_merge).remote(*arguments), timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [spawned, ray_worker])
def test_another_process(elsewhere, made, tmp_path):
    """A process that is started anew, or by Ray, reads files, too."""
    config = {"merge_method": "breadcrumbs", "base_model": "<base>", "models": models()}
    given = with_models(config, references(made, "by_tensor"))
    expected = merged(given, tmp_path / "here")
    parsed = MergeConfiguration.model_validate(given)
    elsewhere(parsed, str(tmp_path / "there"), MergeOptions(quiet=True))
    there = load_tensors(tmp_path / "there")
    assert all(torch.equal(there[name], expected[name]) for name in expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties", "ties"])
def test_on_a_gpu(method, made, tmp_path):
    """With --cuda, as without."""
    config = {"merge_method": method, "base_model": "<base>", "models": models()}
    if method == "ties":
        config["models"] = [{"model": "<A>", "parameters": {"weight": 1}}]
    kind = "lossless" if method == "ties" else "by_tensor"
    assert_same(config, made, tmp_path, kind, cuda=True)


def test_more_than_the_file_holds(made, tmp_path, caplog):
    """One warning per merge and model says what is kept instead, and that is kept."""
    model = f"{made.base}+{made.by_tensor[0]}"
    config = {"merge_method": "breadcrumbs", "base_model": str(made.base)}
    given = {"weight": 1, "density": 0.9, "gamma": 0.01}
    config["models"] = [{"model": model, "parameters": given}]
    asked = merged(config, tmp_path / "asked")
    (said,) = [r.message for r in caplog.records if r.name == "mergekit_breadcrumbs"]
    assert said == (
        f"model {model}: density 0.9 and gamma 0.01 ask for more than the 0.2 that the"
        " file holds; of these the largest 0.01 are dropped and the other 0.19 kept"
    )
    given["density"] = 0.19
    caplog.clear()
    kept = merged(config, tmp_path / "kept")
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    name = "model.embed_tokens.weight"
    assert torch.equal(asked[name], kept[name])


def test_another_dtype(made, tmp_path, caplog):
    """A file that was ranked in another dtype is merged, with a warning."""
    model = f"{made.base}+{made.by_tensor[0]}"
    config = {"merge_method": "breadcrumbs", "base_model": str(made.base)}
    given = {"weight": 1, "density": 0.1}
    config |= {"models": [{"model": model, "parameters": given}], "dtype": "float32"}
    merged(config, tmp_path / "merged")
    (said,) = [r.message for r in caplog.records if r.name == "mergekit_breadcrumbs"]
    assert (
        "the file was made for merges in bfloat16, and this one is in float32" in said
    )
    fitting = tmp_path / "fitting"
    make_file(made.base, made.full[0], fitting, dtype="float32")
    caplog.clear()
    config["models"][0]["model"] = f"{made.base}+{fitting}"
    from_file = merged(config, tmp_path / "from file")
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    config["models"][0]["model"] = str(made.full[0])
    from_full = merged(config, tmp_path / "from full")
    assert all(torch.equal(from_file[name], from_full[name]) for name in from_full)


def test_granularity_that_does_not_fit(made, tmp_path):
    """An error names file and model, and no model is left that looks whole."""
    config = {"merge_method": "breadcrumbs", "base_model": "<base>", "models": models()}
    config["parameters"] = {"granularity": "row"}
    given = with_models(config, references(made, "by_tensor"))
    with pytest.raises(ValueError, match=r"must be tensor, as .*by_tensor0"):
        merged(given, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_removing_a_contribution(made, tmp_path):
    """A merge without a file is the one in which it has never been."""
    config = {"merge_method": "breadcrumbs", "base_model": "<base>", "models": models()}
    given = with_models(config, references(made, "by_tensor"))
    without = {**given, "models": given["models"][:2]}
    before = merged(without, tmp_path / "before")
    merged(given, tmp_path / "with")
    after = merged(without, tmp_path / "after")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_file_of_a_file(made, tmp_path):
    """A smaller file can be made from a larger one."""
    smaller, direct = tmp_path / "smaller", tmp_path / "direct"
    made_from = f"{made.base}+{made.by_tensor[0]}"
    make_file(made.base, made_from, smaller, fraction=0.05)
    make_file(made.base, made.full[0], direct, fraction=0.05)
    assert (smaller / "breadcrumbs.safetensors").read_bytes() == (
        direct / "breadcrumbs.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_shards(file_format, tmp_path):
    """Shards and pickles, of the base and of the fine-tuned model."""
    layout = {"file_format": file_format, "max_shard_size": "16KB"}
    base = make_base(tmp_path / "base", **layout)
    full = finetune(base, tmp_path / "full", seed=1, **layout)
    make_file(base, full, tmp_path / "file")
    own = {"weight": 0.5, "density": 0.15, "gamma": 0.02}
    config = {"merge_method": "breadcrumbs", "base_model": str(base)}
    results = []
    for index, model in enumerate((full, f"{base}+{tmp_path / 'file'}")):
        config["models"] = [{"model": str(model), "parameters": own}]
        results.append(merged(config, tmp_path / str(index)))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
