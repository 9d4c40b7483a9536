"""The report's pictures: click curves, paired cases, overlays and corrections.

Axis letters: D, H, W = array axes z, y, x.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nnsam3d.evaluation.metrics import METRICS

# the colours of Okabe and Ito, distinguishable for colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PREDICTION, TRUTH, CLICK = "#ff4d4d", "#38d430", "#1f77ff"
MISSED, EXCESS = "#E69F00", "#CC79A7"


def click_curves(rows: Sequence[Mapping[str, Any]], arms: Sequence[str], metrics: Sequence[str]) -> Figure:
    """Mean over patients with 95 % interval, by number of clicks; arms without clicks are horizontal lines.

    Args:
        rows: of one dataset, configuration, protocol and label.
    """
    figure = Figure(figsize=(5.2 * len(metrics), 4.4))
    axes = figure.subplots(1, len(metrics), squeeze=False)
    most = max(row["clicks"] for row in rows)
    for axis, metric in zip(axes[0], metrics, strict=True):
        for number, arm in enumerate(arms):
            own = [row for row in rows if row["arm"] == arm and row[metric]["mean"] is not None]
            if own:
                _curve(axis, own, metric, number, most)
        axis.set_xlabel("clicks")
        axis.set_title(METRICS[metric])
        axis.set_xticks(range(most + 1) if most <= 12 else np.linspace(0, most, 6).astype(int))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    with_clicks = {row["arm"] for row in rows if row["clicks"]}
    there = {row["arm"] for row in rows}
    handles = [_handle(n, arm, arm in with_clicks or not most) for n, arm in enumerate(arms) if arm in there]
    figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0.06 * ((len(arms) + 1) // 2) + 0.02, 1, 1))
    return figure


def _curve(axis: Axes, own: Sequence[Mapping[str, Any]], metric: str, number: int, most: int) -> None:
    clicks = [row["clicks"] for row in own]
    mean, low, high = ([row[metric][end] for row in own] for end in ("mean", "low", "high"))
    colour = COLOURS[number % len(COLOURS)]
    if len(own) == 1 and most > 0:  # independent of clicks
        axis.axhline(mean[0], color=colour, ls="--", lw=1.8)
        axis.axhspan(low[0], high[0], color=colour, alpha=0.08, lw=0)
        return
    axis.plot(clicks, mean, color=colour, marker=MARKERS[number % len(MARKERS)], ms=5, lw=1.8)
    axis.fill_between(clicks, low, high, color=colour, alpha=0.13, lw=0)


def _handle(number: int, arm: str, with_clicks: bool) -> Line2D:
    colour = COLOURS[number % len(COLOURS)]
    if not with_clicks:
        return Line2D([], [], color=colour, ls="--", label=arm)
    return Line2D([], [], color=colour, marker=MARKERS[number % len(MARKERS)], label=arm)


def paired_cases(dice: pd.DataFrame, reference: str, title: str) -> Figure:
    """One dot per patient: reference against another arm; above the diagonal, the reference is better.

    Args:
        dice: of patients (rows) by arm (columns). reference: an arm. title: of the figure.
    """
    others = [arm for arm in dice if arm != reference]
    figure = Figure(figsize=(4.2 * len(others), 4.5))
    axes = figure.subplots(1, len(others), squeeze=False)
    for axis, arm in zip(axes[0], others, strict=True):
        x, y = dice[[arm, reference]].dropna().to_numpy().T
        better = y > x
        axis.plot([0, 1], [0, 1], color="0.6", lw=1)
        axis.scatter(x[better], y[better], color=COLOURS[0], s=34, alpha=0.85)
        axis.scatter(x[~better], y[~better], color=COLOURS[1], s=34, alpha=0.85, marker="s")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=arm, ylabel=reference, aspect="equal")
        axis.set_title(f"better in {int(better.sum())} of {len(x)} patients", fontsize=10)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.tight_layout()
    return figure


@dataclass(frozen=True)
class Overlay:
    """One panel: an image, its ground truth, an answer and prompts.

    Attributes:
        clicks: (z, y, x, label), drawn on every slice.
        slice: the one shown; None: the one that shows most of the ground truth.
        curves: (M, 2) positions y, x on it, drawn as lines.
        dots: (M, 2) positions y, x on it.
    """

    title: str
    image_DHW: NDArray
    truth_DHW: NDArray[np.bool_]
    prediction_DHW: NDArray[np.bool_]
    spacing: tuple[float, float, float]
    clicks: Sequence[tuple[int, int, int, int]] = ()
    slice: int | None = None
    curves: Sequence[NDArray] = ()
    dots: Sequence[NDArray] = ()


def overlays(arms: Mapping[str, Sequence[Overlay]]) -> Figure:
    """A row of panels per arm, of those that have any."""
    rows = {name: panels for name, panels in arms.items() if panels}
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(2.9 * columns, 3.1 * len(rows) + 0.4))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        for axis, panel in zip(line, row, strict=False):
            _overlay(axis, panel)
        line[0].text(-0.06, 0.5, name, rotation=90, transform=line[0].transAxes, va="center", ha="right", fontsize=8)
    handles = _answer_handles()
    panels = [panel for row in rows.values() for panel in row]
    if any(panel.clicks for panel in panels):
        label = "click (also on other slices)"
        handles.append(Line2D([], [], color=CLICK, marker="+", mew=2.5, ls="", ms=10, label=label))
    if any(panel.curves or panel.dots for panel in panels):
        handles.append(Line2D([], [], color=CLICK, lw=2, label="prompt"))
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0.02, 0.3 / (3.1 * len(rows) + 0.4), 1, 1))
    return figure


def _overlay(axis: Axes, panel: Overlay) -> None:
    depth = int(panel.truth_DHW.sum((1, 2)).argmax()) if panel.slice is None else panel.slice
    aspect = panel.spacing[1] / panel.spacing[2]
    _grey(axis, panel.image_DHW[depth], np.percentile(panel.image_DHW, [1, 99.5]), aspect)
    _fill(axis, panel.prediction_DHW[depth], PREDICTION, aspect)
    _outline(axis, panel.truth_DHW[depth])
    for _, y, x, label in panel.clicks:
        axis.plot(x, y, marker="+" if label else "x", color=CLICK, mew=2.5, ms=11)
    for curve in panel.curves:
        axis.plot(curve[:, 1], curve[:, 0], color=CLICK, lw=1.8)
    for dots in panel.dots:
        axis.plot(dots[:, 1], dots[:, 0], color=CLICK, marker="o", ms=3.5, ls="")
    axis.set_title(panel.title, fontsize=8.5)


def _grey(axis: Axes, image_HW: NDArray, limits: NDArray, aspect: float) -> None:
    low, high = limits
    axis.imshow(image_HW, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest", aspect=aspect)


def _fill(axis: Axes, mask_HW: NDArray[np.bool_], colour: str, aspect: float, alpha: float = 0.45) -> None:
    only = matplotlib.colors.ListedColormap([colour])
    axis.imshow(np.ma.masked_where(~mask_HW, mask_HW), cmap=only, alpha=alpha, interpolation="nearest", aspect=aspect)


def _outline(axis: Axes, truth_HW: NDArray[np.bool_]) -> None:
    if truth_HW.any() and not truth_HW.all():
        axis.contour(truth_HW, [0.5], colors=TRUTH, linewidths=1.6)


@dataclass(frozen=True)
class CorrectionExample:
    """A click and its effect, on the slice through it: three panels.

    Attributes:
        case: title of the first panel. dices: before and after; None: undefined.
        limits: intensities shown as black and white.
        truth_HW, before_HW, after_HW: for the target of the click.
        click: (y, x, label). spacing: mm along H, W.
    """

    case: str
    dices: tuple[float | None, float | None]
    image_HW: NDArray
    limits: NDArray
    truth_HW: NDArray[np.bool_]
    before_HW: NDArray[np.bool_]
    after_HW: NDArray[np.bool_]
    click: tuple[int, int, int]
    spacing: tuple[float, float]


def corrections(rows: Sequence[Sequence[CorrectionExample | str]], names: Sequence[str]) -> Figure:
    """A row per case and three panels per arm: before the click, the click on the error, after it.

    Args:
        rows: a text instead of panels if there is nothing to show. names: of the arms.
    """
    size = (2.3 * 3 * len(names), 2.65 * len(rows) + 0.8)
    figure = Figure(figsize=size)
    axes = figure.subplots(len(rows), 3 * len(names), squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for number, shown in enumerate(row):
            panels = line[3 * number : 3 * number + 3]
            if isinstance(shown, str):
                panels[1].text(0.5, 0.5, shown, transform=panels[1].transAxes, ha="center", va="center", fontsize=9)
            else:
                _correction(panels, shown)
    handles = [
        *_answer_handles(),
        Line2D([], [], color=MISSED, lw=7, alpha=0.5, label="missed"),
        Line2D([], [], color=EXCESS, lw=7, alpha=0.5, label="false positive"),
        Line2D([], [], color=CLICK, marker="o", mfc="none", mew=2, ls="", ms=10, label="where the click is"),
        Line2D([], [], color=CLICK, marker="+", mew=2.5, ls="", ms=10, label="click (x: negative)"),
    ]
    lines = 1 if len(names) > 1 else 2  # of the legend: six entries are wider than one arm
    figure.legend(handles=handles, loc="lower center", ncols=6 // lines, frameon=False, fontsize=9)
    # panels have the same size, independent of the images
    figure.subplots_adjust(0.01, (0.15 + 0.25 * lines) / size[1], 0.99, 1 - 0.6 / size[1], wspace=0.06, hspace=0.16)
    for number, name in enumerate(names):
        figure.text((number + 0.5) / len(names), 1 - 0.08 / size[1], name, ha="center", va="top", weight="bold")
        if number:
            between = Line2D([number / len(names)] * 2, [0.35 / size[1], 1], color="0.7", lw=1)
            figure.add_artist(between)
    return figure


def _answer_handles() -> list[Line2D]:
    return [
        Line2D([], [], color=PREDICTION, lw=7, alpha=0.5, label="prediction"),
        Line2D([], [], color=TRUTH, lw=2, label="truth"),
    ]


def dice_text(dice: float | None) -> str:
    return "–" if dice is None else f"{dice:.2f}"


def _correction(panels: Sequence[Axes], shown: CorrectionExample) -> None:
    y, x, label = shown.click
    aspect = shown.spacing[0] / shown.spacing[1]
    before, after = map(dice_text, shown.dices)
    kind = f"click, label {label}" if label else "negative click"
    titles = (f"{shown.case}, Dice {before}", kind, f"after, Dice {after}")
    error = ((shown.truth_HW & ~shown.before_HW, MISSED), (shown.before_HW & ~shown.truth_HW, EXCESS))
    fills = (((shown.before_HW, PREDICTION),), error, ((shown.after_HW, PREDICTION),))
    for axis, title, masks in zip(panels, titles, fills, strict=True):
        _grey(axis, shown.image_HW, shown.limits, aspect)
        for mask, colour in masks:
            _fill(axis, mask, colour, aspect, alpha=0.45 if colour == PREDICTION else 0.6)
        _outline(axis, shown.truth_HW)
        axis.plot(x, y, marker="o", mfc="none", color=CLICK, mew=2, ms=11)
        axis.set_title(title, fontsize=8.5)
        _look_at(axis, shown)
    panels[1].lines[-1].set(marker="+" if label else "x", mew=2.5)


def _look_at(axis: Axes, shown: CorrectionExample) -> None:
    """A square, in mm, around the ground truth, both answers and the click, with a margin of a quarter.

    At least a third of the longer side of the image, at most all of it.
    """
    there = shown.truth_HW | shown.before_HW | shown.after_HW
    there[shown.click[:2]] = True
    along = [np.flatnonzero(there.any(1 - number)) for number in (0, 1)]
    extents = [step * (found[-1] + 1 - found[0]) for step, found in zip(shown.spacing, along, strict=True)]
    longest = max(step * length for step, length in zip(shown.spacing, there.shape, strict=True))
    side = min(max(1.5 * max(extents), longest / 3), longest)
    middles = [(found[0] + found[-1]) / 2 for found in along]
    (y, x), (tall, wide) = middles, (side / step / 2 for step in shown.spacing)
    axis.set(xlim=(x - wide, x + wide), ylim=(y + tall, y - tall))


def as_png(figure: Figure, dpi: int = 100) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def as_svg(figure: Figure) -> str:
    """An SVG element for HTML, without XML declaration."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nnsam3d", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
