"""Pictures of a correction: before the click, the click, after it. Axis letters: D, H, W = array axes z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnsam3d.evaluation.figures import CorrectionExample, corrections
from nnsam3d.evaluation.names import PROTOCOLS
from nnsam3d.evaluation.overlays import load_case, map_file
from nnsam3d.evaluation.plan import Setting
from nnsam3d.evaluation.results import Result
from nnsam3d.evaluation.runner import read_map
from nnsam3d.evaluation.summary import Group, score_of

CLICK = 2  # the first one on an error of an answer to clicks
QUARTILES = (0.25, 0.5, 0.75)
ARMS = 2  # side by side
NONE_NEEDED = "no second click:\nno error left"


def correction_figure(setting: Setting, output: Path, found: Sequence[Group]) -> tuple[Figure, str] | None:
    """A row per case, three panels per arm; None without such clicks, images, models or label maps.

    Args:
        found: all arms of one dataset, configuration and protocol.
    """
    arms = [group for group in found if PROTOCOLS[group.protocol].corrected and not group.answers_once][:ARMS]
    if not arms:
        return None
    cases = quartile_cases(arms[0], setting.seeds[0])
    rows = [[_shown(setting, output, result_like(case, group), group) for group in arms] for case in cases]
    kept = [[shown for shown in row if shown is not None] for row in rows]
    if not rows or any(len(row) != len(arms) for row in kept):
        return None
    if all(isinstance(shown, str) for row in kept for shown in row):
        return None
    caption = (
        f"The second click, the first one on an error of an answer to clicks: on the slice through it, the answer "
        f"before, the click on that answer's error, and the answer after; protocol {arms[0].protocol}, click seed "
        f"{setting.seeds[0]}. The cases are those at the quartiles (25, 50, 75 %) of {arms[0].arm}'s Dice without a "
        "click, independent of later clicks. Dice is that of the whole case; clicks are enforced in all answers. "
        "Every arm is clicked on its own error."
    )
    return corrections(kept, [group.arm for group in arms]), caption


def quartile_cases(group: Group, seed: int) -> list[Result]:
    """The results at the quartiles of Dice without a click, from low to high; fewer if there are fewer cases."""
    label = group.labels[0]
    first = {result.case: result for result in reversed(group.results) if result.seed == seed}  # its first fold
    scored = [(score_of(result, "dice", label, 0), case) for case, result in first.items()]
    ranked = [case for dice, case in sorted((dice, case) for dice, case in scored if dice is not None)]
    places = [int(np.floor(share * (len(ranked) - 1) + 0.5)) for share in QUARTILES]
    return [first[case] for case in dict.fromkeys(ranked[place] for place in places if ranked)]


def result_like(result: Result, group: Group) -> Result:
    """The result of another arm with the same case, fold, training and seed."""

    def key(one: Result) -> tuple[str, str, int | None, int]:
        return one.case, one.job.fold, one.job.training, one.seed

    return next(other for other in group.results if key(other) == key(result))


def _shown(setting: Setting, output: Path, result: Result, group: Group) -> CorrectionExample | str | None:
    """The content of the panels; a text if no such click was needed, None if something is missing."""
    if len(result.steps) <= CLICK:
        return NONE_NEEDED
    # the exact map: earlier versions did not keep the one after two clicks
    before, after = (read_map(map_file(output, result), clicks, exactly=True) for clicks in (CLICK - 1, CLICK))
    loaded = load_case(setting, result)
    if before is None or after is None or loaded is None:
        return None
    image, truth, spacing = loaded
    click = result.steps[CLICK].click
    assert click is not None, "every step but the first has one"
    (z, y, x), label = click
    dice = [score_of(result, "dice", group.labels[0], clicks) for clicks in (CLICK - 1, CLICK)]
    return CorrectionExample(
        case=result.case,
        dices=(dice[0], dice[1]),
        image_HW=image[z],
        limits=np.percentile(image, [1, 99.5]),
        truth_HW=_about(truth[z], label),
        before_HW=_about(before[z], label),
        after_HW=_about(after[z], label),
        click=(y, x, label),
        spacing=spacing[1:],
    )


def _about(label_map: NDArray[Any], label: int) -> NDArray[np.bool_]:
    """The target of a click: its label; for a negative click, all foreground."""
    return np.asarray(label_map == label if label else label_map > 0)
