"""The command `tune` on tiny models, and scorers that keep a log."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from support.checkpoints import finetune, make_base
from support.repository import run_script, script

# Scores how far a merge is from the base, which is best at a certain distance. While
# there is a file `hang`, the third trial has no end.
SCORER = '''
import hashlib, json, sys, time
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent


def score_tensors(tensors):
    """Return the score of tensors, and their digest, in the order of their names."""
    digest, far = hashlib.sha256(), []
    for name, tensor in sorted(tensors.items()):
        digest.update(tensor.tobytes())
        far.append(np.abs(tensor - BASE[name]).mean())
    return -abs(float(np.mean(far)) - AIM) / AIM, digest.hexdigest()


def log(**content):
    with open(HERE / "log.jsonl", "a") as file:
        file.write(json.dumps(content) + "\\n")


AIM = 0.001
BASE = load_file(HERE / "base" / "model.safetensors")

if __name__ == "__main__":
    began = (HERE / "log.jsonl").read_text() if (HERE / "log.jsonl").exists() else ""
    log(began=sys.argv[1])
    while (HERE / "hang").exists() and began.count("began") == 5:
        time.sleep(0.05)
    [file] = Path(sys.argv[1]).glob("*.safetensors")
    score, digest = score_tensors(load_file(file))
    log(scored=sys.argv[1], score=score, digest=digest)
    print(json.dumps({"near": {"value": score, "error": 0.01}}))


def score(model):
    tensors = model.load()[0].state_dict()
    score, digest = score_tensors({k: v.numpy() for k, v in tensors.items()})
    log(scored="in memory", score=score, digest=digest)
    return {"near": (score, 0.01)}
'''


@dataclass(frozen=True)
class Bench:
    """A folder with a base, two fine-tunings, a config and a scorer."""

    root: Path

    @property
    def command(self) -> str:
        """The scorer as a command."""
        return f"{sys.executable} {self.root / 'scorer.py'} {{model}}"

    @property
    def function(self) -> str:
        """The scorer as a function."""
        return f"{self.root / 'scorer.py'}:score"

    def log(self, key: str = "scored") -> list[dict[str, Any]]:
        """Return what the scorer noted: what it began, or scored."""
        path = self.root / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [entry for line in lines if key in (entry := json.loads(line))]

    def tune(self, *arguments: Any, config: str = "config.yml", **options: Any) -> Any:
        """Run the command to its end, into the folder `out`."""
        return run_script(*self._words(config, arguments), cwd=self.root, **options)

    def start(self, *arguments: Any, out: str = "out") -> Any:
        """Start the command."""
        name, *words = self._words("config.yml", arguments, out)
        return subprocess.Popen(
            [script(name), *words],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As a shell does for what runs in the foreground.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def _words(self, config: str, arguments: Any, out: str = "out") -> list[str]:
        words = ["mergekit-breadcrumbs", "tune", config, out, *map(str, arguments)]
        return words if "--score" in words else [*words, "--score", self.command]


def make_bench(root: Path, **keys: Any) -> Bench:
    """Make one; `keys` are further ones of the config."""
    root.mkdir(exist_ok=True)
    base = make_base(root / "base")
    for seed, name in enumerate(("math", "code"), 1):
        finetune(base, root / name, seed=seed)
    config = {
        "merge_method": "breadcrumbs",
        "base_model": str(root / "base"),
        "models": [{"model": str(root / name)} for name in ("math", "code")],
        "parameters": {"weight": 0.5, "density": 0.9, "gamma": 0.01},
        **keys,
    }
    text = "# The user's own words.\n" + yaml.safe_dump(config, sort_keys=False)
    (root / "config.yml").write_text(text)
    (root / "scorer.py").write_text(SCORER)
    return Bench(root)
