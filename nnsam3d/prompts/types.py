"""What a person says about a case: clicks, boxes, a segmentation to start from; and all of that together."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import SPACES, ImageGrid, Points

MAX_CLICKS = 10_000
"""In one file: more is no work of hands."""

Space = Literal["voxel", "lps", "ras"]
Position = tuple[float, float, float]


class VoxelClick(NamedTuple):
    """One click on an array: a voxel (z, y, x), and the value of its label (0: background, the negative click).

    >>> VoxelClick((41, 88, 102), 1).voxel
    (41, 88, 102)
    """

    voxel: tuple[int, int, int]
    label: int


class PromptError(UserError):
    """A prompt that cannot be used; the message names the file or case, the click and what is allowed."""


class PromptWarning(UserWarning):
    """Something in a prompt file that cannot be used and has been left out."""


@dataclass(frozen=True)
class Click:
    """One click: "the voxel here belongs to this label"; label 0 (background) is the negative click.

    Attributes:
        position: three finite numbers in the space of its CasePrompts (index i, j, k or world mm).
        label: name or number of dataset.json, as the user gave it.

    Raises:
        PromptError: not three finite numbers, or a label that is neither name nor whole number >= 0.

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
        """The same click elsewhere."""
        return replace(self, position=tuple(corners[0].tolist()))


@dataclass(frozen=True)
class Box:
    """A box around what is meant, its faces parallel to the axes of the space of its CasePrompts.

    Attributes:
        low, high: two opposite corners, both inside (of voxels: the first and the last one); they are put in order.
        label: as that of a :class:`Click`.

    Raises:
        PromptError: as :class:`Click`.

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
        """The box around these corners: in a space with oblique axes it is larger than the one it comes from."""
        return replace(self, low=tuple(corners.min(axis=0).tolist()), high=tuple(corners.max(axis=0).tolist()))


@dataclass(frozen=True)
class MaskPrompt:
    """A segmentation to start from, in a file on the image's grid.

    Attributes:
        path: of a label map; a relative one counts from the folder of the prompt file.
        label: which label of it is meant; None: all of them.

    Raises:
        PromptError: no path, or a label as that of a :class:`Click` cannot be.

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
        """(0, 3): a mask lies on the image's grid, whatever the space."""
        return np.zeros((0, 3))

    def at(self, corners: NDArray[np.float64]) -> MaskPrompt:
        """Itself."""
        return self


Prompt: TypeAlias = Click | Box | MaskPrompt
"""What a person can say about a case. A scribble would be one more: a path of positions, which networks that take only
clicks get as a few well-spread ones."""


@dataclass(frozen=True, init=False)
class CasePrompts:
    """All prompts of one case; none means automatic segmentation.

    Attributes:
        case: nnU-Net's case name, without channel number and file ending.
        space: "voxel" = index i, j, k of the image file as stored; "lps" / "ras" = world mm.
        prompts: in the order in which they were made.

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
        """``clicks``: another name for ``prompts``, where all of them are clicks."""
        object.__setattr__(self, "case", case)
        object.__setattr__(self, "space", checked_space(space))
        object.__setattr__(self, "prompts", tuple(prompts if clicks is None else clicks))

    @classmethod
    def of_array(cls, case: str, positions_N3: ArrayLike, labels: Iterable[int | str]) -> CasePrompts:
        """Clicks at array positions (z, y, x) of the image as read, fractions allowed, as prompts in space "voxel".

        >>> CasePrompts.of_array("liver_003", [[41, 88, 102]], ["tumour"]).clicks[0].position
        (102.0, 88.0, 41.0)
        """
        rows = np.asarray(positions_N3, np.float64).reshape(-1, 3).tolist()
        return cls(case, "voxel", [Click((x, y, z), label) for (z, y, x), label in zip(rows, labels, strict=True)])

    @property
    def clicks(self) -> tuple[Click, ...]:
        """Those of the prompts that are clicks."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, Click))

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is there, each kind once."""
        return tuple(dict.fromkeys(prompt.kind for prompt in self.prompts))

    @property
    def points(self) -> Points:
        """The positions of the clicks, in their order."""
        return Points(np.array([click.position for click in self.clicks]), self.space)

    def to(self, space: Space, grid: ImageGrid) -> CasePrompts:
        """The same prompts on the same image, their positions in another space."""
        if space == self.space:
            return self
        corners = [prompt.corners() for prompt in self.prompts]
        values_N3 = Points(np.concatenate([np.zeros((0, 3)), *corners]), self.space).to(space, grid).values_N3
        ends = np.cumsum([len(own) for own in corners], dtype=np.int64)
        moved = [prompt.at(own) for prompt, own in zip(self.prompts, np.split(values_N3, ends), strict=False)]
        return CasePrompts(self.case, space, moved)


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
