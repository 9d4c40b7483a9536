"""Scores of the demo: Dice, two tables, and whether clicks had the expected effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnsam3d.demo.phantom import PhantomCase
from nnsam3d.prompts.components import dice_of
from nnsam3d.tables import columns

ENOUGH, APART = 0.75, 0.40  # Dice with the right click, and the required difference for a click on the look-alike
TOO_MUCH, LEFT = 0.30, 0.50  # share of the neighbour included by one click, and how much of it may remain after two
GAIN = 0.05  # required gain in Dice by the correction
Masks: TypeAlias = Mapping[str, NDArray[np.bool_]]
ArmScores: TypeAlias = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class CorrectionScores:
    """Means over the bridged test cases; pairs are (after one click, after the correction).

    Attributes:
        dice: against the target. taken: share of the neighbour's voxels inside the prediction.
        background: number of cases with a "background" click. missed: with a "lesion" click, because the largest error
            was a missed part. cases: number of cases; the others had no error and no second click.
    """

    dice: tuple[float, float]
    taken: tuple[float, float]
    background: int
    missed: int
    cases: int


def mean_dice(tests: Mapping[str, PhantomCase], predictions: Mapping[str, Masks]) -> ArmScores:
    """Arm -> mean Dice over the test cases against the target and against the look-alike."""
    scores: ArmScores = {}
    for arm, found in predictions.items():
        target = _mean(dice_of(found[name], case.target_DHW) for name, case in tests.items())
        scores[arm] = target, _mean(dice_of(found[name], case.lookalike_DHW) for name, case in tests.items())
    return scores


def dice_table(titles: Mapping[str, str], scores: ArmScores, num_cases: int) -> str:
    """The scores as text, one line per set of clicks.

    Args:
        titles: arm -> title of its line.
    """
    rows = [(title, scores[arm]) for arm, title in titles.items()]
    return _table(f"Mean Dice over {num_cases} test cases", ("target", "look-alike"), rows)


def clicks_decide(scores: ArmScores) -> bool:
    """Whether moving the click moved the segmentation: good where clicked, and far worse elsewhere."""
    right, wrong = scores["one_click"][0], scores["lookalike_click"][0]
    return right >= ENOUGH and right - wrong >= APART


def measure_correction(
    tests: Mapping[str, PhantomCase], before: Masks, after: Masks, second: Mapping[str, int | None]
) -> CorrectionScores:
    """The effect of the second click.

    Args:
        tests: bridged cases. before, after: (D, H, W) predictions by case.
        second: label of each case's second click; None if there was no error.
    """
    given = [second[name] for name in tests]
    return CorrectionScores(
        dice=(_mean(dice_of(before[n], c.target_DHW) for n, c in tests.items()),
              _mean(dice_of(after[n], c.target_DHW) for n, c in tests.items())),
        taken=(_mean(_taken(before[n], c) for n, c in tests.items()),
               _mean(_taken(after[n], c) for n, c in tests.items())),
        background=given.count(0), missed=given.count(1), cases=len(given),
    )  # fmt: skip


def correction_table(found: CorrectionScores) -> str:
    """Before and after the second click, with its type."""
    always = found.background == found.cases
    second = "+ 1 'background' click on the neighbour" if always else "+ 1 click on the largest error"
    rows = list(zip(("1 click on the target", second), zip(found.dice, found.taken, strict=True), strict=True))
    head = f"Correction: {found.cases} test cases whose target touches an equal neighbour"
    text = _table(head, ("target Dice", "neighbour taken"), rows)
    if always:
        return text
    nothing = found.cases - found.background - found.missed
    return text + (
        f"\nThe second click was 'background' in {found.background} of {found.cases} cases, 'lesion' in {found.missed} "
        f"(the larger error was a missed part), and there was none in {nothing} (no error)."
    )


def correction_works(found: CorrectionScores) -> bool:
    """Whether one click included too much, and the correction removed most of it and improved the target."""
    (dice_before, dice_after), (taken_before, taken_after) = found.dice, found.taken
    removed = taken_before >= TOO_MUCH and taken_after <= LEFT * taken_before
    return removed and dice_after >= dice_before + GAIN


def _taken(prediction: NDArray[np.bool_], case: PhantomCase) -> float:
    return int((prediction & case.lookalike_DHW).sum()) / int(case.lookalike_DHW.sum())


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _table(head: str, names: tuple[str, str], rows: list[tuple[str, tuple[float, float]]]) -> str:
    first, second = (len(name) for name in names)
    formatted = [(title, f"{one:{first}.2f}", f"{other:{second}.2f}") for title, (one, other) in rows]
    header, *lines = columns([("prompt", *names), *formatted]).splitlines()
    return "\n".join([head, header, "-" * len(header), *lines])
