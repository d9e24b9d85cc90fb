"""The end of the demo: one expert as a breadcrumb file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

from mergekit_breadcrumbs.demo.folder import BASE, EXPERTS, FILE
from mergekit_breadcrumbs.extract.run import Request, extract
from mergekit_breadcrumbs.wording import bytes_text

FRACTION, DENSITY, GAMMA = 0.2, 0.19, 0.01


def make_file(out_dir: Path) -> str:
    """Store what an expert changed the most, and merge from that and from all of it.

    Returns what came out, in words.
    """
    names = BASE, next(iter(EXPERTS.values()))
    base, expert = (str(out_dir / name) for name in names)
    options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False)
    request = Request(base, expert, out_dir / FILE, FRACTION)
    made = extract(request, options)
    text = (
        f"{Path(expert).name} is {bytes_text(made.checkpoint_bytes)}; as a breadcrumb"
        f" file with {100 * FRACTION:g} % of each\ntensor, {FILE}, it is"
        f" {bytes_text(made.file_bytes)}."
    )
    if os.environ.get("MERGEKIT_BREADCRUMBS") == "0":  # mergekit then reads no file
        return text
    with tempfile.TemporaryDirectory() as folder:
        merged = []
        for name, model in (("full", expert), ("file", f"{base}+{out_dir / FILE}")):
            run_merge(_config(base, model), f"{folder}/{name}", options)
            merged.append(Path(folder, name, "model.safetensors").read_bytes())
    outcome = "the same bits" if merged[0] == merged[1] else "OTHER BITS"
    return (
        f"{text} Merged at density {DENSITY} and gamma {GAMMA},\nboth give {outcome}."
    )


def _config(base: str, model: str) -> MergeConfiguration:
    parameters = {"weight": 1.0, "density": DENSITY, "gamma": GAMMA}
    return MergeConfiguration.model_validate(
        {
            "merge_method": "breadcrumbs",
            "base_model": base,
            "models": [{"model": model, "parameters": parameters}],
        }
    )
