"""A click, and the clicks of one case."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal

from nnsam3d.errors import UserError
from nnsam3d.geometry import SPACES

Space = Literal["voxel", "lps", "ras"]

LabelledClick = tuple[tuple[int, int, int], int]
"""A voxel (z, y, x) of an array and its label: how simulated clicks are given."""


class PromptError(UserError):
    """A prompt that cannot be used; the message names the file or case, the click and what is allowed."""


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


def checked_space(space: object) -> str:
    """The space, if it is a known one. Raises PromptError listing the allowed ones."""
    if not isinstance(space, str) or space not in SPACES:
        allowed = ", ".join(f'"{s}"' for s in SPACES)
        raise PromptError(f"unknown space {space!r}; allowed: {allowed}")
    return space


def checked_position(position: object) -> tuple[float, float, float]:
    """Three finite floats. Raises PromptError for anything else (booleans and strings included)."""
    wrong = PromptError(f"position must be three finite numbers, got {_short(position)}")
    try:
        values = list(position)  # type: ignore[call-overload]
    except TypeError:
        raise wrong from None
    if isinstance(position, (str, bytes, dict)) or len(values) != 3:
        raise wrong
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
    raise PromptError(f"label must be a name or a whole number >= 0, got {_short(label)}")


def _short(value: object, limit: int = 80) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
