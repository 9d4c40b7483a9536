"""Pictures of the first prompts, drawn on a slice, and of the answers to them.

Axis letters: D, H, W = array axes z, y, x, or with the axis across the slice first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnsam3d.evaluation.corrections import quartile_cases, result_like
from nnsam3d.evaluation.figures import Overlay, overlays
from nnsam3d.evaluation.names import PROTOCOLS
from nnsam3d.evaluation.overlays import load_case, map_file
from nnsam3d.evaluation.plan import Setting
from nnsam3d.evaluation.results import Result
from nnsam3d.evaluation.runner import read_map
from nnsam3d.evaluation.summary import Group, score_of
from nnsam3d.prompts.kinds import KINDS, Shape


def prompt_figure(setting: Setting, output: Path, found: Sequence[Group]) -> tuple[Figure, str] | None:
    """A row per arm, three cases; None for protocols that begin otherwise, or without images, models or label maps.

    Args:
        found: the arms of one dataset, configuration and protocol that take part in it.
    """
    if not found or not PROTOCOLS[found[0].protocol].extent:
        return None
    cases = quartile_cases(found[0], setting.seeds[0])
    rows = [[_panel(setting, output, result_like(case, group), group) for case in cases] for group in found]
    shown = [[panel for panel in row if panel is not None] for row in rows]
    if not any(shown):
        return None
    caption = (
        f"The first prompt, on a slice on which it lies, and the answer to it before any click; protocol "
        f"{found[0].protocol}, seed {setting.seeds[0]}. The cases are those at the quartiles (25, 50, 75 %) of "
        f"{found[0].arm}'s Dice at that point. Arms that do not use prompts: their only answer."
    )
    kept = [(row, group.arm) for row, group in zip(shown, found, strict=True) if row]
    return overlays([row for row, _ in kept], [arm for _, arm in kept]), caption


def _panel(setting: Setting, output: Path, result: Result, group: Group) -> Overlay | None:
    answer, loaded = read_map(map_file(output, result), 0, exactly=True), load_case(setting, result)
    if answer is None or loaded is None or not result.first:
        return None
    image, truth, spacing = loaded
    axis, number = slice_of(result.first[0], truth)
    curves, dots = drawn_on(result.first, axis, number)
    z, y, x = (spacing[axis], *np.delete(spacing, axis).tolist())
    dice = score_of(result, "dice", group.labels[0], 0)
    return Overlay(
        f"{result.case}, Dice {'–' if dice is None else f'{dice:.2f}'}",
        np.moveaxis(image, axis, 0),
        np.moveaxis(truth > 0, axis, 0),
        np.moveaxis(answer > 0, axis, 0),
        (),
        (z, y, x),
        number,
        curves,
        dots,
    )


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
