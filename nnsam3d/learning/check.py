"""What a model is worth on finished cases: Dice of its answers without clicks and after simulated ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nnsam3d.inference.image import PreparedImage
from nnsam3d.learning.finished import FinishedCase, read_finished
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.nnunet.reading import spacing_of
from nnsam3d.prompts import CasePrompts, PromptSimulator, VoxelClick
from nnsam3d.prompts.components import dice_of

CLICKS = (0, 1, 3)
CLICKED = (1, 3)  # what is compared with a class-agnostic model, which has no answer without clicks
MOST_CASES = 4  # the last ones: a check is to take seconds
CACHE_BYTES = 2**30
Known = dict[str, dict[str, float] | None]  # by :func:`key_of`: Dice by number of clicks; None: the case has no label


def clicked_through(model: TrainedModel, case: FinishedCase, most: int) -> Iterator[tuple[int, dict[int, float]]]:
    """The answers to 0, 1, 2, ... simulated clicks, each on the largest error of the answer before: number of clicks,
    and Dice of every label that occurs. Ends early if there is no error.

    Args:
        model: that answers.
        case: with the truth.
        most: clicks.
    """
    image, truth, properties = read_finished(case, model)
    labels = tuple(value for value in sorted(set(model.labels.values())) if value > 0 and (truth == value).any())
    simulator = PromptSimulator(labels, spacing_of(properties), case.ignored)
    annotated = truth != case.ignored  # everywhere if that is None
    prepared = PreparedImage(model, image, properties, CACHE_BYTES, files=case.images)
    given: list[VoxelClick] = []
    for number in range(most + 1):
        prompts = CasePrompts.of_array(case.name, [one.voxel for one in given], [one.label for one in given])
        answer = prepared.segment(prompts if given else None).label_map
        yield number, {label: dice_of((answer == label) & annotated, truth == label) for label in labels}
        click = simulator.correction(truth, answer, [one.voxel for one in given])
        if click is None:
            return
        given.append(click)


def held_back_dice(
    model: TrainedModel,
    cases: Sequence[FinishedCase],
    weights: str,
    known: Known,
    clicks: Sequence[int] = CLICKS,
    least: int = 1,
) -> float | None:
    """Mean Dice over the last few cases, labels and numbers of clicks; None if fewer than ``least`` cases have a label.

    Args:
        model: that answers.
        cases: held back.
        weights: SHA-256 of the model's.
        known: from earlier checks. What is not known is measured, at all of :data:`CLICKS`, and added.
        clicks: some of :data:`CLICKS`.
        least: number of cases.
    """
    found = []
    for case in cases[-MOST_CASES:]:
        key = key_of(weights, case)
        if key not in known:
            steps = [np.mean(list(dice.values())) for _, dice in clicked_through(model, case, max(CLICKS)) if dice]
            last = len(steps) - 1  # an answer without errors is the last one
            known[key] = {str(number): float(steps[min(number, last)]) for number in CLICKS} if steps else None
        dice = known[key]
        if dice is not None:
            found.append(np.mean([dice[str(number)] for number in clicks]))
    return float(np.mean(found)) if len(found) >= least else None


def key_of(weights: str, case: FinishedCase) -> str:
    """Changes with the weights, and when the case is saved again."""
    return f"{weights} {case.name} {case.version}"
