"""Merging breadcrumb files, against merging the full checkpoints they were made from.

Makes a Llama of 100 million parameters, fine-tunings of it in bfloat16 and a breadcrumb
file of each. Merges 2, 8 and 32 of them both ways, taking turns, each in a process of
its own: with the models on the disk (dropped from the system's cache) and with them in
the cache. Both must write the same bytes. Times are of the merge, without imports;
memory is what the process has more than before the merge. Prints Markdown.

    python benchmarks/files.py
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import yaml
from whole_merge import make_models

FRACTION, GAMMA = 0.1, 0.01
KINDS = ("files", "full")
STATES = ("disk", "cache")
MEASURES = ("seconds", "own", "mapped", "from_disk")


def _status(*keys: str) -> list[int]:
    """Return memory in bytes, as the system counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    table = dict(line.split(":", 1) for line in lines)
    return [1024 * int(table[key].split()[0]) for key in keys]


def _from_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


@contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """Measure what happens inside: seconds, peaks above the start, bytes read."""
    found: dict[str, float] = {}
    before, disk = _status("RssAnon", "VmRSS"), _from_disk()
    peaks, done = list(before), threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peaks[:] = map(max, peaks, _status("RssAnon", "VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        yield found
    finally:
        found["seconds"] = time.perf_counter() - start
        done.set()
        watcher.join()
    own, resident = (peak - was for peak, was in zip(peaks, before, strict=True))
    found |= {"own": own, "mapped": resident, "from_disk": _from_disk() - disk}


def drop(folders: list[str]) -> None:
    """Have the system forget the weights in some folders."""
    for folder in folders:
        for file in Path(folder).glob("*.safetensors"):
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def extract_all(pairs: list[tuple[str, str, str]]) -> list[float]:
    """Make a file of each; return the seconds."""
    from mergekit.options import MergeOptions

    from mergekit_breadcrumbs.extract.run import Request, extract

    seconds = []
    for base, tuned, out in pairs:
        start = time.perf_counter()
        request = Request(base, tuned, Path(out), fraction=FRACTION)
        extract(request, MergeOptions(quiet=True))
        seconds.append(time.perf_counter() - start)
    return seconds


def read_all(pairs: list[tuple[str, str]]) -> list[float]:
    """Read all tensors of each pair of models into memory; return the seconds."""
    from safetensors import safe_open

    seconds = []
    for pair in pairs:
        start = time.perf_counter()
        for folder in pair:
            with safe_open(Path(folder) / "model.safetensors", framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name).clone()
        seconds.append(time.perf_counter() - start)
    return seconds


def merge(config: str, out: str) -> dict[str, float]:
    """Merge once, and measure it."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    parsed = MergeConfiguration.model_validate(yaml.safe_load(config))
    with _measured() as found:
        run_merge(parsed, out, MergeOptions(quiet=True, copy_tokenizer=False))
    return found


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, which has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["mergekit.merge", "mergekit_breadcrumbs.extract.run"]
    )
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def config_of(base: str, models: list[str]) -> str:
    """Return the config of a merge that needs just what the files hold."""
    weight = {"weight": 1 / len(models)}
    return yaml.safe_dump(
        {
            "merge_method": "breadcrumbs",
            "base_model": base,
            "models": [{"model": model, "parameters": weight} for model in models],
            "parameters": {"density": FRACTION - GAMMA, "gamma": GAMMA},
            "dtype": "bfloat16",
        }
    )


def merge_once(
    kind: str, state: str, base: str, folders: list[str], out: str
) -> tuple[dict[str, float], str]:
    """Merge in a process of its own; return what was measured, and a hash."""
    if state == "disk":
        drop([base, *folders])
    models = [f"{base}+{file}" for file in folders] if kind == "files" else folders
    found = in_a_process(merge, config_of(base, models), out)
    digest = hashlib.sha256()
    for file in sorted(Path(out).glob("*.safetensors")):
        digest.update(file.read_bytes())
    shutil.rmtree(out)
    return found, digest.hexdigest()


def compare(
    base: str, models_of: dict[str, list[str]], out: str, runs: int
) -> dict[str, list[dict[str, float]]]:
    """Merge each kind of models from disk and cache in turns; require the same bits."""
    record: dict[str, list[dict[str, float]]] = {}
    hashes = set()
    for _, state, kind in itertools.product(range(runs), STATES, KINDS):
        found, digest = merge_once(kind, state, base, models_of[kind], out)
        record.setdefault(f"{kind}, {state}", []).append(found)
        hashes.add(digest)
    if len(hashes) != 1:
        raise SystemExit("the merges have other bits")
    return record


def size(folder: str) -> int:
    """Return the bytes of weights in a folder."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def report(count: int, record: dict[str, Any]) -> None:
    """Print the rows of one number of models."""
    medians = {
        key: {what: statistics.median(run[what] for run in runs) for what in MEASURES}
        for key, runs in record.items()
    }
    for kind in KINDS:
        disk, cache = (medians[f"{kind}, {state}"] for state in STATES)
        others = [medians[f"full, {state}"] for state in STATES]
        ratios = [
            f"{own[what] / other[what]:.2f}"
            for own, other, what in (
                (disk, others[0], "seconds"),
                (cache, others[1], "seconds"),
                (cache, others[1], "own"),
                (cache, others[1], "mapped"),
            )
        ]
        cells = [
            f"{disk['from_disk'] / 1e9:.2f}",
            f"{disk['seconds']:.1f} ({ratios[0]})",
            f"{cache['seconds']:.1f} ({ratios[1]})",
            f"{cache['own'] / 1e6:.0f} ({ratios[2]})",
            f"{cache['mapped'] / 1e6:.0f} ({ratios[3]})",
        ]
        print(f"| {count}, {kind} | {' | '.join(cells)} |", flush=True)


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--layers", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--width", type=click.IntRange(min=16), default=768, show_default=True)
@click.option("--models", default="2,8,32", show_default=True)
@click.option("--quick", is_flag=True, help="One run of two tiny models.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    runs: int,
    layers: int,
    width: int,
    models: str,
    quick: bool,
    json_file: Path | None,
) -> None:
    """Compare merges from files with merges from full checkpoints."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if quick:
        runs, layers, width, models = 1, 1, 32, "2"
    counts = [int(count) for count in models.split(",")]
    records: dict[int, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base, *tuned = make_models(folder, layers, width, 1 + max(counts))
        files = [f"{path}-file" for path in tuned]
        pairs = [(base, *two) for two in zip(tuned, files, strict=True)]
        extracting = in_a_process(extract_all, pairs)
        reading = in_a_process(read_all, [(base, path) for path in tuned])
        print(
            f"{size(base) / 2e6:.0f}M parameters in bfloat16, files of"
            f" {100 * FRACTION:g} % ({size(files[0]) / size(tuned[0]):.3f} of a"
            f" checkpoint), {os.cpu_count()} processors, medians of {runs} runs.\n"
            f"Making a file: {statistics.median(extracting):.2f} s; reading both"
            f" models: {statistics.median(reading):.2f} s.\n\n"
            "| models | read from disk, GB | from disk, s | cached, s | memory, MB |"
            " with mapped files, MB |\n|---|---|---|---|---|---|"
        )
        for count in counts:
            models_of = {"files": files[:count], "full": tuned[:count]}
            records[count] = compare(base, models_of, str(folder / "merged"), runs)
            report(count, records[count])
    if json_file:
        json_file.write_text(
            json.dumps(
                {"extract": extracting, "read": reading, "merges": records}, indent=2
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
