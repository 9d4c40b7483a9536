"""A click, and the clicks of one case."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Literal

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.geometry import SPACES, ImageGrid, Points

MAX_CLICKS = 10_000
"""In one file: more is no work of hands."""

Space = Literal["voxel", "lps", "ras"]

LabelledClick = tuple[tuple[int, int, int], int]
"""A voxel (z, y, x) of an array and its label: how simulated clicks are given."""


class PromptError(UserError):
    """A prompt that cannot be used; the message names the file or case, the click and what is allowed."""


class PromptWarning(UserWarning):
    """Something in a prompt file that is no click and has been left out."""


@dataclass(frozen=True)
class Click:
    """One click: "the voxel here belongs to this label"; label 0 (background) is the negative click.

    Attributes:
        position: three finite numbers in the space of its CasePrompts (index i, j, k or world mm).
        label: name or number of dataset.json, as the user gave it.

    Raises:
        PromptError: not three finite numbers, or a label that is neither name nor whole number >= 0.
    """

    position: tuple[float, float, float]
    label: int | str

    def __post_init__(self) -> None:
        position = checked_position(self.position)
        object.__setattr__(self, "position", position)
        object.__setattr__(self, "label", checked_label(self.label))


@dataclass(frozen=True)
class CasePrompts:
    """All clicks of one case; no clicks means automatic segmentation.

    Attributes:
        case: nnU-Net's case name, without channel number and file ending.
        space: "voxel" = index i, j, k of the image file as stored; "lps" / "ras" = world mm.
        clicks: in the order in which they were made.

    Raises:
        PromptError: unknown space.
    """

    case: str
    space: Space
    clicks: tuple[Click, ...] = field(default=())

    def __post_init__(self) -> None:
        checked_space(self.space)
        object.__setattr__(self, "clicks", tuple(self.clicks))

    @property
    def points(self) -> Points:
        """The positions, in the order of the clicks."""
        return Points(np.array([click.position for click in self.clicks]), self.space)

    def to(self, space: Space, grid: ImageGrid) -> CasePrompts:
        """The same clicks on the same image, their positions in another space."""
        if space == self.space:
            return self
        values = self.points.to(space, grid).values_N3.tolist()
        clicks = tuple(replace(click, position=tuple(v)) for click, v in zip(self.clicks, values, strict=True))
        return replace(self, space=space, clicks=clicks)


def checked_space(space: object) -> str:
    """The space, if it is a known one. Raises PromptError listing the allowed ones."""
    if not isinstance(space, str) or space not in SPACES:
        allowed = ", ".join(f'"{s}"' for s in SPACES)
        raise PromptError(f"unknown space {space!r}; allowed: {allowed}")
    return space


def checked_position(position: object) -> tuple[float, float, float]:
    """Three finite floats. Raises PromptError for anything else (booleans and strings included)."""
    wrong = PromptError(f"position must be three finite numbers, got {short(position)}")
    try:
        if isinstance(position, (str, bytes, dict)) or len(position) != 3:  # type: ignore[arg-type]
            raise wrong
        values = list(position)  # type: ignore[call-overload]
    except TypeError:
        raise wrong from None
    # numpy's bool is no Real, Python's is; neither is a coordinate.
    if any(isinstance(v, bool) or not isinstance(v, Real) for v in values):
        raise wrong
    try:
        x, y, z = (float(v) for v in values)
    except OverflowError:  # an integer of hundreds of digits
        raise wrong from None
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        raise wrong
    return x, y, z


def checked_label(label: object) -> int | str:
    """A name or a whole number >= 0. Raises PromptError for anything else (booleans and floats included)."""
    if isinstance(label, str) and label:
        return label
    if isinstance(label, Integral) and not isinstance(label, bool) and int(label) >= 0:
        return int(label)
    raise PromptError(f"label must be a name or a whole number >= 0, got {short(label)}")


class _Short(reprlib.Repr):
    def repr_dict(self, x: dict, level: int) -> str:
        return f"<object with {len(x)} keys>"  # reprlib would sort all keys


_SHORT = _Short()


def short(value: object, limit: int = 80) -> str:
    """``repr(value)`` for a message, cut to ``limit`` characters; never slow, never fails."""
    if isinstance(value, str):
        value = value[:limit]
    try:
        text = _SHORT.repr(value) if not isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # Python refuses to print integers of more than 4300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
