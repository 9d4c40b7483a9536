"""The prompts of a case, and clicks on arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nnsam3d.geometry import SPACES, ImageGrid, Points
from nnsam3d.prompts.kinds import Click, MaskPrompt, Prompt
from nnsam3d.prompts.kinds.base import Space
from nnsam3d.prompts.kinds.checks import PromptError

MAX_CLICKS = 10_000
"""The maximum of prompts in one file."""


class VoxelClick(NamedTuple):
    """A click on an array: a voxel (z, y, x) and the value of its label (0: background, a negative click).

    >>> VoxelClick((41, 88, 102), 1).voxel
    (41, 88, 102)
    """

    voxel: tuple[int, int, int]
    label: int


@dataclass(frozen=True, init=False)
class CasePrompts:
    """All prompts of one case; without any, it is segmented automatically.

    Attributes:
        case: nnU-Net's case name, without channel number and file ending.
        space: "voxel" = index i, j, k of the image file as stored; "lps" / "ras" = world mm.
        prompts: in order of creation.

    Raises:
        PromptError: unknown space.

    >>> prompts = CasePrompts("liver_003", "voxel", [Click((102, 88, 41), "tumour"), Click((60, 88, 41), 0)])
    >>> prompts.kinds, len(prompts.clicks)
    (('click',), 2)
    >>> prompts.points.values_N3.tolist()
    [[102.0, 88.0, 41.0], [60.0, 88.0, 41.0]]
    """

    case: str
    space: Space
    prompts: tuple[Prompt, ...]

    def __init__(
        self, case: str, space: Space, prompts: Iterable[Prompt] = (), *, clicks: Iterable[Click] | None = None
    ) -> None:
        """Prompts of one kind or several, see the class.

        Args:
            case: name.
            space: of all positions: "voxel" (index i, j, k of the image file), "lps" or "ras" (mm).
            prompts: in order of creation.
            clicks: another name of ``prompts``, for clicks only.
        """
        object.__setattr__(self, "case", case)
        object.__setattr__(self, "space", checked_space(space))
        object.__setattr__(self, "prompts", tuple(prompts if clicks is None else clicks))

    @classmethod
    def of_array(cls, case: str, positions_N3: ArrayLike, labels: Iterable[int | str]) -> CasePrompts:
        """Prompts in space "voxel" from array positions (z, y, x) of the image as read; fractions are allowed.

        Args:
            case: name.
            positions_N3: (z, y, x) in voxels of the array; fractions are allowed.
            labels: of each position, names or numbers of dataset.json.

        >>> CasePrompts.of_array("liver_003", [[41, 88, 102]], ["tumour"]).clicks[0].position
        (102.0, 88.0, 41.0)
        """
        rows = np.asarray(positions_N3, np.float64).reshape(-1, 3).tolist()
        return cls(case, "voxel", [Click((x, y, z), label) for (z, y, x), label in zip(rows, labels, strict=True)])

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The clicks among the prompts."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, Click))

    @property
    def masks(self) -> tuple[MaskPrompt, ...]:
        """The masks among the prompts."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, MaskPrompt))

    @property
    def without_masks(self) -> CasePrompts:
        """The prompts that are given to the network."""
        return replace(self, prompts=tuple(prompt for prompt in self.prompts if not isinstance(prompt, MaskPrompt)))

    @property
    def paint(self) -> CasePrompts:
        """The prompts that the network does not get, because they are applied to its answer."""
        return replace(self, prompts=tuple(prompt for prompt in self.prompts if not prompt.trained))

    @property
    def without_paint(self) -> CasePrompts:
        """The others."""
        return replace(self, prompts=tuple(prompt for prompt in self.prompts if prompt.trained))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The types of the prompts, each once."""
        return tuple(dict.fromkeys(prompt.kind for prompt in self.prompts))

    def numbered(self) -> list[tuple[int, Prompt]]:
        """Each prompt with its number among those of its kind, from 1: "box 2"."""
        counts: Counter[str] = Counter()
        numbered = []
        for prompt in self.prompts:
            counts[prompt.kind] += 1
            numbered.append((counts[prompt.kind], prompt))
        return numbered

    @property
    def points(self) -> Points:
        """The positions of the clicks, in order."""
        return Points(np.array([click.position for click in self.clicks]), self.space)

    def to(self, space: Space, grid: ImageGrid) -> CasePrompts:
        """The same prompts with positions in another space of the same image."""
        if space == self.space:
            return self
        points = [prompt.points(self.space) for prompt in self.prompts]
        values_N3 = Points(np.concatenate([np.zeros((0, 3)), *points]), self.space).to(space, grid).values_N3
        ends = np.cumsum([len(own) for own in points], dtype=np.int64)
        moved = [prompt.at(own, space) for prompt, own in zip(self.prompts, np.split(values_N3, ends), strict=False)]
        return CasePrompts(self.case, space, moved)


def checked_space(space: object) -> Space:
    """The space, if known. Otherwise raises PromptError with the allowed ones."""
    if not isinstance(space, str) or space not in SPACES:
        allowed = ", ".join(f'"{s}"' for s in SPACES)
        raise PromptError(f"unknown space {space!r}; allowed: {allowed}")
    return space  # type: ignore[return-value]
