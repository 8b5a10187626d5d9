"""Which parameters mattered in the random slice: Optuna's PED-ANOVA, with ranks that say how sure it is.

PED-ANOVA (Watanabe 2023, arXiv 2304.10255) asks in which parameters the best settings differ from all of
them. It reads nothing but the slice: trials that ASHA stopped or TPE proposed would answer what the search
did, not what matters. The only module of ``analysis`` that knows Optuna, and only for this.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial
from scipy import stats

from analysis.statistics.intervals import Reals, Refused
from study.protocol.records import Scalar
from study.protocol.text import counted

FLOOR = 30
"""Trials under which no importance is given (METHOD.md 7)."""
TOP = 1 / 3
"""Share of trials that count as the best. In 100 simulated slices of 30 in which one parameter matters,
Optuna's 0.1 (three trials) ranks it first in 73 % if it is a range and in 22 % if it has two options; a
third in 99 % and 78 %. At 60 trials: 99 and 37 % against 100 and 98 %."""
CATEGORIES = 10
"""Up to this many distinct numbers a parameter is one of a few options; more are a range."""
RESAMPLES = 100


def importances(
    configs: Sequence[Mapping[str, Scalar]], accuracies: Reals, *, resamples: int = RESAMPLES, seed: int = 0
) -> pd.DataFrame:
    """One row per parameter of one arm's slice, the most important first.

    ``configs`` (N) and ``accuracies`` (N,), validation fractions; NaN (diverged without a score) counts as
    worst. A parameter that is inactive in a trial is absent from its config. Columns: parameter;
    importance (shares of 1); rank and rank_low, rank_high (95 % over bootstrap slices); first (share of
    bootstrap slices that rank it first); p_chance (share of shuffled accuracies that give it as high an
    importance: above 0.05 the slice does not show that it matters at all, whatever its rank, and
    importances of parameters of different kinds differ by chance alone).
    Ranges enter by rank within the slice, which is their own scale, logarithmic or not, because the slice
    is drawn uniformly on it. Raises Refused below FLOOR trials: too few trials. Same seed, same table.
    """
    if len(configs) != len(accuracies):
        raise ValueError(f"a config for every accuracy is needed: {len(configs)} and {len(accuracies)}")
    if len(configs) < FLOOR:
        raise Refused(
            f"too few trials: {counted(len(configs), 'trial')} in the random slice, importance needs {FLOOR}"
        )
    known = accuracies[np.isfinite(accuracies)]
    scores = np.where(np.isfinite(accuracies), accuracies, min(-1.0, known.min(initial=0.0) - 1.0))
    names, trials = _on_rank_scale(configs)
    study = _Slice.empty()
    found = _evaluate(study, names, trials, scores)
    rng = np.random.default_rng(seed)
    ranks, reached = [], np.ones(len(names))
    for _ in range(resamples):
        drawn = rng.integers(len(trials), size=len(trials))
        ranks.append(_ranks(_evaluate(study, names, [trials[i] for i in drawn], scores[drawn])))
        reached += _evaluate(study, names, trials, rng.permutation(scores)) >= found
    low, high = np.quantile(np.stack(ranks), [0.025, 0.975], axis=0, method="nearest")
    table = pd.DataFrame(
        {
            "parameter": names,
            "importance": found / (found.sum() or 1.0),
            "rank": _ranks(found),
            "rank_low": low,
            "rank_high": high,
            "first": (np.stack(ranks) == 1).mean(axis=0),
            "p_chance": reached / (resamples + 1),
        }
    )
    return table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


class _Slice(optuna.Study):
    """A study that has whatever trials it is ``given``: adding them to one copies every distribution of each."""

    given: Sequence[FrozenTrial] = ()

    @classmethod
    def empty(cls) -> "_Slice":
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = optuna.storages.InMemoryStorage()
        name = optuna.create_study(storage=storage, direction="maximize").study_name
        optuna.logging.set_verbosity(verbosity)
        return cls(name, storage)

    def get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        del args, kwargs  # all are complete, and nobody changes them
        return list(self.given)


def _on_rank_scale(configs: Sequence[Mapping[str, Scalar]]) -> tuple[list[str], list[FrozenTrial]]:
    """Names that vary, and the trials with values that are ranks in (0, 1), or categories."""
    names = sorted({name for config in configs for name in config})
    kinds: dict[str, BaseDistribution] = {}
    scaled: dict[str, dict[Scalar, Scalar]] = {}
    for name in names:
        values = [config[name] for config in configs if name in config]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        distinct = sorted(set(values), key=repr)
        if len(numbers) == len(values) and len(distinct) > CATEGORIES:
            places = (stats.rankdata(numbers) - 0.5) / len(numbers)
            kinds[name] = FloatDistribution(0.0, 1.0)
            scaled[name] = {v: float(u) for v, u in zip(numbers, places, strict=True)}
        else:
            kinds[name] = CategoricalDistribution(distinct)
            scaled[name] = {v: v for v in distinct}
    varying = [name for name in names if not kinds[name].single()]
    return varying, [
        optuna.trial.create_trial(
            params={name: scaled[name][config[name]] for name in varying if name in config},
            distributions={name: kinds[name] for name in varying if name in config},
            value=0.0,
        )
        for config in configs
    ]


def _evaluate(study: _Slice, names: list[str], trials: Sequence[FrozenTrial], scores: Reals) -> Reals:
    """PED-ANOVA's importances (P,), not normalised."""
    study.given = given = [copy.copy(trial) for trial in trials]
    for number, (trial, score) in enumerate(zip(given, scores, strict=True)):
        trial.value, trial._trial_id = float(score), number  # a trial drawn twice counts twice
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP)
    present = [name for name in names if any(name in trial.params for trial in given)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of regimes with one trial, which only resamples have
        shares = evaluator.evaluate(study, present)
    return np.array([shares.get(name, 0.0) for name in names])


def _ranks(importances: Reals) -> Reals:
    ranks: Reals = stats.rankdata(-importances)
    return ranks
