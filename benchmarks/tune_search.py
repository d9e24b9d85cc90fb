"""How near 30 trials come to the best score, by sampler.

The scores are models of what merges do, so that the best is known: smooth, with one
broad optimum, which is elsewhere for each seed; densities and the like on a log scale;
a stronger lambda wants a smaller density, and smaller weights. A score is 0.7 at best,
and 0.2 at worst, as by guessing. The first trial is the same for all: the middle of
every range, as a config would have it.
"""

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import optuna
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    RandomSampler,
    TPESampler,
)

from mergekit_breadcrumbs.tune.sampling import SeededSampler, distribution
from mergekit_breadcrumbs.tune.search import Search

BEST, GUESSED = 0.7, 0.2
FIRST = [
    Search("lambda", 0.2, 3.0, log=True),
    Search("density", 0.01, 1.0, log=True),
    Search("gamma", 0.0, 0.1),
]
# Of five models, leaving one out costs at most about a fifth.
OWN = [Search(f"weight of {name}", 0.0, 2.0) for name in "ABCDE"]
SPACES = {3: FIRST, 8: [*FIRST, *OWN]}
NOISE = {"exact": 0.0, "noisy": 0.01}
SAMPLERS: dict[str, Callable[[Sequence[Search], int], BaseSampler]] = {
    "tune's": SeededSampler,
    "Gaussian process": lambda _, seed: GPSampler(seed=seed),
    "TPE": lambda _, seed: TPESampler(seed=seed),
    "CMA-ES": lambda _, seed: CmaEsSampler(seed=seed),
    "random": lambda _, seed: RandomSampler(seed=seed),
}


class Landscape:
    """Scores of values in a space, with the optimum somewhere that a seed decides."""

    def __init__(self, searches: Sequence[Search], seed: int) -> None:
        rng, size = np.random.default_rng([seed, len(searches)]), len(searches)
        self.searches = searches
        self.optimum = rng.uniform(0.2, 0.8, size)
        own = size - len(FIRST)
        # In parts of the range, the distance at which 40 % of the gain are lost.
        width = np.concatenate([rng.uniform(0.25, 0.6, 3), rng.uniform(0.6, 1, own)])
        self.curvature = np.diag(0.5 / width**2)
        for other in range(1, size):
            if other != 2:
                scale = math.sqrt(self.curvature[0, 0] * self.curvature[other, other])
                strength = 0.6 if other == 1 else 0.25
                self.curvature[0, other] = self.curvature[other, 0] = strength * scale
        assert np.linalg.eigvalsh(self.curvature).min() > 0

    def score(self, values: dict[str, float]) -> float:
        """Return the true score of values."""
        place = [
            (_scaled(values[s.name], s) - _scaled(s.low, s))
            / (_scaled(s.high, s) - _scaled(s.low, s))
            for s in self.searches
        ]
        away = np.array(place) - self.optimum
        return GUESSED + (BEST - GUESSED) * math.exp(-away @ self.curvature @ away)


def _scaled(value: float, search: Search) -> float:
    return math.log(value) if search.log else value


def _middle(search: Search) -> float:
    if search.log:
        return math.sqrt(search.low * search.high)
    return (search.low + search.high) / 2


def tried(sampler: str, size: int, noise: float, seed: int, trials: int) -> list[float]:
    """Return how far below the best score the found one is, in parts of it.

    That is the true score of the trial whose measured one is best. The second number is
    the longest time that the sampler took for a trial, in seconds.
    """
    searches = SPACES[size]
    landscape = Landscape(searches, seed)
    errors = np.random.default_rng([seed, size, 1])
    study = optuna.create_study(
        direction="maximize", sampler=SAMPLERS[sampler](searches, seed)
    )
    study.enqueue_trial({s.name: _middle(s) for s in searches})
    longest = 0.0
    for _ in range(trials):
        began = time.perf_counter()
        trial = study.ask({s.name: distribution(s) for s in searches})
        longest = max(longest, time.perf_counter() - began)
        error = noise * errors.standard_normal()
        study.tell(trial, landscape.score(trial.params) + error)
    return [1 - landscape.score(study.best_trial.params) / BEST, longest]


def table(found: dict[str, dict[str, list[list[float]]]], trials: int) -> str:
    """Return the medians and the worst, in percent of the best score, in Markdown."""
    cases = list(next(iter(found.values())))
    lines = [
        f"| {trials} trials | {' | '.join(cases)} | longest for a trial, s |",
        f"| --- |{' --- |' * (len(cases) + 1)}",
    ]
    for sampler, results in found.items():
        cells = []
        for runs in results.values():
            below = [100 * run[0] for run in runs]
            cells.append(f"{statistics.median(below):.1f} ({max(below):.1f})")
        longest = max(run[1] for runs in results.values() for run in runs)
        lines.append(f"| {sampler} | {' | '.join(cells)} | {longest:.2f} |")
    return "\n".join(lines)


@click.command(help=(__doc__ or "").split("\n\n", maxsplit=1)[0])
@click.option("--trials", type=click.IntRange(min=1), default=30, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--only", multiple=True, metavar="NAME", help="Samplers; all without it.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write every single result.",
)
def main(
    trials: int, seeds: int, only: tuple[str, ...], json_file: Path | None
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: dict[str, dict[str, list[list[float]]]] = {}
    for sampler in only or SAMPLERS:
        for size in SPACES:
            for kind, noise in NOISE.items():
                case = found.setdefault(sampler, {}).setdefault(f"{size}, {kind}", [])
                for seed in range(seeds):
                    case.append(tried(sampler, size, noise, seed, trials))
    click.echo("Percent below the best score: median over seeds, and in brackets the")
    click.echo("worst; for 3 and 8 parameters, exact and with noise of 0.01.\n")
    click.echo(table(found, trials))
    if json_file is not None:
        json_file.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
