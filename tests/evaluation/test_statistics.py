"""Statistics against scipy and against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nnsam3d.evaluation.statistics import estimate, holm, sign_flip_test


def test_bootstrap_interval_is_the_usual_one_for_many_patients():
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = estimate(values)
    half = 1.96 * values.std() / 20
    assert found["mean"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, abs=0.02)
    assert found["high"] == pytest.approx(values.mean() + half, abs=0.02)
    assert found == estimate(values), "the same numbers every time"


@pytest.mark.parametrize(("n", "least"), [(5, 0.87), (9, 0.91)])
def test_the_interval_covers_the_mean_of_few_patients_about_as_often_as_it_says(n, least):
    """0.905 and 0.943 in 800 trials; no interval of five patients' bootstrap means can do much better."""
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(400):
        found = estimate(rng.normal(0.7, 0.1, n))
        hits += found["low"] <= 0.7 <= found["high"]
    assert least <= hits / 400 <= 0.98


def test_nothing_known_is_said_to_be_unknown():
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    assert estimate([]) == estimate([np.nan]) == nothing
    assert estimate([np.nan, 0.5])["n"] == 1
    assert sign_flip_test(np.array([])) is None


@pytest.mark.parametrize("n", [5, 30])
def test_permutation_test_is_scipys(n):
    values = np.random.default_rng(n).normal(0.4, 1, n)
    expected = stats.permutation_test(
        (values,), np.sum, permutation_type="samples", n_resamples=100_000, rng=np.random.default_rng(0)
    ).pvalue
    assert sign_flip_test(values) == pytest.approx(expected, abs=0.01)


def test_smallest_p_value_of_nine_patients():
    assert sign_flip_test(np.ones(9)) == pytest.approx(2 / 2**9)
    assert sign_flip_test(np.zeros(9)) == 1


def test_one_patient_shows_nothing():
    assert sign_flip_test(np.array([0.4])) == 1


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_keeps_order_and_never_helps(p_values):
    corrected = holm(p_values)
    known = [(p, c) for p, c in zip(p_values, corrected, strict=True) if p is not None]
    assert all(c is None for p, c in zip(p_values, corrected, strict=True) if p is None)
    assert all(p <= c <= 1 for p, c in known)
    ordered = [c for _, c in sorted(known)]
    assert ordered == sorted(ordered)


def test_holm_by_hand():
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
