"""Worker processes that do one thing after another, with every result kept on disk."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from tqdm import tqdm

from claims.bed import Place

Known = dict[str, dict[str, Any]]


class Runner:
    """Runs jobs, and keeps their results in a file, one line for each."""

    def __init__(self, place: Place, pool: ProcessPoolExecutor) -> None:
        self.place = place
        self.pool = pool
        self.file = place.folder / "results.jsonl"
        self.known: Known = {}
        if self.file.exists():
            whole, _, cut = self.file.read_text().rpartition("\n")
            for line in whole.splitlines():
                entry = json.loads(line)
                self.known[entry.pop("key")] = entry
            if cut:
                # The start of a line that an interrupted run has left.
                self.file.write_text(whole + "\n")

    def __call__(
        self, name: str, jobs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]
    ) -> None:
        """Run what is not known yet."""
        missing = {key: job for key, job in jobs.items() if key not in self.known}
        bar = tqdm(
            total=len(jobs),
            initial=len(jobs) - len(missing),
            desc=f"{name:<14}",
            bar_format="{desc} {percentage:3.0f}%|{bar}{r_bar}",
            mininterval=0.1 if sys.stderr.isatty() else 20,
        )
        with bar, self.file.open("a") as stream:
            running = {
                self.pool.submit(function, self.place, *arguments): key
                for key, (function, arguments) in missing.items()
            }
            try:
                for done in as_completed(running):
                    entry = done.result()
                    self.known[running[done]] = entry
                    stream.write(json.dumps({"key": running[done], **entry}) + "\n")
                    stream.flush()
                    bar.update()
            except BaseException:
                # Or else the workers would go on to the last job.
                self.pool.shutdown(cancel_futures=True)
                raise
