"""Means with intervals, and paired differences with corrected p-values; the units of resampling are patients.

Click seeds of one patient are averaged first, because they are not independent. All functions are deterministic.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 10_000
PERMUTATIONS = 100_000
EXACT = 2**16  # up to 16 patients, all sign patterns are evaluated
CONFIDENCE = 0.95
SEED = 20261124


@dataclass(frozen=True)
class Estimate:
    """A mean over patients and its interval; ``n`` patients had a value."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Arm minus reference over the patients with both values; ``p`` is uncorrected."""

    estimate: Estimate
    p: float | None


def per_patient(values: Mapping[tuple[str, Hashable], float | None]) -> dict[str, float]:
    """(patient, seed) -> value, to the mean over seeds of each patient that has one."""
    known = {key: float(value) for key, value in values.items() if value is not None}
    patients = pd.Series(list(known.values()), index=[patient for patient, _ in known], dtype=float)
    return {str(patient): float(mean) for patient, mean in patients.groupby(level=0, sort=True).mean().items()}


def estimate(patients: Mapping[str, float], seed: int = SEED) -> Estimate:
    """Mean and bootstrap interval (95 %) over patients.

    For few patients, percentiles of bootstrap means are too narrow (nine patients: about 90 instead of 95 % coverage),
    so they are widened to the width of Student's interval (expanded percentile interval; Hesterberg, The American
    Statistician 69, 2015, section 5.3). The interval of one patient is a point.
    """
    values = np.array([patients[name] for name in sorted(patients)])
    if not values.size:
        return Estimate(None, None, None, 0)
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = values[drawn].mean(1)
    tail = _expanded_tail(len(values))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(values.mean()), float(low), float(high), len(values))


def _expanded_tail(n: int) -> float:
    """The share of bootstrap means on each side of the interval."""
    tail = (1 - CONFIDENCE) / 2
    return float(stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.isf(tail, n - 1))) if n > 1 else tail


def difference(arm: Mapping[str, float], reference: Mapping[str, float], seed: int = SEED) -> Difference:
    """Paired: the mean of the patients' differences, its interval, and a two-sided sign-flip permutation test."""
    paired = {name: arm[name] - reference[name] for name in sorted(set(arm) & set(reference))}
    return Difference(estimate(paired, seed), sign_flip_test(np.array(list(paired.values())), seed))


def sign_flip_test(differences: NDArray[np.float64], seed: int = SEED) -> float | None:
    """Two-sided p-value of "the differences are symmetric around zero"; None without differences.

    All sign patterns for up to 16 patients, otherwise 100,000 random ones (including the observed one).
    """
    if not len(differences):
        return None
    if len(differences) == 1:
        return 1.0  # both signs are as extreme; SciPy refuses a single observation
    exact = 2 ** len(differences) <= EXACT
    found = stats.permutation_test(
        (differences,),
        np.sum,
        permutation_type="samples",
        n_resamples=EXACT if exact else PERMUTATIONS,
        batch=10_000,
        vectorized=True,
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of several p-values; None remains None and is not counted."""
    known = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[index] = largest
    return corrected
