"""From results to the rows of the report, on made-up values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nnsam3d.evaluation.results import Result
from nnsam3d.evaluation.statistics import estimate
from nnsam3d.evaluation.summary import Group, curve_rows, difference_rows, per_patient, tabulate, training_rows
from nnsam3d.evaluation.tables import training_table

from .conftest import result_of


def table(*results: Result, arm: str = "arm", protocol: str = "iterative", max_clicks: int = 5) -> pd.DataFrame:
    return tabulate([Group("D", "3d_fullres", protocol, arm, results, max_clicks)])


def patients(answers: pd.DataFrame, clicks: int, name: str = "dice") -> dict[str, float]:
    """The known values of patients after a number of clicks."""
    shown = per_patient(answers)
    return shown[shown.clicks == clicks].set_index("case")[name].dropna().to_dict()


def test_seeds_are_averaged_before_anything_else():
    first = [result_of("a", 0.2), result_of("b", 1.0), result_of("c", None)]
    answers = table(*first, result_of("a", 0.4, seed=1), result_of("b", None, seed=1))
    assert patients(answers, 0) == pytest.approx({"a": 0.3, "b": 1.0})


def test_more_seeds_do_not_narrow_the_interval():
    base = np.random.default_rng(0).normal(size=8)
    lows = []
    for seeds in (1, 50):
        results = [result_of(f"p{i}", value, seed=seed) for i, value in enumerate(base) for seed in range(seeds)]
        lows.append(estimate(list(patients(table(*results, protocol="random"), 0).values()))["low"])
    assert lows[0] == pytest.approx(lows[1])


def test_folds_that_all_saw_a_test_case_are_averaged():
    answers = table(*(result_of("a", dice, fold=fold) for fold, dice in (("0", 0.2), ("1", 0.8))))
    assert patients(answers, 0) == pytest.approx({"a": 0.5})
    (row,) = curve_rows(answers)
    assert (row["clicks_to_0.8"]["mean"], row["clicks_to_0.8"]["reached"]) == (2.5, 0.5)


def test_trainings_are_averaged_and_their_spread_stands_beside_that_of_patients():
    dices = {("a", 3): 0.2, ("a", 5): 0.4, ("b", 3): 0.6, ("b", 5): 0.8}
    results = [result_of(case, dice, training=training) for (case, training), dice in dices.items()]
    answers = table(*results, protocol="random")
    assert patients(answers, 0) == pytest.approx({"a": 0.3, "b": 0.7})
    (row,) = training_rows(answers)
    assert row["means"] == pytest.approx({"3": 0.4, "5": 0.6})
    assert row["between_trainings"] == pytest.approx(np.std([0.4, 0.6], ddof=1))
    assert row["between_patients"] == pytest.approx(np.std([0.3, 0.7], ddof=1))
    assert training_table([row], "lesion").rows == [["arm", "0", "0.400", "0.600", "0.141", "0.283"]]
    assert not list(training_rows(table(*results[::2], protocol="random")))


def test_differences_are_paired():
    values = np.random.default_rng(2).normal(size=12)
    other = table(*(result_of(f"p{i:02}", value) for i, value in enumerate(values)))
    ours = [result_of(f"p{i:02}", value + 0.1) for i, value in enumerate(values)]
    answers = pd.concat([table(*ours, result_of("unpaired", 0.9), arm="ours"), other])
    dice, *_, hd95 = difference_rows(per_patient(answers), "ours")
    assert (dice["arm"], dice["clicks"], dice["n"]) == ("arm", 0, 12)
    assert (dice["mean"], dice["low"]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert dice["p"] == dice["p_corrected"] == pytest.approx(2 / 2**12)
    assert (dice["better"], hd95["better"]) == (12, 0), "a larger distance is worse"
    strangers = pd.concat([table(result_of("a", 1.0), arm="ours"), table(result_of("b", 1.0))])
    assert {(row["mean"], row["p"]) for row in difference_rows(per_patient(strangers), "ours")} == {(None, None)}


def test_a_sequence_that_ended_early_keeps_its_last_share():
    short = table(result_of("a", 0.5, 0.7, 0.9, obeyed=(0.0, 0.5)))
    assert (patients(short, 1, "obeyed"), patients(short, 5, "obeyed")) == ({"a": 0.0}, {"a": 0.5})


def test_results_of_an_earlier_version_have_no_obedience_not_even_beside_new_ones():
    old, new = result_of("a", 0.5, 0.7), result_of("b", 0.5, 0.7, obeyed=(1.0,))
    assert patients(table(old, new), 1, "obeyed") == {}
    assert patients(table(new), 1, "obeyed") == {"b": 1.0}
    assert patients(table(new), 0, "obeyed") == {}, "nothing to obey"


def test_the_end_counts_sequences_and_its_median_patients():
    answers = table(
        result_of("a", *[0.1] * 10, 0.9, 0.1),  # at 10 clicks, not at 11
        result_of("a", 0.2, 0.86, seed=1),  # ended early
        result_of("b", 0.95, *[0.2] * 10),  # was good once
        result_of("c", *[0.84] * 11),
        max_clicks=11,
    )
    (row,) = curve_rows(answers)
    shares = {"dice_0.85": 0.5, "dice_0.9": 0.25}
    assert row["end"] == {"clicks": 10, "sequences": 4, "median_dice": pytest.approx(0.84), **shares}
    (row,) = curve_rows(table(result_of("a", 0.5, 0.9), max_clicks=1))
    assert row["end"]["clicks"] == 1
