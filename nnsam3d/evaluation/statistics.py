"""Means with intervals and paired tests; the units of resampling are patients. All functions are deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

RESAMPLES = 10_000
PERMUTATIONS = 100_000
EXACT = 2**16  # up to 16 patients, all sign patterns are evaluated
CONFIDENCE = 0.95
SEED = 20261124


class Estimate(TypedDict):
    """A mean over patients and its interval; ``n`` patients had a value."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


def estimate(patients: ArrayLike) -> Estimate:
    """Mean and bootstrap interval (95 %) over patients: one value of each, in a fixed order; NaN: unknown.

    For few patients, percentiles of bootstrap means are too narrow (nine patients: about 90 instead of 95 % coverage),
    so they are widened to the width of Student's interval (expanded percentile interval; Hesterberg, The American
    Statistician 69, 2015, section 5.3). The interval of one patient is a point.
    """
    values = np.asarray(patients, dtype=float)
    values = values[~np.isnan(values)]
    if not values.size:
        return {"mean": None, "low": None, "high": None, "n": 0}
    drawn = np.random.default_rng(SEED).integers(len(values), size=(RESAMPLES, len(values)))
    tail = _expanded_tail(len(values))
    low, high = np.quantile(values[drawn].mean(1), [tail, 1 - tail])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}


def _expanded_tail(n: int) -> float:
    """The share of bootstrap means on each side of the interval."""
    tail = (1 - CONFIDENCE) / 2
    return float(stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.isf(tail, n - 1))) if n > 1 else tail


def sign_flip_test(differences: NDArray[np.float64]) -> float | None:
    """Two-sided p-value of "the differences are symmetric around zero"; None without differences.

    All sign patterns for up to 16 patients, otherwise 100,000 random ones (including the observed one).
    """
    if len(differences) < 2:
        return 1.0 if len(differences) else None  # one: both signs are as extreme, and SciPy refuses it
    exact = 2 ** len(differences) <= EXACT
    found = stats.permutation_test(
        (differences,),
        np.sum,
        permutation_type="samples",
        n_resamples=EXACT if exact else PERMUTATIONS,
        batch=10_000,
        vectorized=True,
        random_state=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of several p-values; None remains None and is not counted."""
    known = pd.Series(p_values, dtype=float).dropna().sort_values()
    corrected = (known * np.arange(len(known), 0, -1)).clip(upper=1).cummax().to_dict()
    return [corrected.get(index) for index in range(len(p_values))]
