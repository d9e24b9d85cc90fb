"""Time and memory of merging one weight: ours, mergekit's built-in, task arithmetic.

All three merge the same tensors with mergekit's own `merge_tensors`, taking turns in
one process. Prints Markdown, and writes every single time to a JSON file.

    python benchmarks/speed.py
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch
from mergekit import merge_methods
from mergekit.merge_methods.generalized_task_arithmetic import (
    ConsensusMethod,
    GeneralizedTaskArithmeticMerge,
)
from mergekit.sparsify import SparsificationMethod

import mergekit_breadcrumbs  # noqa: F401

MIB = 1 << 20
OURS, BUILTIN, PLAIN = "ours", "built-in", "task arithmetic"


@dataclass(frozen=True)
class Case:
    """One row of the table, and what it is held to."""

    name: str
    dtype: torch.dtype = torch.bfloat16
    models: int = 3
    density: float = 0.9
    gamma: float = 0.01
    kind: str = "20 % zeros"
    shape: tuple[int, ...] = (8192, 4096)
    tensors: int = 1
    ties: bool = False
    granularity: str = "tensor"
    faster: float | None = None
    of_plain: float | None = None

    @property
    def elements(self) -> int:
        return self.tensors * self.models * torch.Size(self.shape).numel()


@dataclass
class Outcome:
    """Seconds of each run and the most memory above the inputs, by contestant."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, int] = field(default_factory=dict)
    output: int = 0

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])


AUTHORS = {"density": 0.15, "gamma": 0.006}
CASES = [
    Case("bfloat16, density 0.9", faster=15, of_plain=1.5),
    Case("bfloat16, density 0.15", **AUTHORS, faster=15, of_plain=1.5),
    Case("float16, density 0.9", torch.float16, faster=12, of_plain=2),
    Case("float16, density 0.15", torch.float16, **AUTHORS, faster=12, of_plain=2),
    Case("float32, density 0.9", torch.float32, faster=12, of_plain=1.5),
    Case("float32, density 0.15", torch.float32, **AUTHORS, faster=12, of_plain=1.5),
    Case("bfloat16, 8 models", models=8, faster=15, of_plain=2),
    Case("bfloat16, breadcrumbs_ties", ties=True, faster=10),
    Case("bfloat16, rows of 4096", granularity="row", faster=14, of_plain=2.5),
    Case(
        "float32, rows of 4096",
        torch.float32,
        granularity="row",
        faster=14,
        of_plain=3,
    ),
    *(
        Case(
            f"{dtype}, rows of {length}",
            getattr(torch, dtype),
            shape=((1 << 25) // length, length),
            granularity="row",
            faster=10,
            of_plain=3.5,
        )
        for dtype in ("bfloat16", "float32")
        for length in (768, 11008, 14336, 128256)
    ),
    Case("bfloat16, 80 % zeros", kind="80 % zeros"),
    Case("bfloat16, half of all equal", kind="half equal"),
    *(
        Case(
            f"100 tensors of {length}",
            shape=(length,),
            tensors=100,
            faster=1.5,
            of_plain=2.5,
        )
        for length in (64, 1024, 4096)
    ),
    *(
        Case(
            f"{dtype}, 16 tensors of 0.5M, by row",
            getattr(torch, dtype),
            shape=(128, 4096),
            tensors=16,
            granularity="row",
            faster=10,
            of_plain=3.5,
        )
        for dtype in ("bfloat16", "float32")
    ),
    Case("8M elements, 1 model", models=1, shape=(2048, 4096), faster=10, of_plain=1.3),
    *(
        Case(
            f"8M elements, 32 models, by {granularity}",
            models=32,
            shape=(2048, 4096),
            granularity=granularity,
            faster=15,
            of_plain=of_plain,
        )
        for granularity, of_plain in (("tensor", 1.5), ("row", 2.5))
    ),
]


def weights(case: Case, device: str) -> Iterator[list[torch.Tensor]]:
    """Make base and fine-tunings: heavy-tailed deltas, rounded as a checkpoint is."""
    generator = torch.Generator().manual_seed(0)
    share = 0.8 if case.kind == "80 % zeros" else 0.2
    for _ in range(case.tensors):
        base = torch.randn(case.shape, generator=generator).mul_(0.02).to(case.dtype)
        same = torch.rand(case.shape, generator=generator) < 0.5
        if case.kind == "half equal":
            base[same] = 0
        tensors = [base]
        for _ in range(case.models):
            delta = torch.randn(case.shape, generator=generator).pow_(3).mul_(1e-3)
            tuned = delta.add_(base).to(case.dtype)
            if case.kind == "half equal":
                tuned[same] = 2.0**-9
            else:
                zero = float((tuned == base).float().mean())
                more = max(share - zero, 0) / (1 - zero)
                chosen = torch.rand(case.shape, generator=generator) < more
                tuned[chosen] = base[chosen]
            tensors.append(tuned)
        yield [tensor.to(device) for tensor in tensors]


def builtin(name: str) -> GeneralizedTaskArithmeticMerge:
    """mergekit's own method, which ours has replaced in the registry."""
    return GeneralizedTaskArithmeticMerge(
        consensus_method=ConsensusMethod.sum if name.endswith("ties") else None,
        sparsification_method=SparsificationMethod.magnitude_outliers,
        default_normalize=False,
        default_rescale=False,
        method_name=name,
        method_pretty_name=None,
        method_reference_url=None,
    )


def contestants(case: Case) -> dict[str, Callable[[list[torch.Tensor]], Any]]:
    """Return what merges one list of tensors, base first, by contestant."""
    name = "breadcrumbs_ties" if case.ties else "breadcrumbs"
    weight = {"weight": 1 / case.models}
    cut = weight | {"density": case.density, "gamma": case.gamma}
    entries = {
        OURS: (name, cut | {"granularity": case.granularity}),
        BUILTIN: (builtin(name), cut),
        PLAIN: ("task_arithmetic", weight),
    }

    def merging(method: Any, parameters: dict[str, Any]) -> Callable[..., Any]:
        return lambda tensors: merge_methods.merge_tensors(
            tensors, method, base_index=0, parameters=parameters
        )

    return {who: merging(*entry) for who, entry in entries.items()}


def measured(case: Case, runs: int, device: str, only: set[str]) -> Outcome:
    """Run every contestant `runs` times in turns, after one round that warms up."""
    groups = list(weights(case, device))
    gc.freeze()  # or looking through all imports each time lets the threads fall asleep
    outcome = Outcome(output=sum(group[0].nbytes for group in groups))
    merging = {who: do for who, do in contestants(case).items() if who in only}
    with torch.no_grad():
        for turn in range(runs + 1):
            for who, merge in merging.items():
                gc.collect()
                _reset_peak(device)
                before = _peak(device)
                _synchronize(device)
                start = time.perf_counter()
                results = [merge(group) for group in groups]
                _synchronize(device)
                seconds = time.perf_counter() - start
                outcome.extra[who] = max(
                    outcome.extra.get(who, 0), _peak(device) - before
                )
                del results
                if turn:
                    outcome.seconds.setdefault(who, []).append(seconds)
    return outcome


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _reset_peak(device: str) -> None:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    elif os.path.exists("/proc/self/clear_refs"):
        Path("/proc/self/clear_refs").write_text("5")


def _peak(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    if not os.path.exists("/proc/self/status"):
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["VmHWM"].split()[0]) * 1024


def row(case: Case, outcome: Outcome) -> str:
    """Format one line of the table; nanoseconds are per element and model."""
    cells = [case.name]
    for who in (OURS, BUILTIN, PLAIN):
        nanoseconds = outcome.median(who) / case.elements * 1e9
        cells.append(f"{nanoseconds:.2f}" if nanoseconds < 20 else f"{nanoseconds:.0f}")
    faster = outcome.median(BUILTIN) / outcome.median(OURS)
    of_plain = outcome.median(OURS) / outcome.median(PLAIN)
    wanted = f" (at least {case.faster:g})" if case.faster else ""
    allowed = f" (at most {case.of_plain:g})" if case.of_plain else ""
    cells += [f"{faster:.1f}{wanted}", f"{of_plain:.2f}{allowed}"]
    for who in (OURS, BUILTIN):
        above = (outcome.extra[who] - outcome.output) / MIB
        cells.append(f"{above:.0f}" if case.tensors == 1 else "-")
    return "| " + " | ".join(cells) + " |"


HEADER = """\
| case | ours, ns | built-in, ns | task arithmetic, ns | times faster than the \
built-in | times task arithmetic | ours, MiB beside output | built-in, MiB |
|---|---|---|---|---|---|---|---|"""

SCALING_HEADER = """\
| size | ours, ns | built-in, ns | task arithmetic, ns |
|---|---|---|---|"""


def scaling(largest: int) -> Iterator[Case]:
    """Yield cases of growing size, then cases with more and more models."""
    for millions in (1, 10, 100, 500):
        if millions <= largest:
            shape = (millions * 1000, 1000)
            yield Case(f"{millions}M elements, 1 model", models=1, shape=shape)
    for models in (1, 2, 4, 8):
        yield Case(
            f"8M elements, {models} model{'' if models == 1 else 's'}",
            models=models,
            shape=(8000, 1000),
        )


def scaling_row(case: Case, outcome: Outcome) -> str:
    """Format one line of the second table."""
    cells = [case.name]
    for who in (OURS, BUILTIN, PLAIN):
        measured = who in outcome.seconds
        cells.append(
            f"{outcome.median(who) / case.elements * 1e9:.2f}" if measured else "-"
        )
    return "| " + " | ".join(cells) + " |"


def _describe(device: str) -> str:
    if device != "cpu":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = [line.split(":")[1] for line in lines if line.startswith("model name")]
        model = named[0].strip() if named else model
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--only", default="", help="Only cases whose name contains this.")
@click.option("--shrink", type=click.IntRange(min=1), default=1, help="Divide sizes.")
@click.option("--largest", default=500, show_default=True, help="Millions of elements.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    default=Path("speed.json"),
    show_default=True,
)
def main(
    runs: int, device: str, only: str, shrink: int, largest: int, json_file: Path
) -> None:
    """Compare time and memory of merging one weight."""
    machine = _describe(device)
    print(f"{machine}; medians of {runs} runs; ns per element and model\n\n{HEADER}")
    record: dict[str, Any] = {"machine": machine, "runs": runs, "cases": {}}

    def keep(case: Case, outcome: Outcome) -> None:
        record["cases"][case.name] = {
            "elements": case.elements,
            "seconds": outcome.seconds,
            "extra_bytes": outcome.extra,
            "output_bytes": outcome.output,
        }

    for case in CASES:
        if only not in case.name:
            continue
        if case.tensors == 1 and shrink > 1:
            rows = max(case.shape[0] // shrink, 1)
            case = Case(**{**vars(case), "shape": (rows, *case.shape[1:])})
        outcome = measured(case, runs, device, {OURS, BUILTIN, PLAIN})
        keep(case, outcome)
        print(row(case, outcome), flush=True)
    print(f"\n{SCALING_HEADER}")
    for case in scaling(largest):
        if only not in case.name:
            continue
        # The built-in takes up to 64 bytes for each element.
        small = case.elements <= 100_000_000 * (1 if device == "cpu" else 5)
        who = {OURS, BUILTIN, PLAIN} if small else {OURS, PLAIN}
        outcome = measured(case, runs, device, who)
        keep(case, outcome)
        print(scaling_row(case, outcome), flush=True)
    json_file.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
