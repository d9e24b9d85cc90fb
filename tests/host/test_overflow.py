"""Numbers too large for what is written are an error in every way to merge."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit import merge_methods
from support.checkpoints import finetune, load_tensors, make_base, save_tensors
from support.merging import configuration, merge
from support.repository import run_script

METHODS = ("breadcrumbs", "breadcrumbs_ties")
NAME = "model.layers.1.mlp.up_proj.weight"
HUGE = 1e5
"""More than float16 holds."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base, `a` and `b`."""
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "base")
    return base, finetune(base, root / "a", seed=1), finetune(base, root / "b", seed=2)


def _with_value(model: Path, out_dir: Path, value: float) -> Path:
    """Copy a model, with another value for one of its numbers."""
    tensors = load_tensors(model)
    tensors[NAME].view(-1)[70] = value
    out_dir.mkdir()
    (out_dir / "config.json").write_bytes((model / "config.json").read_bytes())
    save_tensors(tensors, out_dir / "model.safetensors")
    return out_dir


def _all_with_value(models: tuple[Path, ...], out_dir: Path) -> list[Path]:
    return [_with_value(path, out_dir / path.name, HUGE) for path in models]


def _assert_unfinished(out_dir: Path) -> None:
    assert not (out_dir / "config.json").exists()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("shared", "own", "said"),
    [
        ({"lambda": 1e300}, {}, "lambda 1e+300"),
        ({"lambda": 1e300, "granularity": "row"}, {}, "lambda 1e+300"),
        ({"rescale": True}, {"weight": 1e308}, "weight 1e+308"),
        ({"normalize": True}, {"weight": -1e39}, "weight -1e+39"),
    ],
)
def test_a_config(
    shared: dict[str, Any],
    own: dict[str, Any],
    said: str,
    method: str,
    models: tuple[Path, Path, Path],
    tmp_path: Path,
) -> None:
    """The first tensor is refused, with its models, and the model stays unfinished."""
    base, a, b = models
    parts = {a: {"weight": 0.5, **own}, b: {"weight": 0.4}}
    config = configuration(method, base, parts, shared)
    with pytest.raises(ValueError, match="too large for float32") as caught:
        merge(config, tmp_path / "out")
    message = str(caught.value)
    assert said in message
    named = f"model {a}, tensor " if own else f"model {a}, model {b}, tensor "
    assert f"({named}" in message
    _assert_unfinished(tmp_path / "out")


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1, 2)], ids=["base", "a", "all"])
def test_inputs_that_overflow_as_they_are_read(
    which: tuple[int, ...], models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """`dtype: float16` makes infinities of large numbers, in the base and elsewhere."""
    base, a, b = (
        _with_value(path, tmp_path / path.name, HUGE) if index in which else path
        for index, path in enumerate(models)
    )
    parts = {a: {"weight": 0.5, "density": 0.5}, b: {"weight": 0.5, "density": 1.0}}
    config = configuration("breadcrumbs", base, parts, dtype="float16")
    with pytest.raises(ValueError, match="1 of 1536 elements are not") as caught:
        merge(config, tmp_path / "out")
    assert f"model {a}, tensor {NAME}" in str(caught.value)
    _assert_unfinished(tmp_path / "out")


@pytest.mark.parametrize("method", METHODS)
def test_out_dtype_that_is_too_small(
    method: str, models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """mergekit would round a number to infinity when it saves what is merged well."""
    base, a, b = _all_with_value(models, tmp_path)
    config = configuration(method, base, {a: {"weight": 0.5}, b: {"weight": 0.5}})
    with pytest.raises(ValueError, match="too large for out_dtype") as caught:
        merge({**config, "out_dtype": "float16"}, tmp_path / "narrow")
    message = str(caught.value)
    assert "1 of 1536 elements are too large for out_dtype float16" in message
    assert f"(model {a}, model {b}, tensor {NAME})" in message
    _assert_unfinished(tmp_path / "narrow")
    for out_dtype in ("bfloat16", "float32", "float64", None):
        merged = merge({**config, "out_dtype": out_dtype}, tmp_path / str(out_dtype))
        assert merged[NAME].isfinite().all()


def test_out_dtype_of_another_merge(
    models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """It says nothing about the next merge, whichever way that one is made."""
    base, a, b = models
    parts = {a: {"weight": 0.5}, b: {"weight": 0.5}}
    config = configuration("breadcrumbs", base, parts, out_dtype="float16")
    merged = merge(config, tmp_path / "out")
    assert {tensor.dtype for tensor in merged.values()} == {torch.float16}
    tensors = [torch.full((4,), HUGE), torch.full((4,), HUGE + 1)]
    given: dict[str, Any] = {"base_index": 0, "parameters": {"weight": 1.0}}
    merge_methods.merge_tensors(tensors, "breadcrumbs", **given)
    del config["out_dtype"]
    base, a, b = _all_with_value(models, tmp_path)
    config = configuration("breadcrumbs", base, {a: {"weight": 1.0}})
    assert merge(config, tmp_path / "next")[NAME].isfinite().all()


@pytest.mark.parametrize("elements", [4, 40_000])
def test_out_dtype_of_a_library_call(elements: int) -> None:
    """The number that is just rounded down is taken, the next one is not."""
    given: dict[str, Any] = {"base_index": 0, "parameters": {"weight": 1.0}}
    given |= {"name": "the.weight", "out_dtype": torch.float16}
    base = torch.zeros(elements)
    base[2] = 65519.0
    tuned = base + torch.arange(elements) * 1e-3
    tuned[2] = base[2]
    merged = merge_methods.merge_tensors([base, tuned], "breadcrumbs", **given)
    assert merged.dtype == torch.float16
    assert merged[2] == 65504
    base[2] = tuned[2] = 65520.0
    with pytest.raises(ValueError, match=r"; 1 of .*float16 \(model 1, tensor the.w"):
        merge_methods.merge_tensors([base, tuned], "breadcrumbs", **given)


@pytest.mark.slow
def test_commands(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """mergekit's commands fail, name tensor and model, and leave nothing finished."""
    base, a, b = _all_with_value(models, tmp_path)
    files = [
        save_tensors(load_tensors(path), tmp_path / f"{path.name}.safetensors")
        for path in (base, a)
    ]
    parts = {a: {"weight": 0.5}, b: {"weight": 0.4}}
    cases = {
        "mergekit-yaml": (
            configuration("breadcrumbs", base, parts, {"lambda": 1e300}),
            ("lambda 1e+300", f"(model {a}, model {b}, tensor "),
        ),
        "mergekit-pytorch": (
            configuration(
                "breadcrumbs", files[0], {files[1]: {"weight": 1}}, out_dtype="float16"
            ),
            ("out_dtype float16", f"(model {files[1]}, tensor {NAME})"),
        ),
    }

    def run(command: str) -> tuple[int, str]:
        config, out = tmp_path / f"{command}.yml", tmp_path / command
        config.write_text(yaml.safe_dump(cases[command][0]), encoding="utf-8")
        done = run_script(command, config, out)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(2) as pool:
        ended = dict(zip(cases, pool.map(run, cases), strict=True))
    for command, (_, messages) in cases.items():
        code, said = ended[command]
        assert code != 0
        for message in messages:
            assert message in said
        _assert_unfinished(tmp_path / command)
        assert not list((tmp_path / command).glob("*.index.json"))
