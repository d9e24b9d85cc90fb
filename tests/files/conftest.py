"""A base, its fine-tunings, and breadcrumb files of them, made once."""

from types import SimpleNamespace

import pytest
import torch
from support.breadcrumb_files import make_file
from support.checkpoints import finetune, make_base

# An embedding of so many rows is too large to be sorted whole.
ROWS = 2100


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return paths: base, other (another base), full, by_tensor, by_row, lossless."""
    folder = tmp_path_factory.mktemp("files")
    base = make_base(folder / "base", dtype=torch.bfloat16, rows=ROWS)
    other = make_base(folder / "other", dtype=torch.bfloat16, rows=ROWS, seed=5)
    full = [finetune(base, folder / f"full{i}", seed=i) for i in range(3)]
    kinds = {
        "by_tensor": {},
        "by_row": {"granularity": "row"},
        "lossless": {"fraction": 1.0},
    }
    files = {kind: [] for kind in kinds}
    for kind, request in kinds.items():
        for index, model in enumerate(full):
            files[kind].append(folder / f"{kind}{index}")
            make_file(base, model, files[kind][-1], **request)
    return SimpleNamespace(folder=folder, base=base, other=other, full=full, **files)
