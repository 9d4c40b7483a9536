"""A scribble: a curve or voxels inside the target. A few of its voxels, far from each other, act as clicks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.prompts.kinds.base import Outline, Prompt, Shape, Tool, along, place_text, points_to_voxels, spread
from nnsam3d.prompts.kinds.checks import MAX_POINTS, Position, PromptError

CLICKS, APART = 8, 0.75  # at most, and in T
SECTIONS = 7  # of a simulated curve
SHARES = (0.5, 0.9)  # of the target's longest axis that a simulated curve follows
NEAREST = 0.2  # share of a section's voxels, nearest to its middle, of which a simulated curve takes one


@dataclass(frozen=True)
class Scribble(Prompt):
    """A scribble: "all this belongs to this label".

    Attributes:
        path: one or more points.
        label: see :class:`Click`.
        joined: True: the points are corners of a curve; False: single voxels.

    Raises:
        PromptError: see :class:`Click`; no points.

    >>> Scribble([(10, 10, 5), (14, 12, 5)], "tumour").describe()
    'curve of 2 points from 10, 10, 5'
    """

    kind: ClassVar[str] = "scribble"
    keys: ClassVar[tuple[str, ...]] = ("points", "label", "joined")
    optional: ClassVar[tuple[str, ...]] = ("joined",)
    most_clicks: ClassVar[int] = CLICKS
    weight: ClassVar[float] = 0.1
    tool: ClassVar[Tool | None] = Tool("D", "path", "Drag through the target.")
    through: ClassVar[tuple[int, int]] = (1, MAX_POINTS)
    path: tuple[Position, ...]
    label: int | str
    joined: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.joined, bool):
            raise PromptError(f'"joined" must be true (a curve) or false (single voxels), got {self.joined!r}')

    def describe(self) -> str:
        what = "curve of" if self.joined else "voxels:"
        return f"{what} {len(self.path)} points from {place_text(self.path[0])}"

    def outline(self) -> Outline:
        return "path" if self.joined else "points"

    @classmethod
    def of(cls, points_N3: NDArray[np.float64], label: int | str) -> Scribble:
        """With single voxels: a shape holds all points of a curve."""
        return cls(tuple(map(tuple, points_N3.tolist())), label, joined=False)

    def shape(self, points_N3: NDArray[np.float64], label: int) -> Shape:
        """With all points of the curve, so that it need not be joined again."""
        return Shape(self.kind, label, along(points_N3) if self.joined else points_N3)

    @classmethod
    def clicks(cls, points_N3: NDArray[np.float64], label: int, pitch: Sequence[float]) -> NDArray[np.float64]:
        return spread(points_N3, pitch, CLICKS, APART)

    @classmethod
    def simulate(cls, target: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]) -> Shape | None:
        voxels_N3 = np.argwhere(target).astype(np.float64)
        centred = (voxels_N3 - voxels_N3.mean(axis=0)) * np.asarray(spacing)
        if len(voxels_N3) < SECTIONS:
            return Shape(cls.kind, 1, voxels_N3)
        _, directions = np.linalg.eigh(centred.T @ centred)
        place_N = centred @ directions[:, -1]
        covered = rng.uniform(*SHARES)
        first = rng.uniform(0, 1 - covered)
        low, length = float(place_N.min()), float(np.ptp(place_N))
        edges = low + length * (first + covered * np.linspace(0, 1, SECTIONS + 1))
        corners = []
        for start, end in itertools.pairwise(edges):
            own_N3 = voxels_N3[(place_N >= start) & (place_N <= end)]
            if len(own_N3):
                order = np.linalg.norm((own_N3 - own_N3.mean(axis=0)) * np.asarray(spacing), axis=1).argsort()
                corners.append(own_N3[order[int(rng.integers(max(1, round(NEAREST * len(order)))))]])
        if not corners:  # of a target in several parts, a gap was drawn
            return None
        drawn_N3 = points_to_voxels(along(np.array(corners)), target.shape)
        drawn_N3 = drawn_N3[target[tuple(drawn_N3.T)]]  # a hand corrects itself where the target bends
        return Shape(cls.kind, 1, drawn_N3.astype(np.float64))
