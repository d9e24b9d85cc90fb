"""Breadcrumb files of tiny checkpoints."""

from pathlib import Path

from mergekit.options import MergeOptions

from mergekit_breadcrumbs.extract.run import Extracted, Request, extract


def make_file(base: Path, finetuned: Path, out_dir: Path, **request) -> Extracted:
    """Make a breadcrumb file in this process, as the command does."""
    options = request.pop("options", {})
    return extract(
        Request(str(base), str(finetuned), out_dir, **request),
        MergeOptions(quiet=True, **options),
    )
