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
from nnsam3d.evaluation.plan import BenchCase, Job, Setting, cases_of
from nnsam3d.evaluation.runner import read_map
from nnsam3d.evaluation.summary import Group, Unit, unit_score
from nnsam3d.keys import known
from nnsam3d.nnunet.reading import read_labelled

CLICKS = 1  # number of clicks: the paper's setting
RANKS = ("best", "median", "worst")


def overlay_figure(setting: Setting, output: Path, found: Sequence[Group]) -> tuple[Figure, str] | None:
    """A row per arm of the first protocol; None without images, models or label maps."""
    own = [group for group in found if group.protocol == setting.protocols[0]]
    rows, names = [], []
    for group in own:
        units = [unit for unit in group.units if unit["seed"] == setting.seeds[0]]
        panels = [_panel(setting, output, unit, group, rank) for rank, unit in _ranked(units, group)]
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


def _ranked(units: Sequence[Unit], group: Group) -> list[tuple[str, Unit]]:
    scored = [(unit_score(unit, "dice", group.labels[0], CLICKS), unit["case"], unit) for unit in units]
    ranked = sorted((entry for entry in scored if entry[0] is not None), key=lambda entry: (-entry[0], entry[1]))  # type: ignore[operator]
    if not ranked:
        return []
    chosen = zip(RANKS, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True)
    return [(f"{rank}: {case}, Dice {dice:.2f}", unit) for rank, (dice, case, unit) in chosen]


def _panel(setting: Setting, output: Path, unit: Unit, group: Group, title: str) -> Overlay | None:
    answer = read_map(map_file(output, unit), CLICKS)
    loaded = load_case(setting, unit)
    if answer is None or loaded is None:
        return None
    image, truth, spacing = loaded
    clicks = [step["click"] for step in unit["steps"] if step["click"] and step["clicks"] <= CLICKS]
    listed = [(*click["zyx"], click["label"]) for click in clicks]
    return Overlay(title, image, truth > 0, answer > 0, listed, spacing)


def map_file(output: Path, unit: Unit) -> Path:
    """The file with the label maps of a unit, if they were kept."""
    return _job(unit).unit_file(output, unit["case"], unit["seed"]).with_suffix(".npz")


def load_case(setting: Setting, unit: Unit) -> tuple[Any, Any, tuple[float, float, float]] | None:
    """First image channel and ground truth (D, H, W), spacing in mm; None if dataset or models are missing."""
    job = _job(unit)
    try:
        case = next(case for case in cases_of(setting, job) if case.name == unit["case"])
        # a control without a model is shown with the reader of another arm's
        models = [replace(job, arm=arm) for arm in (job.arm, *setting.arms) if parse_arm(arm).has_model]
        plans = next((one.model_folder / "plans.json" for one in models if one.checkpoint.is_file()), None)
        return None if plans is None or not plans.is_file() else _load(plans, case)
    except UserError:
        return None


def _job(unit: Unit) -> Job:
    return Job(**{key: unit[key] for key in known(Job) if key in unit})


def _load(plans: Path, case: BenchCase) -> tuple[Any, Any, tuple[float, float, float]]:
    image_CZYX, truth_ZYX, spacing = read_labelled(plans, case.images, case.truth)
    return image_CZYX[0], truth_ZYX, spacing
