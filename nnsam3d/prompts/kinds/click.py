"""A click: one point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.kinds.base import Prompt, Tool, place_text
from nnsam3d.prompts.kinds.checks import Position


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
    most_clicks: ClassVar[int] = 1
    tool: ClassVar[Tool | None] = Tool("C", "click", "Click on a slice. Dragging moves a click, or the crosshair.")
    position: Position
    label: int | str

    def describe(self) -> str:
        return f"at {place_text(self.position)}"

    @classmethod
    def clicks(cls, points_N3: NDArray[np.float64], label: int, pitch: Sequence[float]) -> NDArray[np.float64]:
        return points_N3
