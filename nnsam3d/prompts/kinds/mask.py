"""A mask: a label map to start from, as a file on the image's grid.

Map: ``mask``, 1 where the label map has the label, -1 elsewhere. It has no points: it lies on the image's own grid,
whatever the space of the other prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.kinds.base import Prompt, Space
from nnsam3d.prompts.kinds.checks import PromptError, checked_label, short


@dataclass(frozen=True)
class MaskPrompt(Prompt):
    """An initial segmentation, in a file on the image's grid.

    Attributes:
        path: of a label map; relative paths start at the folder of the prompt file.
        label: which of its labels to use; None: all.

    Raises:
        PromptError: no path, or an invalid label (see :class:`Click`).

    >>> MaskPrompt("before.nii.gz", "tumour")
    MaskPrompt(path='before.nii.gz', label='tumour')
    """

    kind: ClassVar[str] = "mask"
    keys: ClassVar[tuple[str, ...]] = ("path", "label")
    optional: ClassVar[tuple[str, ...]] = ("label",)
    maps: ClassVar[tuple[str, ...]] = ("mask",)
    path: str
    label: int | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise PromptError(f"a mask needs the path of an image file, got {short(self.path)}")
        if self.label is not None:
            object.__setattr__(self, "label", checked_label(self.label))

    def describe(self) -> str:
        return self.path

    def points(self, space: Space) -> NDArray[np.float64]:
        return np.zeros((0, 3))

    def at(self, points_N3: NDArray[np.float64], space: Space) -> MaskPrompt:
        return self
