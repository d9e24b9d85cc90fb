"""What is wrong is refused: by name, before a tensor is read, with nothing left."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mergekit.io import LazyTensorLoader
from support.checkpoints import finetune, load_tensors, make_base, save_tensors
from support.merging import configuration, merge
from support.repository import run_script

METHODS = ("breadcrumbs", "breadcrumbs_ties")
NAN, INF = float("nan"), float("inf")
FIRST, UP = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"
FRACTION = r"must be in [0, 1]"
NUMBER = "must be a finite number"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A base, `a` and `b`."""
    root = tmp_path_factory.mktemp("models")
    base = make_base(root / "base")
    return base, finetune(base, root / "a", seed=1), finetune(base, root / "b", seed=2)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make reading a tensor fail the test."""

    def read(self: Any, key: str, *args: Any, **kwargs: Any) -> None:
        pytest.fail(f"tensor {key} was read")

    monkeypatch.setattr(LazyTensorLoader, "get_tensor", read)


def assert_nothing_finished(out_dir: Path) -> None:
    """Check that no loader would take the directory for a model."""
    left = sorted(path.name for path in out_dir.glob("*"))
    finished = ("config.json", "index.json", "model.safetensors", "model.bin", "-of-")
    assert [n for n in left if any(part in n for part in finished)] == []


def _filtered(value: Any, other: Any = 0.5) -> list[dict[str, Any]]:
    return [{"filter": "mlp", "value": value}, {"value": other}]


# A parameter of model a, what it is said to need, what is said to have come, and the
# first tensor for which it comes.
PER_MODEL: dict[str, tuple[str, Any, str, str, str]] = {
    "density over 1": ("density", 1.5, FRACTION, "1.5", FIRST),
    "density under 0": ("density", -0.1, FRACTION, "-0.1", FIRST),
    "density just over 1": ("density", 1.0000001, FRACTION, "1.0000001", FIRST),
    "density NaN": ("density", NAN, FRACTION, "nan", FIRST),
    "density NaN as text": ("density", "nan", FRACTION, "'nan'", FIRST),
    "density infinite": ("density", INF, FRACTION, "inf", FIRST),
    "density text": ("density", "lots", FRACTION, "'lots'", FIRST),
    "density empty text": ("density", "", FRACTION, "''", FIRST),
    "density true": ("density", True, FRACTION, "True", FIRST),
    "density false": ("density", False, FRACTION, "False", FIRST),
    "density in a gradient": ("density", [0.5, 1.5], FRACTION, "1.5", FIRST),
    "density NaN in a gradient": ("density", [0.5, NAN], FRACTION, "nan", FIRST),
    "density bool in a gradient": ("density", [0.5, True], FRACTION, "True", FIRST),
    "density in a filter": ("density", _filtered(90), FRACTION, "90", UP),
    "density bool in a filter": ("density", _filtered(True), FRACTION, "True", UP),
    "density gradient in a filter": ("density", _filtered([0, 2]), FRACTION, "2", UP),
    "gamma over 1": ("gamma", 2, FRACTION, "2", FIRST),
    "gamma under 0": ("gamma", "-1e-3", FRACTION, "'-1e-3'", FIRST),
    "gamma NaN": ("gamma", NAN, FRACTION, "nan", FIRST),
    "gamma text": ("gamma", "1%", FRACTION, "'1%'", FIRST),
    "gamma bool": ("gamma", False, FRACTION, "False", FIRST),
    "gamma in a gradient": ("gamma", [0, 0.1, -0.1], FRACTION, "-0.1", FIRST),
    "gamma in a filter": ("gamma", _filtered("x"), FRACTION, "'x'", UP),
    "weight NaN": ("weight", NAN, NUMBER, "nan", FIRST),
    "weight infinite": ("weight", -INF, NUMBER, "-inf", FIRST),
    "weight overflowing text": ("weight", "1e999", NUMBER, "'1e999'", FIRST),
    "weight text": ("weight", "heavy", NUMBER, "'heavy'", FIRST),
    "weight bool": ("weight", True, NUMBER, "True", FIRST),
    "weight in a gradient": ("weight", [0.5, INF], NUMBER, "inf", FIRST),
    "weight in a filter": ("weight", _filtered(NAN), NUMBER, "nan", UP),
}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("row", PER_MODEL.values(), ids=PER_MODEL)
def test_per_model_values(
    row: tuple[str, Any, str, str, str],
    models: tuple[Path, Path, Path],
    tmp_path: Path,
) -> None:
    """The error names parameter, value, model and tensor, and comes while planning."""
    base, a, b = models
    key, value, needed, got, tensor = row
    parts = {b: {"weight": 1.0}, a: {"weight": 1.0, key: value}}
    config = configuration("breadcrumbs", base, parts)
    with pytest.raises(ValueError, match="must be") as caught:
        merge(config, tmp_path / "out")
    message = f"{key} {needed}; got {got} for model {a}, tensor {tensor}"
    assert str(caught.value) == message
    assert_nothing_finished(tmp_path / "out")


GRANULARITY, BOOL = "must be 'tensor' or 'row'", "must be true or false"
SHARED: dict[str, tuple[str, Any, str, str, str]] = {
    "lambda NaN": ("lambda", NAN, NUMBER, "nan", FIRST),
    "lambda infinite": ("lambda", INF, NUMBER, "inf", FIRST),
    "lambda text": ("lambda", "half", NUMBER, "'half'", FIRST),
    "lambda bool": ("lambda", True, NUMBER, "True", FIRST),
    "lambda in a gradient": ("lambda", [1, INF], NUMBER, "inf", FIRST),
    "lambda in a filter": ("lambda", _filtered(False), NUMBER, "False", UP),
    "granularity": ("granularity", "column", GRANULARITY, "'column'", FIRST),
    "granularity capital": ("granularity", "Row", GRANULARITY, "'Row'", FIRST),
    "granularity number": ("granularity", 1, GRANULARITY, "1", FIRST),
    "granularity in a filter": (
        "granularity",
        _filtered("x", "row"),
        GRANULARITY,
        "'x'",
        UP,
    ),
    "normalize text": ("normalize", "maybe", BOOL, "'maybe'", FIRST),
    "rescale number": ("rescale", 0.5, BOOL, "0.5", FIRST),
    "int8_mask text": ("int8_mask", "x", BOOL, "'x'", FIRST),
}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("row", SHARED.values(), ids=SHARED)
def test_shared_values(
    row: tuple[str, Any, str, str, str],
    models: tuple[Path, Path, Path],
    tmp_path: Path,
) -> None:
    """A value for all models names no model, but parameter, value and tensor."""
    base, a, b = models
    key, value, needed, got, tensor = row
    parts = {a: {"weight": 1.0}, b: {"weight": 1.0}}
    config = configuration("breadcrumbs", base, parts, {key: value})
    with pytest.raises(ValueError, match="must be") as caught:
        merge(config, tmp_path / "out")
    assert str(caught.value) == f"{key} {needed}; got {got} for tensor {tensor}"
    assert_nothing_finished(tmp_path / "out")


def _no_base(base: Path, a: Path, b: Path) -> tuple[Any, str]:
    parts = {a: {"weight": 1.0}, b: {"weight": 1.0}}
    return (
        configuration("breadcrumbs", None, parts),
        "breadcrumbs requires a base input for default.slices[0]: set base_model in"
        " the config (base or base_index in a library call)",
    )


def _base_only(base: Path, a: Path, b: Path) -> tuple[Any, str]:
    return (
        configuration("breadcrumbs_ties", base, {base: {"weight": 1.0}}),
        "breadcrumbs_ties requires a model besides the base for default.slices[0];"
        f" got only {base}",
    )


def _base_only_in_one_slice(base: Path, a: Path, b: Path) -> tuple[Any, str]:
    slices = [
        {"sources": [{"model": str(path), "layer_range": [i, i + 1]} for path in paths]}
        for i, paths in enumerate(((base, a), (base,)))
    ]
    config = configuration("breadcrumbs", base, {}, {"weight": 1.0}, slices=slices)
    del config["models"]
    return (
        config,
        "breadcrumbs requires a model besides the base for default.slices[1];"
        f" got only {base}",
    )


def _missing_weight(base: Path, a: Path, b: Path) -> tuple[Any, str]:
    parts = {a: {"weight": 1.0}, b: {"density": 0.5}}
    return (
        configuration("breadcrumbs", base, parts),
        f"Missing required parameter weight for {b}.{FIRST}",
    )


def _missing_weight_of_some(base: Path, a: Path, b: Path) -> tuple[Any, str]:
    some = {"weight": [{"filter": "self_attn", "value": 1.0}]}
    return (
        configuration("breadcrumbs", base, {a: {"weight": 1.0}, b: some}),
        f"Missing required parameter weight for {b}.{FIRST}",
    )


def _model_twice(base: Path, a: Path, b: Path) -> tuple[Any, str]:
    config = configuration("breadcrumbs", base, {a: {"weight": 1.0}})
    config["models"] *= 2
    return config, "Duplicate merge inputs for default.slices[0]"


STRUCTURE = [
    _no_base,
    _base_only,
    _base_only_in_one_slice,
    _missing_weight,
    _missing_weight_of_some,
    _model_twice,
]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("case", STRUCTURE, ids=lambda case: case.__name__[1:])
def test_structure(
    case: Callable[..., tuple[Any, str]],
    models: tuple[Path, Path, Path],
    tmp_path: Path,
) -> None:
    """What a merge lacks is said while planning."""
    config, message = case(*models)
    with pytest.raises((ValueError, RuntimeError)) as caught:
        merge(config, tmp_path / "out")
    assert str(caught.value) == message
    assert_nothing_finished(tmp_path / "out")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("density", [0.5, 1.0])
def test_non_finite_elements(
    density: float, method: str, models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """The error names model and tensor and counts; written shards look unfinished."""
    base, a, b = models
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = load_tensors(b)
    tensors[name].view(-1)[[3, 50, 700]] = torch.tensor([NAN, INF, -INF])
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((b / "config.json").read_bytes())
    save_tensors(tensors, broken / "model.safetensors")
    own = {"weight": 0.5, "density": density}
    config = configuration(method, base, {a: own, broken: own})
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="must be finite") as caught:
        merge(config, out, out_shard_size=5_000)
    for part in (f"model {broken}, tensor {name}", "3 of 1536 elements"):
        assert part in str(caught.value)
    assert list(out.glob("*.safetensors")), "no shard was written before the error"
    assert_nothing_finished(out)


def test_shapes_that_differ(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """mergekit's own advice comes through."""
    base, a, _ = models
    larger = finetune(base, tmp_path / "larger", seed=3, added_rows=2)
    parts = {a: {"weight": 1.0}, larger: {"weight": 1.0}}
    config = configuration("breadcrumbs", base, parts)
    with pytest.raises(ValueError, match="Tensor size mismatch for") as caught:
        merge(config, tmp_path / "out")
    assert "Align vocabulary axes with tokenizer configuration" in str(caught.value)
    assert_nothing_finished(tmp_path / "out")


@pytest.mark.slow
def test_commands(models: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """mergekit's commands fail with the same words and leave nothing finished."""
    base, a, _ = models
    files = {
        path: save_tensors(load_tensors(path), tmp_path / f"{path.name}.safetensors")
        for path in (base, a)
    }
    good = {"weight": 1.0}
    cases = {
        "mergekit-yaml": (
            configuration("breadcrumbs", base, {a: {**good, "density": 1.5}}),
            f"density must be in [0, 1]; got 1.5 for model {a}, tensor {FIRST}",
        ),
        "mergekit-pytorch": (
            configuration("breadcrumbs", files[base], {files[a]: good}, {"gamma": NAN}),
            f"gamma must be in [0, 1]; got nan for model {files[a]}, tensor ",
        ),
    }

    def run(command: str) -> tuple[int, str]:
        config, out = tmp_path / f"{command}.yml", tmp_path / command
        config.write_text(yaml.safe_dump(cases[command][0]), encoding="utf-8")
        done = run_script(command, config, out)
        return done.returncode, done.stderr

    with ThreadPoolExecutor(2) as pool:
        ended = dict(zip(cases, pool.map(run, cases), strict=True))
    for command, (_, message) in cases.items():
        code, said = ended[command]
        assert code != 0
        assert message in said
        assert_nothing_finished(tmp_path / command)
