"""Best, median and worst case of every arm, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nnsam3d.errors import UserError
from nnsam3d.evaluation.figures import Overlay, overlays
from nnsam3d.evaluation.names import parse_arm
from nnsam3d.evaluation.plan import BenchCase, Setting, cases_of
from nnsam3d.evaluation.results import Result
from nnsam3d.evaluation.runner import read_map
from nnsam3d.evaluation.summary import Group, score_of
from nnsam3d.nnunet.reading import read_labelled

CLICKS = 1  # number of clicks: the paper's setting
RANKS = ("best", "median", "worst")


def overlay_figure(setting: Setting, output: Path, found: Sequence[Group]) -> tuple[Figure, str] | None:
    """A row per arm of the first protocol; None without images, models or label maps."""
    own = [group for group in found if group.protocol == setting.protocols[0]]
    rows, names = [], []
    for group in own:
        results = [result for result in group.results if result.seed == setting.seeds[0]]
        panels = [_panel(setting, output, result, title) for title, result in _ranked(results, group)]
        shown = [panel for panel in panels if panel is not None]
        if shown:
            rows.append(shown)
            names.append(group.arm)
    if not rows:
        return None
    caption = (
        f"Best, median and worst case of every arm by Dice, protocol {setting.protocols[0]}, after {CLICKS} click "
        f"(arms without clicks: their only answer), click seed {setting.seeds[0]}; the slice that shows most of the "
        "truth."
    )
    return overlays(rows, names), caption


def _ranked(results: Sequence[Result], group: Group) -> list[tuple[str, Result]]:
    """Title and result of the best, the median and the worst case."""
    scored = [(score_of(result, "dice", group.labels[0], CLICKS), result) for result in results]
    known = [(dice, result) for dice, result in scored if dice is not None]
    ranked = sorted(known, key=lambda entry: (-entry[0], entry[1].case))
    if not ranked:
        return []
    chosen = zip(RANKS, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True)
    return [(f"{rank}: {result.case}, Dice {dice:.2f}", result) for rank, (dice, result) in chosen]


def _panel(setting: Setting, output: Path, result: Result, title: str) -> Overlay | None:
    answer = read_map(map_file(output, result), CLICKS)
    loaded = load_case(setting, result)
    if answer is None or loaded is None:
        return None
    image, truth, spacing = loaded
    clicks = [step.click for step in result.steps if step.click and step.clicks <= CLICKS]
    return Overlay(title, image, truth > 0, answer > 0, [(*voxel, label) for voxel, label in clicks], spacing)


def map_file(output: Path, result: Result) -> Path:
    """The file with the label maps of a result, if they were kept."""
    return result.job.unit_file(output, result.case, result.seed).with_suffix(".npz")


def load_case(setting: Setting, result: Result) -> tuple[Any, Any, tuple[float, float, float]] | None:
    """First image channel and ground truth (D, H, W), spacing in mm; None if dataset or models are missing."""
    job = result.job
    try:
        case = next(case for case in cases_of(setting, job) if case.name == result.case)
        # a control without a model is shown with the reader of another arm's
        names = [arm for arm in (job.arm, *setting.arms) if parse_arm(arm).trainer]
        models = [replace(job, arm=arm) for arm in names or setting.arms if parse_arm(arm).has_model]
        plans = next((one.model_folder / "plans.json" for one in models if one.checkpoint.is_file()), None)
        return None if plans is None or not plans.is_file() else _load(plans, case)
    except UserError:
        return None


def _load(plans: Path, case: BenchCase) -> tuple[Any, Any, tuple[float, float, float]]:
    image_CZYX, truth_ZYX, spacing = read_labelled(plans, case.images, case.truth)
    return image_CZYX[0], truth_ZYX, spacing
