"""Configs that are right, the tiny models that they name, and what checks say of them.

A case changes one thing in a config, and knows all that is to be said then.
"""

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergekit.options import MergeOptions
from support.checkpoints import (
    SHARDED,
    finetune,
    load_tensors,
    make_base,
    make_lora,
    save_tensors,
)

from mergekit_breadcrumbs.check.run import check_text

MODELS = """\
merge_method: breadcrumbs
base_model: ./base
models:
  - model: ./math
    parameters:
      weight: 0.5
  - model: ./code
    parameters:
      weight: 0.5
parameters:
  density: 0.9
  gamma: 0.01
dtype: bfloat16
"""
SLICES = """\
merge_method: breadcrumbs
base_model: ./base
slices:
  - sources:
      - {model: ./base, layer_range: [0, 1]}
      - {model: ./math, layer_range: [0, 1]}
  - sources:
      - {model: ./base, layer_range: [1, 2]}
      - {model: ./math, layer_range: [1, 2]}
    parameters: {density: 0.5}
parameters: {weight: 0.5, density: 0.9}
"""
MODULES = """\
merge_method: breadcrumbs_ties
base_model: ./base
modules:
  default:
    models:
      - model: ./math
        parameters: {weight: 0.5}
    parameters: {density: 0.9}
"""

PLANNED = "! mergekit plans it all the same"


def make_models(root: Path) -> Path:
    """Write a base of 2 layers, 21 tensors, two fine-tunings, and what fits badly."""
    base = make_base(root / "base")
    finetune(base, root / "math", seed=1)
    code = finetune(base, root / "code", seed=2)
    finetune(base, root / "wide", seed=3, added_rows=2)
    finetune(base, root / "pickled", seed=7, file_format="bin")
    wide: dict[str, Any] = {"added_rows": 2, "max_shard_size": SHARDED}
    finetune(base, root / "pickled_wide", seed=8, file_format="bin", **wide)
    make_lora(base, root / "lora", seed=4)
    make_base(root / "deep", layers=3)
    make_base(root / "mistral", "mistral")
    make_base(root / "bert", "bert")
    finetune(root / "bert", root / "tuned_bert", seed=5)
    for name in ("weightless", "unconfigured", "nameless", "cut", "normless"):
        shutil.copytree(code, root / name)
    (root / "weightless" / "model.safetensors").unlink()
    (root / "unconfigured" / "config.json").unlink()
    config = json.loads((code / "config.json").read_text())
    del config["architectures"]
    (root / "nameless" / "config.json").write_text(json.dumps(config))
    cut = root / "cut" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    tensors = load_tensors(code)
    del tensors["model.norm.weight"]
    save_tensors(tensors, root / "normless" / "model.safetensors")
    finetune(base, root / "holed", seed=6, max_shard_size=SHARDED)
    sorted((root / "holed").glob("*-of-*"))[1].unlink()
    return root


@dataclass(frozen=True)
class Case:
    """A config, every problem that its checks are to find, and what mergekit does.

    `planned` tells whether mergekit gets as far as reading tensors.
    """

    text: str
    problems: list[str]
    planned: bool

    @property
    def errors(self) -> list[str]:
        return [problem for problem in self.problems if " error " in problem]


def cases(file: str) -> dict[str, Case]:
    """Read the cases of a text file beside this module, by their reasons.

    A case begins with "== REASON [CONFIG]". Whole lines with "- " are replaced, where
    they first stand in that config, by the lines with "+ " (which are all there is if
    CONFIG is TEXT). A line with "! " marks an error that does not stop mergekit. What
    follows is what `said` returns, and nothing else.
    """
    content = (Path(__file__).parents[1] / "check" / file).read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^== ", content, flags=re.MULTILINE)[1:]:
        title, *lines = part.rstrip("\n").split("\n")
        reason, _, config = title.removesuffix("]").rpartition(" [")
        old, new = (
            "".join(line[2:] + "\n" for line in lines if line.startswith(sign))
            for sign in "-+"
        )
        text = {"MODELS": MODELS, "SLICES": SLICES, "MODULES": MODULES, "TEXT": ""}
        assert old in text[config], f"{reason}: these lines are not in {config}: {old}"
        assert reason not in found, f"{reason} is there twice"
        problems = [ln for ln in lines if ln and not ln.startswith(("- ", "+", "!"))]
        case = Case(text[config].replace(old, new, 1), problems, PLANNED in lines)
        assert case.errors or not case.planned, f"{reason}: there is no error to mark"
        found[reason] = replace(case, planned=case.planned or not case.errors)
    return found


def said(text: str, **options: Any) -> list[str]:
    """Return the problems of a config, each as "LINE SEVERITY CODE: PLACE: TEXT".

    Where there is no line, its number is 0.
    """
    problems = check_text(text, MergeOptions(**options)).problems
    return [f"{p.line or 0} {p.severity} {p.code.value}: {p}" for p in problems]
