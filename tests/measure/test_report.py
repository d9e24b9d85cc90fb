"""The JSON of an inspection: complete, finite, documented, and the same each time."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from mergekit.config import MergeConfiguration
from mergekit.options import MergeOptions
from pydantic import ValidationError
from support.checkpoints import finetune, make_base
from support.inspected import usual
from support.merging import configuration

from mergekit_breadcrumbs.measure.report import Report
from mergekit_breadcrumbs.measure.run import run_inspection

QUIET = MergeOptions(quiet=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MergeConfiguration:
    """A merge of two fine-tunings, one of them not changed at all."""
    folder = tmp_path_factory.mktemp("models")
    base = make_base(folder / "base")
    tuned = finetune(base, folder / "tuned", seed=1)
    same = finetune(base, folder / "same", seed=2, scale=0.0)
    models = {tuned: {"weight": 0.5}, same: {"weight": 0.5, "density": 0.0}}
    return MergeConfiguration.model_validate(configuration("breadcrumbs", base, models))


def inspected(config: MergeConfiguration, target: str, **options) -> tuple[str, str]:
    """Run an inspection; return what it wrote to standard output and error."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        run_inspection(config, QUIET, json_file=target, **options)
    return out.getvalue(), err.getvalue()


def refuse(constant: str) -> None:
    """Take the place of NaN and infinities, which JSON does not have."""
    raise AssertionError(constant)


def test_round_trip(config: MergeConfiguration, tmp_path: Path) -> None:
    """A file reads back as the report that it was written from; the table is shown."""
    file = tmp_path / "report.json"
    out, _ = inspected(config, str(file))
    text = file.read_text(encoding="utf-8")
    report = Report.model_validate_json(text)
    assert report.model_dump_json(indent=1) + "\n" == text
    assert json.loads(text, parse_constant=refuse)["version"] == 1
    assert "across models" in out
    assert len(report.tensors) == 2 * 9 + 3


def test_standard_output(config: MergeConfiguration) -> None:
    """`-` leaves standard output to the JSON and shows the tables beside it."""
    out, err = inspected(config, "-")
    report = Report.model_validate_json(out)
    assert [Path(model).name for model in report.models] == ["tuned", "same"]
    assert "same: does not differ from the base" in err


def test_two_runs_can_be_compared(config: MergeConfiguration) -> None:
    """The same models give the same text, whatever was inspected before."""
    first, _ = inspected(config, "-")
    part, _ = inspected(config, "-", layers=[1])
    again, _ = inspected(config, "-")
    assert first == again != part
    whole, some = json.loads(first), json.loads(part)
    assert some["layers"] == [1]
    kept = [t for t in whole["tensors"] if t["layer"] == 1]
    assert some["tensors"] == kept
    assert len(kept) == 9


def test_order_of_keys() -> None:
    """Keys stand in the order of the schema, and the version comes first."""
    content = json.loads(usual().model_dump_json())
    assert list(content) == list(Report.model_fields)
    assert next(iter(content)) == "version"
    vector = content["tensors"][0]["vectors"][0]
    schema = Report.model_json_schema()
    assert list(vector) == list(schema["$defs"]["TaskVectorReport"]["properties"])


def test_every_field_is_described() -> None:
    """The schema says of each field what it is."""
    schema = Report.model_json_schema()
    for model in (schema, *schema["$defs"].values()):
        assert model["description"]
        for name, field in model.get("properties", {}).items():
            assert len(field["description"]) > 10, name


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"unknown": 1},
        {"layer_count": None},
        {"tensors": [{"name": "x"}]},
    ],
    ids=["another version", "an unknown key", "a null", "a key that is missing"],
)
def test_schema_refuses(change: dict[str, object]) -> None:
    """What is not this version's schema is not taken for it."""
    content = json.loads(usual().model_dump_json()) | change
    with pytest.raises(ValidationError):
        Report.model_validate(content)


def test_numbers_are_finite() -> None:
    """No NaN and no infinity gets into a report."""
    vector = usual().tensors[0].vectors[0]
    with pytest.raises(ValidationError):
        type(vector).model_validate(vector.model_dump() | {"weight": float("nan")})
