"""What is said of a breadcrumb file that was made."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mergekit_breadcrumbs.extract.run import Extracted
from mergekit_breadcrumbs.files.summary import in_a_config
from mergekit_breadcrumbs.wording import bytes_text, visible


def show(made: Extracted, out_dir: Path) -> None:
    """Print what is stored, and how to use it."""
    table = Table(box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    for label, value in _rows(made):
        table.add_row(label, value)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for remark in made.remarks:
        console.print(f"Note: {visible(remark)}.")
    if not made.changed:
        console.print("Note: nothing changed; with this file the base stays as it is.")
    console.print(in_a_config(made.manifest.base, out_dir))
    if not made.manifest.is_lossless:
        console.print(
            f"with density + gamma of at most {made.manifest.fraction:g} and"
            f" granularity {made.manifest.granularity}."
        )


def _rows(made: Extracted) -> list[tuple[str, str]]:
    share = _percent(made.stored, made.elements)
    kept = _percent(made.stored_square, made.square)
    size = _percent(made.file_bytes, made.checkpoint_bytes)
    return [
        ("changed", f"{_percent(made.changed, made.elements)} of the elements"),
        ("stored", f"{share} of the elements"),
        ("kept", f"{kept} of the task vector's squared norm"),
        ("size", f"{bytes_text(made.file_bytes)}, {size} of the checkpoint's"),
    ]


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "none"
