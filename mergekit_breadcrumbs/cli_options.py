"""The arguments of `inspect` and `verify`, refused before any work.

Neither mergekit nor torch is imported here, so that `--help` stays quick.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def read_layers(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """Return the numbers of `0,5,-1` in the order given, without doubles."""
    if value is None:
        return None
    try:
        return tuple(dict.fromkeys(int(part) for part in value.split(",")))
    except ValueError:
        raise click.BadParameter(
            f"must be layer numbers separated by commas, such as 0,5,-1; got {value!r}",
            ctx,
            param,
        ) from None


def require_writable(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> str | None:
    """Refuse a file that cannot be written; `-` is standard output."""
    if value is None or value == "-":
        return value
    path = Path(value)
    problem = None
    if path.is_dir():
        problem = f"{value!r} is a directory"
    elif not path.parent.is_dir():
        problem = f"there is no directory {str(path.parent)!r}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        problem = f"{value!r} cannot be written"
    if problem is not None:
        raise click.BadParameter(problem, ctx, param)
    return value


def require_matplotlib(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> str | None:
    """Refuse a picture where matplotlib is not installed, or cannot write its kind."""
    if value is None:
        return None
    if importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError(
            "--plot needs matplotlib: pip install 'mergekit-breadcrumbs[plot]'", ctx
        )
    if Path(value).suffix.lower() != ".png":
        raise click.BadParameter(f"must end in .png; got {value!r}", ctx, param)
    return require_writable(ctx, param, value)


def mergekit_options(command: _Command) -> _Command:
    """Add those of mergekit's own options that matter without writing a model.

    They are written out, because mergekit makes its own from a class whose import
    takes seconds.
    """
    for option in reversed(_MERGING):
        command = option(command)
    return reading_options(command)


def reading_options(command: _Command) -> _Command:
    """Add those of mergekit's own options that say how models are read."""
    for option in reversed(_READING):
        command = option(command)
    return command


def _flag(name: str, text: str) -> Callable[[_Command], _Command]:
    return click.option(f"--{name}/--no-{name}", default=False, help=text)


def _value(name: str, text: str) -> Callable[[_Command], _Command]:
    return click.option(f"--{name}", type=str, default=None, help=text)


_READING: tuple[Callable[[Any], Any], ...] = (
    _value("transformers-cache", "Where models from the hub are kept."),
    _value("lora-merge-cache", "Where models merged with their LoRA adapter are kept."),
    _value("lora-merge-dtype", "Apply LoRA adapters in this dtype."),
    _flag("lazy-unpickle", "Read pickled checkpoints tensor by tensor."),
    click.option(
        "--num-threads",
        "-j",
        type=int,
        default=None,
        help="How many CPU threads to use.",
    ),
    _flag("trust-remote-code", "Run code that comes with a model."),
    _flag("quiet", "Show no progress."),
    click.option("-v", "verbosity", count=True, help="Log more; twice for still more."),
)
_MERGING: tuple[Callable[[Any], Any], ...] = (
    _flag("cuda", "Compute on the GPU."),
    _value("device", "Compute on this device, such as cuda:1."),
    _flag("low-cpu-memory", "Keep intermediate tensors on the device."),
    _flag("read-to-gpu", "Load tensors straight to the device."),
    _flag("allow-crimes", "Accept models of different architectures."),
    _flag("unsafe-truncate-embeddings", "Cut embeddings to the smallest vocabulary."),
)
