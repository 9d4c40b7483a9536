"""Pictures that show at a glance what a click did: one row of panels per case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from nnsam3d.evaluation.phantom import PhantomCase

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

WINDOW_HU = (-80.0, 220.0)
PREDICTION, TARGET, LOOKALIKE = "#ff4d4d", "#38d430", "#ffd23f"


@dataclass(frozen=True)
class Panel:
    """One prediction. ``clicks``: (z, y, x) with label, 0 = background."""

    title: str
    prediction_DHW: NDArray[np.bool_]
    clicks: Sequence[tuple[NDArray, int]]


def write_overlay(path: Path, case: PhantomCase, panels: Sequence[Panel]) -> None:
    """Draw ``panels`` side by side on the slice that shows most of both lesions, and write a PNG."""
    import SimpleITK as sitk

    image_DHW = sitk.GetArrayFromImage(case.image)
    per_slice = np.minimum(case.target_DHW.sum((1, 2)), case.lookalike_DHW.sum((1, 2)))
    depth = int(per_slice.argmax())
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 4.0), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        _draw(axis, image_DHW[depth], case, panel, depth)
    handles = [
        plt.Line2D([], [], color=PREDICTION, lw=8, alpha=0.55, label="prediction"),
        plt.Line2D([], [], color=TARGET, lw=2, label="target"),
        plt.Line2D([], [], color=LOOKALIKE, lw=2, ls="--", label="look-alike"),
        plt.Line2D([], [], color="w", marker="+", mew=2.5, ls="", ms=11, label="click 'lesion'"),
        plt.Line2D([], [], color="w", marker="x", mew=2.5, ls="", ms=9, label="click 'background'"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), facecolor="#444444", labelcolor="w")
    figure.suptitle(f"{path.stem}, slice {depth}", y=0.98)
    figure.tight_layout(rect=(0, 0.09, 1, 0.98))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _draw(axis: Axes, slice_HW: NDArray, case: PhantomCase, panel: Panel, depth: int) -> None:
    axis.imshow(slice_HW, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], interpolation="nearest")
    mask = panel.prediction_DHW[depth]
    axis.imshow(np.ma.masked_where(~mask, mask), cmap=matplotlib.colors.ListedColormap([PREDICTION]), alpha=0.55)
    axis.contour(case.target_DHW[depth], [0.5], colors=TARGET, linewidths=1.8)
    axis.contour(case.lookalike_DHW[depth], [0.5], colors=LOOKALIKE, linewidths=1.8, linestyles="--")
    for (_, y, x), label in panel.clicks:
        axis.plot(x, y, marker="+" if label else "x", color="w", mew=2.5, ms=11 if label else 9)
    axis.set_title("\n".join(_wrapped(panel.title)), fontsize=10)
    axis.set_axis_off()


def _wrapped(title: str, width: int = 34) -> list[str]:
    lines = [""]
    for word in title.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
