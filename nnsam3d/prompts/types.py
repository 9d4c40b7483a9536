"""The prompts of a case: clicks, boxes, an initial segmentation."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import SPACES, ImageGrid, Points

MAX_CLICKS = 10_000
"""The maximum in one file."""

Space = Literal["voxel", "lps", "ras"]
Position = tuple[float, float, float]


class VoxelClick(NamedTuple):
    """A click on an array: a voxel (z, y, x) and the value of its label (0: background, a negative click).

    >>> VoxelClick((41, 88, 102), 1).voxel
    (41, 88, 102)
    """

    voxel: tuple[int, int, int]
    label: int


class PromptError(UserError):
    """An invalid prompt; the message names the file or case, the click and what is allowed."""


class PromptWarning(UserWarning):
    """A part of a prompt file that cannot be used and was skipped."""


@dataclass(frozen=True)
class Click:
    """A click: "this voxel belongs to this label". Label 0 (background) makes it a negative click.

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
    position: Position
    label: int | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "position", checked_position(self.position))
        object.__setattr__(self, "label", checked_label(self.label))

    def corners(self) -> NDArray[np.float64]:
        """(1, 3)."""
        return np.array([self.position])

    def at(self, corners: NDArray[np.float64]) -> Click:
        """The same click at another position."""
        return replace(self, position=tuple(corners[0].tolist()))


@dataclass(frozen=True)
class Box:
    """A box around the target, with faces parallel to the axes of the space of its CasePrompts.

    Attributes:
        low, high: two opposite corners, in any order; both belong to the box.
        label: see :class:`Click`.

    Raises:
        PromptError: see :class:`Click`.

    >>> Box((120, 80, 41), (90, 99, 40), "tumour")
    Box(low=(90.0, 80.0, 40.0), high=(120.0, 99.0, 41.0), label='tumour')
    """

    kind: ClassVar[str] = "box"
    low: Position
    high: Position
    label: int | str

    def __post_init__(self) -> None:
        both = np.array([checked_position(self.low), checked_position(self.high)])
        object.__setattr__(self, "low", tuple(both.min(axis=0).tolist()))
        object.__setattr__(self, "high", tuple(both.max(axis=0).tolist()))
        object.__setattr__(self, "label", checked_label(self.label))

    def corners(self) -> NDArray[np.float64]:
        """(8, 3)."""
        return np.array(list(itertools.product(*zip(self.low, self.high, strict=True))))

    def at(self, corners: NDArray[np.float64]) -> Box:
        """The box around these corners: with oblique axes, it is larger than the original."""
        return replace(self, low=tuple(corners.min(axis=0).tolist()), high=tuple(corners.max(axis=0).tolist()))


@dataclass(frozen=True)
class MaskPrompt:
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
    path: str
    label: int | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise PromptError(f"a mask needs the path of an image file, got {short(self.path)}")
        if self.label is not None:
            object.__setattr__(self, "label", checked_label(self.label))

    def corners(self) -> NDArray[np.float64]:
        """(0, 3): a mask is on the image's grid, independent of the space."""
        return np.zeros((0, 3))

    def at(self, corners: NDArray[np.float64]) -> MaskPrompt:
        """The mask itself."""
        return self


Prompt: TypeAlias = Click | Box | MaskPrompt
"""All types of prompts."""


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
        """``clicks`` is an alias of ``prompts``, for clicks only."""
        object.__setattr__(self, "case", case)
        object.__setattr__(self, "space", checked_space(space))
        object.__setattr__(self, "prompts", tuple(prompts if clicks is None else clicks))

    @classmethod
    def of_array(cls, case: str, positions_N3: ArrayLike, labels: Iterable[int | str]) -> CasePrompts:
        """Prompts in space "voxel" from array positions (z, y, x) of the image as read; fractions are allowed.

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
    def kinds(self) -> tuple[str, ...]:
        """The types of the prompts, each once."""
        return tuple(dict.fromkeys(prompt.kind for prompt in self.prompts))

    @property
    def points(self) -> Points:
        """The positions of the clicks, in order."""
        return Points(np.array([click.position for click in self.clicks]), self.space)

    def to(self, space: Space, grid: ImageGrid) -> CasePrompts:
        """The same prompts with positions in another space of the same image."""
        if space == self.space:
            return self
        corners = [prompt.corners() for prompt in self.prompts]
        values_N3 = Points(np.concatenate([np.zeros((0, 3)), *corners]), self.space).to(space, grid).values_N3
        ends = np.cumsum([len(own) for own in corners], dtype=np.int64)
        moved = [prompt.at(own) for prompt, own in zip(self.prompts, np.split(values_N3, ends), strict=False)]
        return CasePrompts(self.case, space, moved)


def checked_space(space: object) -> str:
    """The space, if known. Otherwise raises PromptError with the allowed ones."""
    if not isinstance(space, str) or space not in SPACES:
        allowed = ", ".join(f'"{s}"' for s in SPACES)
        raise PromptError(f"unknown space {space!r}; allowed: {allowed}")
    return space


def checked_position(position: object) -> tuple[float, float, float]:
    """Three finite floats, from a sequence, an array or a tensor.

    Raises:
        PromptError: anything else: booleans, strings, and sets and mappings, which have no order.
    """
    values = _three_finite(position)
    if values is None:  # the text is made only now: thousands of positions are right
        raise PromptError(f"position must be three finite numbers, got {short(position)}")
    return values


def _three_finite(position: object) -> tuple[float, float, float] | None:
    try:
        if isinstance(position, (str, bytes, Mapping, AbstractSet)):
            return None
        listed = position if isinstance(position, (list, tuple)) else _as_python(position)
        if len(listed) != 3:
            return None
        values = [value if isinstance(value, Real) else _as_python(value) for value in listed]
    except TypeError:
        return None
    # Python's bool is a Real; it is not a coordinate.
    if any(isinstance(v, bool) or not isinstance(v, Real) for v in values):
        return None
    try:
        x, y, z = (float(v) for v in values)
    except OverflowError:  # an integer with hundreds of digits
        return None
    return (x, y, z) if math.isfinite(x) and math.isfinite(y) and math.isfinite(z) else None


def _as_python(value: Any) -> Any:
    """Arrays, tensors and their scalars as lists and numbers of Python; everything else as it is."""
    return value.tolist() if callable(getattr(value, "tolist", None)) else value


def checked_label(label: object) -> int | str:
    """A name or a whole number >= 0. Raises PromptError for anything else (booleans and floats included)."""
    label = label if isinstance(label, str) else _as_python(label)
    if isinstance(label, str) and label:
        return str(label)
    if isinstance(label, Integral) and not isinstance(label, bool) and int(label) >= 0:
        return int(label)
    raise PromptError(f"label must be a name or a whole number >= 0, got {short(label)}")


class _Short(reprlib.Repr):
    def repr_dict(self, x: dict, level: int) -> str:
        return f"<object with {len(x)} keys>"  # reprlib would sort all keys


_SHORT = _Short()


def short(value: object, limit: int = 80) -> str:
    """``repr(value)`` for a message, at most ``limit`` characters; fast for any value, and never fails."""
    if isinstance(value, str):
        value = value[:limit]
    try:
        text = _SHORT.repr(value) if not isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # Python does not print integers with more than 4300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
