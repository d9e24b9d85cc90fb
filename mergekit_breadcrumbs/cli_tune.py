"""The command `mergekit-breadcrumbs tune`."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mergekit_breadcrumbs.cli_options import mergekit_options
from mergekit_breadcrumbs.wording import visible

if TYPE_CHECKING:
    from mergekit_breadcrumbs.tune.search import Search

_LM_EVAL = (
    *("tasks_folder", "limit", "num_fewshot", "batch_size", "chat_template"),
    "run_code",
)
_EXTRA = ("matplotlib", "optuna", "ruamel.yaml", "scipy", "sqlalchemy")


def _require_extra() -> None:
    for module in _EXTRA:
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise click.ClickException(
                f"tune needs {module}: pip install 'mergekit-breadcrumbs[tune]'"
            )


def _require_lm_eval(ctx: click.Context) -> None:
    """Refuse options of lm-eval where no scorer is lm-eval."""
    scorers = [ctx.params["score"], ctx.params["validate_with"] or ""]
    if any(text.strip().startswith("lm-eval:") for text in scorers):
        return
    for param in ctx.command.params:
        name = param.name or ""
        given = ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
        if name in _LM_EVAL and given:
            raise click.UsageError(f"{param.opts[0]} goes with --score lm-eval:TASK")


def _read_searches(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Leave them as text: what reads them needs mergekit, whose import is slow."""
    for text in value:
        if "=" not in text or ":" not in text:
            raise click.BadParameter(
                f"must be NAME=LOW:HIGH or NAME=LOW:HIGH:log; got {text!r}", ctx, param
            )
    return value


def _read_batch_size(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if re.fullmatch(r"[1-9]\d*|auto(:[1-9]\d*)?", value) is None:
        raise click.BadParameter(
            f"must be a number from 1, auto or auto:N; got {value!r}", ctx, param
        )
    return value


def _positive(
    ctx: click.Context, param: click.Parameter, value: float | None
) -> float | None:
    if value is not None and not 0 < value < float("inf"):  # NaN, too
        raise click.BadParameter(f"must be more than 0; got {value:g}", ctx, param)
    return value


@click.command(short_help="Search the parameters that score best on your models.")
@click.argument("config", type=click.Path(exists=True, path_type=Path))
@click.argument("out_dir", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--score",
    required=True,
    metavar="SCORER",
    help="What gives a model its score; more is better. lm-eval:TASK,TASK runs tasks of"
    " lm-eval; 'COMMAND {model}' is a shell command whose last line is a number or a"
    " JSON object of numbers; MODULE:FUNCTION or FILE.py:FUNCTION is called with the"
    " model.",
)
@click.option(
    "--search",
    "searches",
    multiple=True,
    callback=_read_searches,
    metavar="NAME=LOW:HIGH[:log]",
    help="Search this parameter in this range; may be repeated. weight gives each model"
    " its own. Without it: lambda=0.05:2:log, density=0.02:0.95 and gamma=0:0.05, as"
    " far as the method has them.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="N",
    help="How many merges to try, all workers together.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="With one worker, the same seed gives the same trials.",
)
@click.option(
    "--validate",
    "validate_with",
    metavar="SCORER",
    help="Score base, inputs, CONFIG and the best at the end on other questions.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="METHOD",
    help="Tune this merge method too, with as many trials; may be repeated.",
)
@click.option(
    "--relative", is_flag=True, help="Divide each score by the best input's own."
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Run a command or a function N times for each model, for its error.",
)
@click.option(
    "--timeout",
    type=float,
    callback=_positive,
    metavar="SECONDS",
    help="A scorer that takes longer is ended, and the trial has failed.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="Keep the study in this database, for workers on many machines. Default: a"
    " file in OUT_DIR.",
)
@click.option(
    "--name", metavar="NAME", help="Of the study in the database. Default: OUT_DIR's."
)
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where merged models are kept while they are scored. Default: OUT_DIR.",
)
@click.option(
    "--tasks-folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="lm-eval: a folder with files of your own tasks.",
)
@click.option(
    "--limit",
    type=float,
    callback=_positive,
    metavar="N",
    help="lm-eval: only the first N questions of each task; below 1, that fraction.",
)
@click.option(
    "--num-fewshot",
    type=click.IntRange(min=0),
    metavar="N",
    help="lm-eval: examples before each question. Default: the task's own.",
)
@click.option(
    "--batch-size",
    default="1",
    show_default=True,
    callback=_read_batch_size,
    metavar="N",
    help="lm-eval: questions at a time, or auto.",
)
@click.option(
    "--chat-template/--no-chat-template",
    default=None,
    help="lm-eval: whether to use the tokenizer's. Default: where it has one.",
)
@click.option(
    "--run-code", is_flag=True, help="lm-eval: run the code that the models write."
)
@mergekit_options
def tune(config: Path, out_dir: Path, **options: Any) -> None:
    """Search the values of CONFIG's parameters that score best, and compare.

    CONFIG is a YAML file for mergekit-yaml, of any merge method. Each trial merges it
    with other values and scores the merged model; Optuna chooses the values. The base
    and the inputs are scored first. OUT_DIR gets best.yml, for mergekit-yaml;
    trials.csv; report.json; and tune.png. No merged model is kept.

    Ctrl-C loses nothing: the same command goes on where it stopped. The same command
    in another shell, or on another machine with the same OUT_DIR or --storage, takes
    part in the same study.
    """
    _require_extra()
    _require_lm_eval(click.get_current_context())
    from mergekit.options import MergeOptions
    from optuna.exceptions import OptunaError

    from mergekit_breadcrumbs.tune.prepare import Request
    from mergekit_breadcrumbs.tune.run import tune as find
    from mergekit_breadcrumbs.tune.study import StudyEnded
    from mergekit_breadcrumbs.tune.table import print_report

    own = set(Request.__dataclass_fields__)
    asked = {name: options.pop(name) for name in own & options.keys()}
    asked["searches"] = tuple(map(_search, asked["searches"]))
    lm_eval = {name: options.pop(name) for name in _LM_EVAL}
    merge_options = MergeOptions(**options)
    merge_options.apply_global_options()
    request = Request(config=config, out=out_dir, lm_eval=lm_eval, **asked)
    try:
        report = find(request, merge_options, sys.stderr)
    except (ValueError, StudyEnded, OptunaError) as error:
        raise click.ClickException(str(error)) from error
    print_report(report, sys.stdout)
    best = visible(shlex.quote(str(out_dir / "best.yml")))
    click.echo(f"\nMerge the best with: mergekit-yaml {best} MODEL_DIR")


def _search(text: str) -> Search:
    from mergekit_breadcrumbs.tune.space import read_search

    try:
        return read_search(text)
    except ValueError as error:
        raise click.UsageError(f"--search: {error}") from error
