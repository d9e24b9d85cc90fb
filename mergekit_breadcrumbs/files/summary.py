"""What a breadcrumb file holds, for people to read."""

from __future__ import annotations

import math
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mergekit_breadcrumbs.files.manifest import Source
from mergekit_breadcrumbs.files.reader import BreadcrumbFile
from mergekit_breadcrumbs.wording import as_path, bytes_text, counted, listed, visible


def show(directory: Path) -> None:
    """Print what a breadcrumb file holds.

    Raises:
        DamagedFileError: if it cannot be read.
    """
    file = BreadcrumbFile(directory)
    table = Table(box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    for label, value in _facts(file):
        table.add_row(label, value)
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(in_a_config(file.manifest.base, directory), soft_wrap=True)


def in_a_config(base: Source, directory: Path) -> str:
    """Say how a config names the model that a base and a file make."""
    revision = f"@{base.revision}" if base.revision else ""
    model = f"{as_path(base.model)}{revision}+{as_path(str(directory))}"
    return f"In a config:  - model: {visible(model)}"


def _facts(file: BreadcrumbFile) -> list[tuple[str, str]]:
    manifest, entries = file.manifest, file.manifest.tensors
    elements = sum(math.prod(entry.shape) for entry in entries.values())
    stored = sum(entry.stored for entry in entries.values())
    size = sum(path.stat().st_size for path in file.directory.iterdir())
    kept = f"the {manifest.fraction:g} of each {manifest.granularity} that changed most"
    if manifest.is_lossless:
        kept = "all that changed: the fine-tuned model comes back to the bit"
    dtypes = sorted({entry.ranked_in for entry in entries.values() if entry.ranked_in})
    share = f"{100 * stored / elements:.3g} %" if elements else "none"
    facts = [
        ("holds", kept),
        ("for merges in", ", ".join(dtypes) or "any dtype"),
        ("base", _source(manifest.base)),
        ("fine-tuned", _source(manifest.finetuned)),
        ("stored", f"{share} of {counted(elements, 'element')}"),
        ("tensors", _tensors(file)),
        ("size", bytes_text(size)),
        ("made by", visible(manifest.written_by)),
    ]
    if manifest.whole:
        facts.insert(6, ("stored whole", visible(listed(list(manifest.whole)))))
    return facts


def _source(source: Source) -> str:
    revision = source.commit or source.revision
    return visible(f"{source.model} at {revision}" if revision else source.model)


def _tensors(file: BreadcrumbFile) -> str:
    entries = file.manifest.tensors
    untouched = sum(not entry.stored for entry in entries.values())
    most = sorted(
        (name for name, entry in entries.items() if entry.stored),
        key=lambda name: -file.bytes_of(name),
    )
    text = str(len(entries)) + (f", {untouched} of them untouched" if untouched else "")
    if most:
        text += f"; most is stored of {visible(listed(most[:1]))}"
    return text
