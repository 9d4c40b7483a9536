"""What the demo's predictions are worth: Dice, two tables, and whether clicks did what they should."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nnsam3d.demo.phantom import PhantomCase
from nnsam3d.tables import columns

ENOUGH, APART = 0.75, 0.40  # Dice with the right click, and how much worse a click on the look-alike has to be
TOO_MUCH, LEFT = 0.30, 0.50  # share of the neighbour that one click takes, and how much of that may be left after two
GAIN = 0.05  # Dice that the correction has to win
Masks: TypeAlias = Mapping[str, NDArray[np.bool_]]
Scores: TypeAlias = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Correction:
    """Means over the bridged test cases; pairs are (after one click, after the correction).

    Attributes:
        dice: against the target. taken: share of the neighbour's voxels inside the prediction.
        background: how many cases got a "background" click. missed: how many a "lesion" click, because their largest
            error was something missed. cases: how many there are; the rest was perfect and got no second click.
    """

    dice: tuple[float, float]
    taken: tuple[float, float]
    background: int
    missed: int
    cases: int


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 for two empty masks."""
    total = int(prediction.sum()) + int(truth.sum())
    return 2.0 * int((prediction & truth).sum()) / total if total else 1.0


def mean_dice(tests: Mapping[str, PhantomCase], predictions: Mapping[str, Masks]) -> Scores:
    """Arm -> mean Dice over the test cases against the target and against the look-alike."""
    scores: Scores = {}
    for arm, found in predictions.items():
        target = np.mean([dice(found[name], case.target_DHW) for name, case in tests.items()])
        lookalike = np.mean([dice(found[name], case.lookalike_DHW) for name, case in tests.items()])
        scores[arm] = (float(target), float(lookalike))
    return scores


def dice_table(titles: Mapping[str, str], scores: Scores, num_cases: int) -> str:
    """The scores as text, one line for each way of clicking.

    Args:
        titles: arm -> what its line is called.
    """
    rows = [(title, (scores[arm][0], scores[arm][1])) for arm, title in titles.items()]
    return _table(f"Mean Dice over {num_cases} test cases", ("target", "look-alike"), rows)


def clicks_decide(scores: Scores) -> bool:
    """Whether moving the click moved the segmentation: good where clicked, and far worse elsewhere."""
    right, wrong = scores["one_click"][0], scores["lookalike_click"][0]
    return right >= ENOUGH and right - wrong >= APART


def measure_correction(
    tests: Mapping[str, PhantomCase], before: Masks, after: Masks, second: Mapping[str, int | None]
) -> Correction:
    """What the second click changed.

    Args:
        tests: bridged cases. before, after: (D, H, W) predictions by case.
        second: label of each case's second click; None where there was nothing to correct.
    """
    given = [second[name] for name in tests]
    return Correction(
        dice=(_mean(dice(before[n], c.target_DHW) for n, c in tests.items()),
              _mean(dice(after[n], c.target_DHW) for n, c in tests.items())),
        taken=(_mean(_taken(before[n], c) for n, c in tests.items()),
               _mean(_taken(after[n], c) for n, c in tests.items())),
        background=given.count(0), missed=given.count(1), cases=len(given),
    )  # fmt: skip


def correction_table(found: Correction) -> str:
    """Before and after the second click, with what that click was."""
    always = found.background == found.cases
    second = "+ 1 'background' click on what is too much" if always else "+ 1 click on the largest error"
    rows = [
        (title, (found.dice[step], found.taken[step])) for step, title in enumerate(("1 click on the target", second))
    ]
    head = f"Correction: {found.cases} test cases whose target touches an equal neighbour"
    text = _table(head, ("target Dice", "neighbour taken"), rows)
    if always:
        return text
    nothing = found.cases - found.background - found.missed
    return text + (
        f"\nThe second click was 'background' in {found.background} of {found.cases} cases, 'lesion' in {found.missed} "
        f"(more was missed than was too much), and there was none in {nothing} (no error)."
    )


def correction_works(found: Correction) -> bool:
    """Whether one click took too much, and the correction removed most of it and made the target better."""
    (dice_before, dice_after), (taken_before, taken_after) = found.dice, found.taken
    removed = taken_before >= TOO_MUCH and taken_after <= LEFT * taken_before
    return removed and dice_after >= dice_before + GAIN


def _taken(prediction: NDArray[np.bool_], case: PhantomCase) -> float:
    return int((prediction & case.lookalike_DHW).sum()) / int(case.lookalike_DHW.sum())


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _table(head: str, names: tuple[str, str], rows: list[tuple[str, tuple[float, float]]]) -> str:
    first, second = (len(name) for name in names)
    told = [(title, f"{one:{first}.2f}", f"{other:{second}.2f}") for title, (one, other) in rows]
    header, *lines = columns([("prompt", *names), *told]).splitlines()
    return "\n".join([head, header, "-" * len(header), *lines])
