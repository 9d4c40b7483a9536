"""Pictures of cases: best and worst answers, first prompts, corrections. Each is None if what it shows is missing.

Axis letters: D, H, W = array axes z, y, x, or with the axis across the shown slice first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.evaluation.figures import CorrectionExample, Overlay, corrections, dice_text, overlays
from nnsam3d.evaluation.names import PROTOCOLS, parse_arm
from nnsam3d.evaluation.plan import Setting, cases_of
from nnsam3d.evaluation.results import Result
from nnsam3d.evaluation.runner import read_map
from nnsam3d.evaluation.summary import Group, score_of
from nnsam3d.nnunet.reading import read_labelled
from nnsam3d.prompts.kinds import KINDS, Shape

CLICKS = 1  # of the overlays: the paper's setting
RANKS = ("best", "median", "worst")
QUARTILES = (0.25, 0.5, 0.75)
CORRECTION = 2  # the first click on an error of an answer to clicks
ARMS = 2  # with corrections side by side
NONE_NEEDED = "no second click:\nno error left"


def overlay_figure(setting: Setting, output: Path, found: Sequence[Group]) -> tuple[Figure, str] | None:
    """Best, median and worst case, a row per arm, and the caption.

    Args:
        setting, output: of the run. found: the arms of one dataset, configuration and protocol.
    """
    rows = {}
    for group in found:
        results = [result for result in group.results if result.seed == setting.seeds[0]]
        scored = [(score_of(result, "dice", group.labels[0], CLICKS), result) for result in results]
        known = [(dice, result) for dice, result in scored if dice is not None]
        ranked = sorted(known, key=lambda entry: (-entry[0], entry[1].case))
        chosen = zip(RANKS, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True) if ranked else ()
        panels = [
            _overlay(setting, output, result, f"{rank}: {result.case}, Dice {dice_text(dice)}")
            for rank, (dice, result) in chosen
        ]
        rows[group.arm] = [panel for panel in panels if panel is not None]
    caption = (
        f"Best, median and worst case of every arm by Dice, protocol {setting.protocols[0]}, after {CLICKS} click "
        f"(arms without clicks: their only answer), click seed {setting.seeds[0]}; the slice that shows most of the "
        "truth."
    )
    return (overlays(rows), caption) if any(rows.values()) else None


def _overlay(setting: Setting, output: Path, result: Result, title: str) -> Overlay | None:
    loaded = _load(setting, output, result, [CLICKS], exactly=False)
    if loaded is None:
        return None
    image, truth, spacing, (answer,) = loaded
    clicks = [step.click for step in result.steps[: CLICKS + 1] if step.click]
    return Overlay(title, image, truth > 0, answer > 0, spacing, [(*voxel, label) for voxel, label in clicks])


def _load(
    setting: Setting, output: Path, result: Result, clicks: Sequence[int], exactly: bool = True
) -> tuple[NDArray[Any], NDArray[Any], tuple[float, float, float], list[NDArray[np.uint16]]] | None:
    """First image channel and ground truth (D, H, W), spacing in mm, and the answers after these numbers of clicks.

    None if label maps, the dataset or all models are missing.
    """
    job, maps = result.job, result.job.unit_file(output, result.case, result.seed).with_suffix(".npz")
    answers = [answer for n in clicks if (answer := read_map(maps, n, exactly)) is not None]
    # a control without a model is shown with the reader of another arm's
    names = [arm for arm in (job.arm, *setting.arms) if parse_arm(arm).trainer] or setting.arms
    models = [replace(job, arm=arm) for arm in names if parse_arm(arm).has_model]
    try:
        case = next(case for case in cases_of(setting, job) if case.name == result.case)
        plans = next((one.model_folder / "plans.json" for one in models if one.checkpoint.is_file()), None)
        if len(answers) < len(clicks) or plans is None or not plans.is_file():
            return None
        image_CZYX, truth_ZYX, spacing = read_labelled(plans, case.images, case.truth)
    except UserError:
        return None
    return image_CZYX[0], truth_ZYX, spacing, answers


def quartile_cases(group: Group, seed: int) -> list[Result]:
    """The results at the quartiles of Dice without a click, from low to high; fewer if there are fewer cases."""
    first = {result.case: result for result in reversed(group.results) if result.seed == seed}  # its first fold
    scored = [(score_of(result, "dice", group.labels[0], 0), case) for case, result in first.items()]
    ranked = [case for dice, case in sorted((dice, case) for dice, case in scored if dice is not None)]
    places = [int(np.floor(share * (len(ranked) - 1) + 0.5)) for share in QUARTILES]
    return [first[case] for case in dict.fromkeys(ranked[place] for place in places if ranked)]


def _result_like(result: Result, group: Group) -> Result:
    """The result of another arm with the same case, fold, training and seed."""

    def key(one: Result) -> tuple[str, str, int | None, int]:
        return one.case, one.job.fold, one.job.training, one.seed

    return next(other for other in group.results if key(other) == key(result))


# ---------------------------------------------------------------------- corrections


def correction_figure(setting: Setting, output: Path, found: Sequence[Group]) -> tuple[Figure, str] | None:
    """Before a click, the click, and after it: a row per case, three panels per arm; and the caption.

    Args:
        setting, output: of the run. found: the arms of one dataset, configuration and protocol.
    """
    arms = [group for group in found if PROTOCOLS[group.protocol].corrected and not group.answers_once][:ARMS]
    cases = quartile_cases(arms[0], setting.seeds[0]) if arms else []
    rows = [[_correction(setting, output, _result_like(case, group), group) for group in arms] for case in cases]
    kept = [[shown for shown in row if shown is not None] for row in rows]
    is_complete = all(len(row) == len(arms) for row in kept)
    if not is_complete or all(isinstance(shown, str) for row in kept for shown in row):
        return None
    caption = (
        f"The second click, the first one on an error of an answer to clicks: on the slice through it, the answer "
        f"before, the click on that answer's error, and the answer after; protocol {arms[0].protocol}, click seed "
        f"{setting.seeds[0]}. The cases are those at the quartiles (25, 50, 75 %) of {arms[0].arm}'s Dice without a "
        "click, independent of later clicks. Dice is that of the whole case; clicks are enforced in all answers. "
        "Every arm is clicked on its own error."
    )
    return corrections(kept, [group.arm for group in arms]), caption


def _correction(setting: Setting, output: Path, result: Result, group: Group) -> CorrectionExample | str | None:
    """The content of the panels; a text if no such click was needed."""
    if len(result.steps) <= CORRECTION:
        return NONE_NEEDED
    # the exact maps: earlier versions did not keep the one after two clicks
    numbers = (CORRECTION - 1, CORRECTION)
    loaded, click = _load(setting, output, result, numbers), result.steps[CORRECTION].click
    if loaded is None or click is None:
        return None
    image, truth, spacing, (before, after) = loaded
    (z, y, x), label = click

    def target(label_map: NDArray[Any]) -> NDArray[np.bool_]:
        """The target of a click on its slice: its label; for a negative click, all foreground."""
        return np.asarray(label_map[z] == label if label else label_map[z] > 0)

    first, second = (score_of(result, "dice", group.labels[0], clicks) for clicks in numbers)
    return CorrectionExample(
        case=result.case,
        dices=(first, second),
        image_HW=image[z],
        limits=np.percentile(image, [1, 99.5]),
        truth_HW=target(truth),
        before_HW=target(before),
        after_HW=target(after),
        click=(y, x, label),
        spacing=spacing[1:],
    )


# ---------------------------------------------------------------------- first prompts


def prompt_figure(setting: Setting, output: Path, found: Sequence[Group]) -> tuple[Figure, str] | None:
    """First prompts on a slice, and the answers to them: a row per arm, three cases; and the caption.

    Args:
        setting, output: of the run. found: the arms of one dataset, configuration and protocol.
    """
    if not found or not PROTOCOLS[found[0].protocol].extent:
        return None
    cases = quartile_cases(found[0], setting.seeds[0])
    panels = {g.arm: [_prompted(setting, output, _result_like(case, g), g) for case in cases] for g in found}
    rows = {arm: [panel for panel in row if panel is not None] for arm, row in panels.items()}
    caption = (
        f"The first prompt, on a slice on which it lies, and the answer to it before any click; protocol "
        f"{found[0].protocol}, seed {setting.seeds[0]}. The cases are those at the quartiles (25, 50, 75 %) of "
        f"{found[0].arm}'s Dice at that point. Arms that do not use prompts: their only answer."
    )
    return (overlays(rows), caption) if any(rows.values()) else None


def _prompted(setting: Setting, output: Path, result: Result, group: Group) -> Overlay | None:
    loaded = _load(setting, output, result, [0])
    if loaded is None or not result.first:
        return None
    image, truth, spacing, (answer,) = loaded
    axis, number = slice_of(result.first[0], truth)
    z, y, x = (spacing[axis], *np.delete(spacing, axis).tolist())
    title = f"{result.case}, Dice {dice_text(score_of(result, 'dice', group.labels[0], 0))}"
    image, truth, answer = (np.moveaxis(array, axis, 0) for array in (image, truth, answer))
    curves, dots = drawn_on(result.first, axis, number)
    return Overlay(title, image, truth > 0, answer > 0, (z, y, x), (), number, curves, dots)


def slice_of(prompt: Shape, truth_DHW: NDArray[np.integer]) -> tuple[int, int]:
    """Axis and number of the slice on which a prompt is shown.

    A lasso and a line lie on one slice. Of a box, it is the slice along D with most of the label; of voxels, the one
    along D with most of them.
    """
    points_N3 = prompt.points_N3
    axis, drawn = 0, KINDS[prompt.kind].drawn
    if drawn in ("ring", "path"):
        axis = int(np.ptp(points_N3, axis=0).argmin())
        number = float(points_N3[:, axis].mean())
    elif drawn == "solid":
        number = int((truth_DHW == prompt.label).sum((1, 2)).argmax())
    else:
        number = float(np.bincount(np.rint(points_N3[:, 0]).clip(0).astype(int)).argmax())
    return axis, int(np.clip(round(number), 0, truth_DHW.shape[axis] - 1))


def drawn_on(
    prompts: Sequence[Shape], axis: int, number: int
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """The curves and the single points (M, 2) of prompts on a slice."""
    curves, dots = [], []
    for prompt in prompts:
        points_N3, kind = prompt.points_N3, KINDS[prompt.kind]
        low, high = kind.bounds(points_N3)
        if not low[axis] - 0.5 <= number <= high[axis] + 0.5:
            continue
        points_N2 = np.delete(points_N3, axis, axis=1)
        if kind.drawn == "solid":
            (a, b), (c, d) = np.delete(low, axis), np.delete(high, axis)
            curves.append(np.array([[a, b], [a, d], [c, d], [c, b], [a, b]]))
        elif kind.drawn == "ring":
            curves.append(np.vstack([points_N2, points_N2[:1]]))
        elif kind.drawn == "path":
            curves.append(points_N2)
        else:
            dots.append(points_N2[np.abs(points_N3[:, axis] - number) <= 0.5])
    return curves, dots
