"""What every command does at its edges: how it prints, and how it ends.

Names from a model's files are in exceptions, logs and warnings, too, of mergekit and of
others. None of them gets to a terminal with control characters in it.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, requires
from types import TracebackType
from typing import Any, TextIO

import click

from mergekit_breadcrumbs.wording import shortened, visible, visible_lines

INTERRUPTED = 130
"""The exit status after Ctrl-C, as a shell counts it."""

# What tables hold beyond ASCII, for terminals that have no more.
_PLAIN = {"\N{SUPERSCRIPT TWO}": "2", "\N{HORIZONTAL ELLIPSIS}": "~"}
_DISTRIBUTIONS = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub"}


class Commands(click.Group):
    """A group of commands that end with a sentence, and never with a traceback."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command and exit, as click does."""
        run: Callable[..., object] = super().main
        if os.environ.get("NO_COLOR"):  # see no-color.org
            extra.setdefault("color", False)
        if not standalone_mode:
            return run(*args, standalone_mode=False, **extra)
        with _safe_output():
            try:
                raise SystemExit(_status(run, *args, **extra))
            except click.ClickException as error:
                _show(error)
                status = error.exit_code
            except (KeyboardInterrupt, click.Abort):
                click.echo("Interrupted.", err=True)
                status = INTERRUPTED
            except ImportError as error:
                _show(click.ClickException(_what_to_install(error)))
                status = 1
            except MemoryError:
                _show(click.ClickException("out of memory"))
                status = 1
            except OSError as error:
                _abandon_output(error)
                _show(click.ClickException(what_failed(error)))
                status = 1
            raise SystemExit(status)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command where there is a working directory: torch dies without one."""
        try:
            os.getcwd()
        except OSError:
            raise click.ClickException(
                "the working directory is gone: change to another one"
            ) from None
        return super().invoke(ctx)


def _status(run: Callable[..., object], *args: Any, **extra: Any) -> Any:
    """Return how a command ended, with all that it printed written out."""
    try:
        status = run(*args, standalone_mode=False, **extra)
    except SystemExit as end:
        status = end.code
    # At exit Python would tell of a full disk in its own way.
    sys.stdout.flush()
    return status


def what_failed(error: OSError) -> str:
    """Return what an operating system's error says, and of which file.

    Example:
        >>> what_failed(OSError(28, "No space left on device", "it.json"))
        'it.json: No space left on device'
    """
    if not error.strerror:
        return str(error) or type(error).__name__
    if error.filename is None:
        return f"cannot write the output: {error.strerror}"
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _show(error: click.ClickException) -> None:
    # Messages of several lines are of our own making; those about arguments are not.
    clean = visible if isinstance(error, click.UsageError) else visible_lines
    text = clean(error.format_message())
    error.format_message = lambda: text  # type: ignore[method-assign]
    with suppress(OSError):
        error.show()


def _what_to_install(error: ImportError) -> str:
    """Return which package has to be installed, and how.

    Raises:
        ImportError: that one, if it is a module of this package that is missing.
    """
    module = (error.name or "").partition(".")[0]
    if module == "mergekit_breadcrumbs":
        raise error
    if not module:
        return shortened(str(error))
    package = _DISTRIBUTIONS.get(module, module)
    try:
        needed = requires("mergekit-breadcrumbs") or []
    except PackageNotFoundError:
        needed = []
    found = [text.partition(";")[0] for text in needed if text.startswith(package)]
    command = f"pip install '{found[0] if found else package}'"
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed here. Install it with: {command}"
    return f"this {package} cannot be used ({error}). Install another: {command}"


def _abandon_output(error: OSError) -> None:
    """Let what cannot be written go, where it was for standard output."""
    if error.filename is not None:
        return
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _safe_output() -> Iterator[None]:
    """Have nothing printed that a terminal obeys, or that it cannot show."""
    codecs.register_error("mergekit_breadcrumbs", _degraded)
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mergekit_breadcrumbs")
    make_record, format_warning = logging.getLogRecordFactory(), warnings.formatwarning

    def visible_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        with suppress(Exception):  # logging itself tells of what cannot be formatted
            record.msg, record.args = visible_lines(record.getMessage()), None
        if record.exc_info and record.exc_info[1] is not None:
            # This is printed in the place of the whole traceback.
            error = traceback.format_exception_only(record.exc_info[1])
            record.exc_text = visible_lines("".join(error).rstrip())
        return record

    def visible_warning(*args: Any, **kwargs: Any) -> str:
        return visible_lines(format_warning(*args, **kwargs))

    logging.setLogRecordFactory(visible_record)
    warnings.formatwarning = visible_warning
    sys.excepthook = _show_bug
    try:
        yield
    finally:
        logging.setLogRecordFactory(make_record)
        warnings.formatwarning = format_warning


def _degraded(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks as something that is as wide, or as an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or ascii(c)[1:-1] for c in lacking), error.end


def _show_bug(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    """Print the traceback of a bug of ours, which may quote names as well."""
    lines = traceback.format_exception(kind, error, where)
    with suppress(OSError):
        sys.stderr.write(visible_lines("".join(lines)))
