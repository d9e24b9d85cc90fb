"""The demo's output folder: what belongs in it, and what is never removed."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mergekit_breadcrumbs.demo.tasks import TASKS

RESULTS = "demo-results.json"
UNFINISHED = "UNFINISHED"
SCORE = "score.py"

BASE = "base"
EXPERTS = {task.name: f"expert-{task.name}" for task in TASKS}
FILE = f"{next(iter(EXPERTS.values()))}-file"
METHODS = ("task_arithmetic", "breadcrumbs")
MERGES = {method: f"merged-{method}" for method in METHODS}
TUNED = {method: f"{name}-tuned" for method, name in MERGES.items()}
CONFIGS = {
    name: f"{name.removeprefix('merged-')}.yml"
    for name in (*MERGES.values(), *TUNED.values())
}
MODELS = (BASE, *EXPERTS.values(), *CONFIGS)

_MADE_BY = "mergekit-breadcrumbs demo"
_MODEL_FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "mergekit_config.yml",
    "model-00001-of-00001.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_PARTS = (
    "README.md",
    "adapter_config.json",
    "breadcrumbs.json",
    "breadcrumbs.safetensors",
)
_OURS = {
    *(RESULTS, UNFINISHED, SCORE, *CONFIGS.values(), *MODELS),
    *(f"{model}/{file}" for model in MODELS for file in _MODEL_FILES),
    *(FILE, *(f"{FILE}/{file}" for file in _PARTS)),
}


def claim(out_dir: Path, *, force: bool) -> None:
    """Clear `out_dir` of an earlier demo, and mark it with the file `UNFINISHED`.

    Raises:
        click.UsageError: `out_dir` cannot be written, holds a demo and `force` is
            false, or holds anything that a demo did not write.
    """
    if mark := {"+", "@"} & set(str(out_dir.resolve())):
        raise click.UsageError(
            f"OUT_DIR must be a path without {mark.pop()}, which means a LoRA or a"
            f" revision in a mergekit config; got {out_dir.resolve()}"
        )
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        present = sorted(out_dir.rglob("*"))
        if present:
            _require_replaceable(out_dir, present, force)
        unfinished = out_dir / UNFINISHED
        _write(unfinished, note="This run did not finish; rerun it with --force.")
        # Backwards, so that a folder comes after what is in it.
        for path in reversed(present):
            if path.is_dir():
                path.rmdir()
            elif path != unfinished:
                path.unlink()
    except OSError as error:
        raise click.UsageError(f"cannot write to OUT_DIR: {error}") from error


def finish(out_dir: Path, **results: object) -> None:
    """Write the results, and only then rename `UNFINISHED` to their name."""
    _write(out_dir / UNFINISHED, **results)
    (out_dir / UNFINISHED).replace(out_dir / RESULTS)


def _require_replaceable(out_dir: Path, present: list[Path], force: bool) -> None:
    reasons = [
        f"{path} is something else"
        for path in present
        if path.is_symlink() or not _is_ours(path.relative_to(out_dir))
    ]
    if not any(_signed(out_dir / name) for name in (RESULTS, UNFINISHED)):
        reasons.append(f"{out_dir} has files but neither {RESULTS} nor {UNFINISHED}")
    if reasons:
        raise click.UsageError(
            f"OUT_DIR must hold nothing but a demo; {reasons[0]}. Name another folder."
        )
    if not force:
        kind = "an unfinished" if (out_dir / UNFINISHED).exists() else "an earlier"
        raise click.UsageError(
            f"{out_dir} holds {kind} demo. Add --force to replace it, or name another"
            " folder."
        )


def _is_ours(path: Path) -> bool:
    # Python leaves the scorer, compiled, beside it.
    compiled = path.parts[0] == "__pycache__"
    return path.as_posix() in _OURS or (compiled and len(path.parts) <= 2)


def _signed(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(content, dict) and content.get("made_by") == _MADE_BY


def _write(path: Path, **content: object) -> None:
    text = json.dumps({"made_by": _MADE_BY, **content}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")
