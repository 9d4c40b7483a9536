"""A click: one point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.kinds.base import Prompt, Space, Tool, place_text
from nnsam3d.prompts.kinds.checks import Position, checked_label, checked_position


@dataclass(frozen=True)
class Click(Prompt):
    """A click: "this voxel belongs to this label". Label 0 (background) makes it a negative click.

    Its simulation and its way through the network's channels are older than the other kinds' and have their own files:
    :mod:`nnsam3d.prompts.simulation`, :mod:`nnsam3d.prompts.channel`.

    Attributes:
        position: three finite numbers in the space of its CasePrompts (index i, j, k or world mm).
        label: name or number from dataset.json, as given by the user.

    Raises:
        PromptError: not three finite numbers, or a label that is neither a name nor a whole number >= 0.

    >>> Click((102, 88, 41), "tumour")
    Click(position=(102.0, 88.0, 41.0), label='tumour')
    >>> Click((60, 88, 41), "background").label
    'background'
    """

    kind: ClassVar[str] = "click"
    keys: ClassVar[tuple[str, ...]] = ("position", "label")
    tool: ClassVar[Tool | None] = Tool("C", "click", "Click on a slice. Dragging moves a click, or the crosshair.")
    position: Position
    label: int | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", checked_position(self.position))
        object.__setattr__(self, "label", checked_label(self.label))

    def describe(self) -> str:
        return f"at {place_text(self.position)}"

    def points(self, space: Space) -> NDArray[np.float64]:
        return np.array([self.position])

    @classmethod
    def values_through(cls, positions: Sequence[Any]) -> dict[str, Any]:
        (position,) = positions
        return {"position": position}

    @classmethod
    def clicks(cls, points_N3: NDArray[np.float64], label: int, pitch: Sequence[float]) -> NDArray[np.float64]:
        return points_N3
