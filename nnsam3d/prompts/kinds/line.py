"""A line: two ends of the target, as radiologists measure it (RECIST).

Maps: ``line_ball``, the ball of which the line is a diameter, and ``line_tube``, the voxels near the line. Three points
of the line are also clicks: a diameter lies inside the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.prompts.kinds.base import (
    MAX_LENGTH,
    Outline,
    Prompt,
    Shape,
    Tool,
    Voxels,
    Window,
    along,
    place_text,
    points_to_voxels,
)
from nnsam3d.prompts.kinds.checks import Position, PromptError
from nnsam3d.prompts.kinds.click import Click
from nnsam3d.prompts.kinds.lasso import some_slice

TUBE = 0.5  # T; standard deviation of the map around the line
CLICKS = (0.5, 0.25, 0.75)  # shares of the line
SHARES = (0.8, 1.0)  # of the largest diameter that a simulated line covers
JITTER = 0.08  # of the ends, as a share of the length


@dataclass(frozen=True)
class Line(Prompt):
    """A line across the target.

    Attributes:
        start, end: on the target's border.
        label: see :class:`Click`; background: the line runs through what is not the target.

    Raises:
        PromptError: see :class:`Click`; two equal ends.

    >>> Line((10, 10, 5), (40, 10, 5), "tumour").describe()
    '10, 10, 5 to 40, 10, 5'
    """

    kind: ClassVar[str] = "line"
    keys: ClassVar[tuple[str, ...]] = ("start", "end", "label")
    maps: ClassVar[tuple[str, ...]] = ("line_ball", "line_tube")
    most_clicks: ClassVar[int] = len(CLICKS)
    weight: ClassVar[float] = 0.1
    tool: ClassVar[Tool | None] = Tool("E", "ends", "Drag across the target, from border to border.")
    drawn: ClassVar[Outline] = "path"
    through: ClassVar[tuple[int, int]] = (2, 2)
    body: ClassVar[bool] = True
    start: Position
    end: Position
    label: int | str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == self.end:
            raise PromptError("the ends of a line are the same point; use a click")

    def describe(self) -> str:
        return f"{place_text(self.start)} to {place_text(self.end)}"

    def shape(self, points_N3: NDArray[np.float64], label: int) -> Shape:
        """Raises PromptError: too long."""
        length = float(np.abs(points_N3[1] - points_N3[0]).max())
        if length > MAX_LENGTH:
            raise PromptError(f"a line must not be longer than {MAX_LENGTH} voxels; this one has {length:.4g}")
        return Shape(self.kind, label, points_N3)

    def as_clicks(self) -> list[Click]:
        """The clicks that it also is, see :meth:`clicks`."""
        places_N3 = self.clicks(np.array([self.start, self.end]), 0, (1, 1, 1))  # shares of the line, in any space
        return [Click(place, self.label) for place in places_N3]

    @classmethod
    def clicks(cls, points_N3: NDArray[np.float64], label: int, pitch: Sequence[float]) -> NDArray[np.float64]:
        start, end = points_N3
        return np.array([start + share * (end - start) for share in CLICKS])

    @classmethod
    def inside(cls, points_N3: NDArray[np.float64], shape: Sequence[int]) -> Voxels:
        """The middle half of the line: its ends lie on the border."""
        start, end = points_N3
        return points_to_voxels(along(np.array([start + 0.25 * (end - start), end - 0.25 * (end - start)])), shape)

    @classmethod
    def render(cls, points_N3: NDArray[np.float64], window: Window) -> dict[str, NDArray[np.float32]]:
        pitch = np.asarray(window.pitch)
        start, end = points_N3 * pitch
        line, axes = end - start, window.axes()
        radius = max(float(np.linalg.norm(line)) / 2, float(pitch.min()) / 2)
        from_middle = sum((axis - m) ** 2 for axis, m in zip(axes, (start + end) / 2, strict=True))
        along_line = sum((axis - s) * d for axis, s, d in zip(axes, start, line, strict=True))
        share = np.clip(along_line / max(float(line @ line), 1e-12), 0, 1)
        from_line = sum((axis - s - share * d) ** 2 for axis, s, d in zip(axes, start, line, strict=True))
        return {
            "line_ball": np.clip(1 - from_middle / radius**2, -1, 1).astype(np.float32),
            "line_tube": np.exp(-from_line / (2 * TUBE**2)).astype(np.float32),
        }

    @classmethod
    def depth(cls, points_N3: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
        """Of the ball of which the line is a diameter."""
        return cls.render(points_N3, window)["line_ball"].astype(np.float64)

    @classmethod
    def simulate(cls, target: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]) -> Shape | None:
        axis, number, area = some_slice(target, rng, spacing)
        pitch = np.delete(np.asarray(spacing, dtype=np.float64), axis)
        border_N2 = np.argwhere(area & ~ndimage.binary_erosion(area)).astype(np.float64)
        start, end = _diameter(border_N2, pitch)
        length = float(np.linalg.norm(end - start))
        if length < 2:
            return None
        middle, half = (start + end) / 2, (end - start) / 2 * (1 + 1 / length) * rng.uniform(*SHARES)
        ends = np.array([middle - half, middle + half]) + rng.uniform(-JITTER, JITTER, (2, 2)) * length
        return Shape(cls.kind, 1, np.insert(ends, axis, number, axis=1))


def _diameter(border_N2: NDArray[np.float64], pitch: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """The two pixels that are farthest from each other in mm."""
    scaled = border_N2 * pitch
    # extremes along many directions: enough for a diameter, and quick
    turns = np.linspace(0, np.pi, 36, endpoint=False)
    shadows = scaled @ np.stack([np.cos(turns), np.sin(turns)])
    low, high = shadows.argmin(axis=0), shadows.argmax(axis=0)
    best = int(np.linalg.norm(scaled[high] - scaled[low], axis=1).argmax())
    return border_N2[low[best]], border_N2[high[best]]
