"""Paint: voxels that a person has set with a brush, or with background as an eraser. They are the mask there, whatever
the network answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.kinds.base import Prompt, Space, Tool, place_text
from nnsam3d.prompts.kinds.checks import MAX_POINTS, Position


@dataclass(frozen=True)
class Paint(Prompt):
    """Single voxels with their final label. The network does not get them, so every model takes them.

    Attributes:
        path: one or more voxels.
        label: see :class:`Click`; background erases.

    Raises:
        PromptError: see :class:`Click`; no voxels.

    >>> Paint([(10, 10, 5), (11, 10, 5)], "tumour").describe()
    '2 voxels from 10, 10, 5'
    """

    kind: ClassVar[str] = "paint"
    keys: ClassVar[tuple[str, ...]] = ("points", "label")
    trained: ClassVar[bool] = False
    tool: ClassVar[Tool | None] = Tool("T", "brush", "Drag to paint, with Shift to erase. What is painted stays.")
    through: ClassVar[tuple[int, int]] = (1, MAX_POINTS)
    path: tuple[Position, ...]
    label: int | str

    def describe(self) -> str:
        return f"{len(self.path)} voxels from {place_text(self.path[0])}"

    def corners_in(self, space: Space) -> NDArray[np.float64]:
        """A voxel in the middle: the mask itself shows them all."""
        points_N3 = self.points(space)
        return points_N3[np.linalg.norm(points_N3 - points_N3.mean(axis=0), axis=1).argmin()][None]
