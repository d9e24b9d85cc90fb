"""Where the next trial is: samplers of Optuna, in an order that a seed decides."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, QMCSampler
from optuna.trial import FrozenTrial

from mergekit_breadcrumbs.tune.search import Search
from mergekit_breadcrumbs.tune.trials import attempts

SPREAD = 8
"""Trials that are spread evenly over the space before a model is fitted."""


class SeededSampler(BaseSampler):
    """Takes a new sampler for each trial, seeded with the trial's place in the study.

    So a study that was interrupted goes on as if it had not been: nothing is remembered
    but what is in its storage. The first trials are points of Optuna's Sobol sequence;
    the others come from its Gaussian process, which was the best in
    `benchmarks/tune_search.py`. It takes trials that are still running elsewhere into
    account, so that two workers do not try the same point.

    Args:
        searches: the space.
        seed: at least 0.
    """

    def __init__(self, searches: Sequence[Search], seed: int) -> None:
        self._seed = seed
        self._space = {s.name: distribution(s) for s in searches if s.low < s.high}
        self._samplers: dict[int, BaseSampler] = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the whole space, also for the first trial."""
        return dict(self._space)

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return a value for every parameter."""
        sampler = self._sampler(study, trial)
        with warnings.catch_warnings():
            # SciPy warns that a Sobol sequence is best cut off at a power of two.
            warnings.filterwarnings("ignore", "The balance properties", UserWarning)
            return sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a value where too few trials are complete to fit a model."""
        return self._sampler(study, trial).sample_independent(
            study, trial, param_name, param_distribution
        )

    def _sampler(self, study: Study, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self._samplers:
            place = attempts(study).places.get(trial.number, trial.number)
            self._samplers = {trial.number: self._made(place)}
        return self._samplers[trial.number]

    def _made(self, place: int) -> BaseSampler:
        if place < SPREAD:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return QMCSampler(
                    seed=self._seed, scramble=True, warn_independent_sampling=False
                )
        own = np.random.SeedSequence([self._seed, place]).generate_state(1)
        # Of the first trials some may have failed, and some be running.
        return GPSampler(
            seed=int(own[0]), n_startup_trials=2, warn_independent_sampling=False
        )


def distribution(search: Search) -> FloatDistribution:
    """Return the range of a search in Optuna's terms."""
    return FloatDistribution(search.low, search.high, log=search.log)
