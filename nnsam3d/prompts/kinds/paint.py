"""Paint: voxels that a person has set with a brush, or with background as an eraser. They are the mask there, whatever
the network answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.kinds.base import Outline, Tool, place_text
from nnsam3d.prompts.kinds.checks import MAX_POINTS
from nnsam3d.prompts.kinds.scribble import Scribble


@dataclass(frozen=True)
class Paint(Scribble):
    """Single voxels with their final label. The network does not get them, so every model takes them.

    Attributes:
        path: the voxels.
        label: see :class:`Click`; background erases.

    Raises:
        PromptError: see :class:`Scribble`.

    >>> Paint([(10, 10, 5), (11, 10, 5)], "tumour").describe()
    '2 voxels from 10, 10, 5'
    """

    kind: ClassVar[str] = "paint"
    keys: ClassVar[tuple[str, ...]] = ("points", "label")
    optional: ClassVar[tuple[str, ...]] = ()
    weight: ClassVar[float] = 0.0
    trained: ClassVar[bool] = False
    tool: ClassVar[Tool | None] = Tool("T", "brush", "Drag to paint, with Shift to erase. What is painted stays.")
    through: ClassVar[tuple[int, int]] = (1, MAX_POINTS)
    joined: bool = False

    @classmethod
    def parse(cls, values: Any) -> Paint:
        return cls(values["points"], values["label"])

    def entry(self) -> dict[str, Any]:
        return {"points": [list(point) for point in self.path], "label": self.label}

    def describe(self) -> str:
        return f"{len(self.path)} voxels from {place_text(self.path[0])}"

    def corners_in(self, space: Any) -> NDArray[np.float64]:
        """A point in the middle: the mask itself shows the voxels."""
        points_N3 = self.points(space)
        return points_N3[np.linalg.norm(points_N3 - points_N3.mean(axis=0), axis=1).argmin()][None]

    def outline(self) -> Outline:
        return "points"

    @classmethod
    def of(cls, points_N3: NDArray[np.float64], label: int | str) -> Paint:
        return cls(tuple(map(tuple, points_N3.tolist())), label)

    @classmethod
    def clicks(cls, points_N3: NDArray[np.float64], label: int, pitch: Sequence[float]) -> NDArray[np.float64]:
        return np.zeros((0, 3))
