"""What is seen of a study while it runs: a live line on a terminal, or plain lines."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from mergekit_breadcrumbs.tune.scores import Score, mean
from mergekit_breadcrumbs.tune.table import score_text, values_text
from mergekit_breadcrumbs.tune.trials import Trial, best
from mergekit_breadcrumbs.wording import counted, shortened, visible


def time_text(seconds: float) -> str:
    """Write a duration short.

    Example:
        >>> time_text(8.4), time_text(90), time_text(4000), time_text(100_000)
        ('8 s', '2 min', '1 h 7 min', '28 h')
    """
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes >= 600:
        return f"{minutes / 60:.0f} h"
    return f"{minutes // 60} h {minutes % 60} min"


class Display:
    """Shows how far a study is; a context manager.

    On a terminal it is a bar with the time left, the best score so far and the last
    one, which moves on while a trial runs. Elsewhere each trial is a line. `quiet`
    leaves failures alone.

    Args:
        stream: to write to, for as long as it lasts.
        quiet: whether to show no progress.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._trials: list[Trial] = []
        self._wanted = 0
        self._begun = time.monotonic()
        self._live = self._console.is_terminal and not quiet
        self._bar: Progress | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.finish()

    def say(self, text: str) -> None:
        """Show a line, which stays."""
        self._console.print(Text(visible(text)))

    def scored(self, name: str, scores: Mapping[str, Score], error: str) -> None:
        """Show what a model got that is no trial."""
        if error:
            self.say(f"{name}: no score: {error}")
        elif not self._quiet:
            self.say(f"{name}: {score_text(mean(scores.values()))}{_named(scores)}")

    def search(self, method: str, trials: int, done: Sequence[Trial]) -> None:
        """Begin with the trials of a method, of which some may be done."""
        self._wanted, self._trials = trials, list(done)
        if not self._quiet:
            again = f", {len(done)} of them done" if done else ""
            self.say(f"Searching {method}: {counted(trials, 'trial')}{again}.")
        if self._live:
            self._bar = self._new_bar()
            self._update()
            self._bar.start()

    def begin(self) -> None:
        """Count the time from here: a trial begins."""
        self._begun = time.monotonic()
        self._update()

    def trial(self, trial: Trial) -> None:
        """Show a trial that is finished."""
        self._trials.append(trial)
        self._begun = time.monotonic()
        self._update()
        if trial.error is not None or not (self._live or self._quiet):
            self.say(self._line(trial))

    def wait(self, hosts: Sequence[str]) -> None:
        """Show whose trials are waited for."""
        self._update(f"waiting for {shortened(', '.join(hosts), 20)}")

    def finish(self) -> None:
        """End with the trials of a method."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def seconds_left(self) -> float | None:
        """Return how long the trials that are left take, as the others did."""
        known = [trial.seconds for trial in self._trials if trial.error is None]
        if not known:
            return None
        each = statistics.fmean(known)
        left = (self._wanted - len(self._trials)) * each
        return max(left - min(time.monotonic() - self._begun, each), 0.0)

    def _new_bar(self) -> Progress:
        bar = Progress(
            TextColumn("{task.fields[head]}", markup=False),
            BarColumn(bar_width=None),
            _TimeLeft(self),
            TextColumn("{task.fields[scores]}", markup=False),
            console=self._console,
            expand=True,
        )
        bar.add_task("", total=None, head="", scores="")
        return bar

    def _update(self, head: str = "") -> None:
        if self._bar is None:
            return
        done, found = len(self._trials), best(self._trials)
        now = min(done + 1, self._wanted)
        scores = ""
        if found is not None:
            last = self._trials[-1].score
            scores = f"best {found.score:.4g}, last "
            scores += "failed" if last is None else f"{last:.4g}"
        self._bar.update(
            self._bar.task_ids[0],
            total=self._wanted,
            completed=done,
            head=visible(head) or f"trial {now} of {self._wanted}",
            scores=scores,
        )

    def _line(self, trial: Trial) -> str:
        done, found, left = len(self._trials), best(self._trials), self.seconds_left()
        text = f"trial {done} of {self._wanted}: "
        if trial.error is not None:
            return f"{text}failed: {trial.error} ({values_text(trial.values)})"
        text += f"{score_text(mean(trial.scores.values()))} with"
        text += f" {values_text(trial.values)}"
        if found is not None:
            known = "the best so far" if found is trial else f"best {found.score:.4g}"
            text += f"; {known}"
        return text + (f"; {time_text(left)} left" if left and left >= 1 else "")


class _TimeLeft(ProgressColumn):
    """The time left of a search, which goes down while a trial runs."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display = display

    def render(self, task: Task) -> Text:
        """Return it, as rich wants it."""
        left = self._display.seconds_left()
        return Text("" if left is None else f"{time_text(left)} left")


def _named(scores: Mapping[str, Score]) -> str:
    """Return several scores by their names."""
    if len(scores) < 2:
        return ""
    parts = [f"{name} {score.value:.4g}" for name, score in scores.items()]
    return f" ({', '.join(parts)})"
