"""Pictures of the effect of clicks: one case with several sets of clicks, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nnsam3d.demo.phantom import PhantomCase

WINDOW_HU = (-80.0, 220.0)
PREDICTION, TARGET, LOOKALIKE = "#ff4d4d", "#38d430", "#ffd23f"


@dataclass(frozen=True)
class Panel:
    """One prediction. ``clicks``: (z, y, x) with label, 0 = background."""

    title: str
    prediction_DHW: NDArray[np.bool_]
    clicks: Sequence[tuple[NDArray, int]]


@dataclass(frozen=True)
class Strip:
    """One case with several sets of clicks, on the slice that shows most of both lesions."""

    name: str
    case: PhantomCase
    panels: Sequence[Panel]


def write_overlay(path: Path, rows: Sequence[Sequence[Strip]]) -> None:
    """Draw rows of strips and write a PNG."""
    columns = max(sum(len(strip.panels) for strip in row) for row in rows)
    size = (3.4 * columns, 3.8 * len(rows) + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for line, row in zip(axes, rows, strict=True):
        for strip in row:
            _draw_strip(line, strip)
            line = line[len(strip.panels) :]
    handles = [
        Line2D([], [], color=PREDICTION, lw=8, alpha=0.55, label="prediction"),
        Line2D([], [], color=TARGET, lw=2, label="target"),
        Line2D([], [], color=LOOKALIKE, lw=2, ls="--", label="the other lesion"),
        Line2D([], [], color="w", marker="+", mew=2.5, ls="", ms=11, label="click 'lesion'"),
        Line2D([], [], color="w", marker="x", mew=2.5, ls="", ms=9, label="click 'background'"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=5 if columns > 2 else 3, facecolor="#444444", labelcolor="w"
    )
    figure.savefig(path, dpi=90)


def _draw_strip(axes: Sequence[Axes], strip: Strip) -> None:
    """Draw the panels of a strip on the first axes."""
    image_DHW = sitk.GetArrayFromImage(strip.case.image)
    per_slice = np.minimum(strip.case.target_DHW.sum((1, 2)), strip.case.lookalike_DHW.sum((1, 2)))
    depth = int(per_slice.argmax())
    for axis, panel in zip(axes, strip.panels, strict=False):
        _draw(axis, image_DHW[depth], strip.case, panel, depth)
    beside = f"{strip.name}, slice {depth}"
    axes[0].text(-0.03, 0.5, beside, transform=axes[0].transAxes, rotation=90, ha="right", va="center")


def _draw(axis: Axes, slice_HW: NDArray, case: PhantomCase, panel: Panel, depth: int) -> None:
    axis.imshow(slice_HW, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], interpolation="nearest")
    mask = panel.prediction_DHW[depth]
    axis.imshow(np.ma.masked_where(~mask, mask), cmap=ListedColormap([PREDICTION]), alpha=0.55)
    axis.contour(case.target_DHW[depth], [0.5], colors=TARGET, linewidths=1.8)
    axis.contour(case.lookalike_DHW[depth], [0.5], colors=LOOKALIKE, linewidths=1.8, linestyles="--")
    for (_, y, x), label in panel.clicks:
        axis.plot(x, y, marker="+" if label else "x", color="w", mew=2.5, ms=11 if label else 9)
    axis.set_title(textwrap.fill(panel.title, 45, break_on_hyphens=False), fontsize=9.5)
