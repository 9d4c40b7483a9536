"""What all kinds of prompts share: the steps of a prompt's way to the network.

A kind is one file. Its class holds a prompt as the user gave it: in a file's space, with a name or a number as label.
What it says is fixed by a few points, which every change of space, resampling, crop and mirroring moves in the same
way. On an array, a prompt is therefore a :class:`Shape`: kind, label and points.

Axis letters: D, H, W = array axes; N points. T is the unit of length of the network's maps, about one token.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.prompts.kinds.checks import PromptError, checked_label, checked_position, checked_positions

Space = Literal["voxel", "lps", "ras"]
Voxels = NDArray[np.int64]  # (N, 3)
P = TypeVar("P", bound="Prompt")
Outline = Literal["points", "path", "ring", "solid"]
"""How a prompt is shown: single points, a line through them, a closed line, or a body with eight corners."""

MAX_LENGTH = 20_000
"""The maximum of a curve, in voxels: a mistaken number must not fill the memory."""


class Shape(NamedTuple):
    """A prompt on an array.

    Attributes:
        kind: a key of :data:`nnsam3d.prompts.kinds.KINDS`.
        label: a value; 0 = background.
        points_N3: (N, 3) float64 voxels of the array, fractions allowed, integers at voxel centres; also outside it.
    """

    kind: str
    label: int
    points_N3: NDArray[np.float64]


class Tool(NamedTuple):
    """How a kind is drawn on the server's page.

    Attributes:
        key: the letter that chooses it.
        gesture: "click", or what a drag on a slice gives: "ends" (the first two keys of the kind), "rectangle" (two
            opposite corners, the first two keys), "path" (all its points, the first key) or "brush" (the voxels around
            it, the first key).
        hint: what to do, for the user.
    """

    key: str
    gesture: Literal["click", "ends", "rectangle", "path", "brush"]
    hint: str


@dataclass(frozen=True)
class Window:
    """A part of an array on which maps are computed.

    Attributes:
        start, size: (D, H, W) voxels; the start may be negative.
        pitch: edges of a voxel along D, H, W in T.
    """

    start: tuple[int, int, int]
    size: tuple[int, int, int]
    pitch: tuple[float, float, float]

    def axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Positions of the voxels' centres in T, broadcastable to (D, H, W)."""
        d, h, w = (
            (np.arange(low, low + n, dtype=np.float64) * edge).reshape([-1 if a == axis else 1 for a in range(3)])
            for axis, (low, n, edge) in enumerate(zip(self.start, self.size, self.pitch, strict=True))
        )
        return d, h, w


class Prompt:
    """Base of all kinds, which are frozen dataclasses.

    Attributes:
        label: name or number from dataset.json, as given by the user; 0 and "background" mean "this is not it".

    >>> from nnsam3d.prompts.kinds import KINDS
    >>> KINDS["click"].parse({"position": (10, 10, 5), "label": "tumour"}).describe()
    'at 10, 10, 5'
    """

    kind: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]  # of its fields in a prompt file, in their order, beside "type"
    optional: ClassVar[tuple[str, ...]] = ()
    maps: ClassVar[tuple[str, ...]] = ()  # names of its dense maps, each once per foreground label
    most_clicks: ClassVar[int] = 0  # see clicks; with a foreground label
    weight: ClassVar[float] = 0.0  # how often training draws it, relative to the others
    tool: ClassVar[Tool | None] = None
    drawn: ClassVar[Outline] = "points"  # of its shapes
    # the least and the most points that it has: if equal, its first keys hold one each, otherwise its first key all
    through: ClassVar[tuple[int, int]] = (1, 1)
    confines: ClassVar[bool] = False  # whether answers stay inside it, see holds
    trained: ClassVar[bool] = True  # whether the network gets it; otherwise it is applied to the network's answer
    body: ClassVar[bool] = False  # whether it is the outline of a body, see depth

    label: Any

    def __post_init__(self) -> None:
        """Checks positions and label. Raises PromptError."""
        least, most = self.through
        for name in self._position_fields():
            given = getattr(self, name)
            checked = checked_position(given) if least == most else checked_positions(given, least)
            object.__setattr__(self, name, checked)
        object.__setattr__(self, "label", checked_label(self.label))

    # ------------------------------------------------------------------ files

    @classmethod
    def parse(cls: type[P], values: Mapping[str, Any]) -> P:
        """From the values of a file, by key. Raises PromptError."""
        return cls(**{field.name: values[key] for key, field in cls._fields() if key in values})

    def entry(self) -> dict[str, Any]:
        """The inverse, JSON-ready, without what has its default."""
        given = ((key, getattr(self, field.name), field.default) for key, field in self._fields())
        return {key: value for key, value, default in given if value != default}

    @classmethod
    def _fields(cls) -> Iterator[tuple[str, Field[Any]]]:
        return zip(cls.keys, fields(cls), strict=True)  # type: ignore[arg-type]

    @classmethod
    def _position_fields(cls) -> list[str]:
        least, most = cls.through
        return [field.name for _, field in cls._fields()][: most if least == most else 1]

    def describe(self) -> str:
        """In a few words, without the label: for tables."""
        raise NotImplementedError

    @classmethod
    def values_through(cls, positions: Sequence[Any]) -> dict[str, Any]:
        """The values of a file, by key and without the label, of what a viewer has drawn through these positions."""
        least, most = cls.through
        return dict(zip(cls.keys, positions, strict=False)) if least == most else {cls.keys[0]: positions}

    # ------------------------------------------------------------------ spaces

    def points(self, space: Space) -> NDArray[np.float64]:
        """(N, 3) that determine the prompt, in its own space."""
        return np.array([getattr(self, name) for name in self._position_fields()]).reshape(-1, 3)

    def at(self: P, points_N3: NDArray[np.float64], space: Space) -> P:
        """The same prompt with these points, in another space."""
        return self.parse({**self.entry(), **self.values_through(points_N3.tolist())})

    def in_units_of(self: P, spacing_xyz: NDArray[np.float64]) -> P:
        """The same prompt, whose positions were in units of these voxel edges, as index i, j, k."""
        return self.at(self.points("voxel") / spacing_xyz, "voxel")

    def corners_in(self, space: Space) -> NDArray[np.float64]:
        """(n, 3) positions in its own space between which everything lies of which it speaks."""
        return self.points(space)

    def outline(self) -> Outline:
        """How this prompt is shown, by :meth:`corners_in`."""
        return self.drawn

    def shape(self, points_N3: NDArray[np.float64], label: int) -> Shape:
        """On the array of the image.

        Args:
            points_N3: those of :meth:`points`, mapped to the array.
            label: its value.
        """
        return Shape(self.kind, label, points_N3)

    @classmethod
    def of(cls: type[P], points_N3: NDArray[np.float64], label: int | str) -> P:
        """The inverse, in space "voxel".

        Args:
            points_N3: those of a shape, in the order i, j, k.
        """
        return cls.parse({**cls.values_through(points_N3.tolist()), "label": label})

    @classmethod
    def of_simulated(cls, shape: Shape, label: int | str) -> Prompt:
        """What :meth:`simulate` has drawn on an array (z, y, x), as a prompt in space "voxel"."""
        return cls.of(shape.points_N3[:, ::-1], label)

    # ------------------------------------------------------------------ on an array

    @classmethod
    def clicks(cls, points_N3: NDArray[np.float64], label: int, pitch: Sequence[float]) -> NDArray[np.float64]:
        """(n, 3) positions that the network gets as clicks with this label; none by default.

        Args:
            points_N3: of the shape, in voxels (D, H, W) of the array.
            label: its value; 0 = background.
            pitch: edges of a voxel in T.
        """
        return np.zeros((0, 3))

    @classmethod
    def bounds(cls, points_N3: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The lowest and highest positions (3,) of which the prompt speaks."""
        return points_N3.min(axis=0), points_N3.max(axis=0)

    @classmethod
    def inside(cls, points_N3: NDArray[np.float64], shape: Sequence[int]) -> Voxels:
        """(n, 3) voxels of an array (D, H, W) of this shape of which the prompt speaks; by default, its points."""
        return points_to_voxels(points_N3, shape)

    @classmethod
    def mark(cls, points_N3: NDArray[np.float64], marked_DHW: NDArray[np.bool_]) -> None:
        """Sets the voxels of :meth:`inside` in an array."""
        marked_DHW[tuple(cls.inside(points_N3, marked_DHW.shape).T)] = True

    @classmethod
    def render(cls, points_N3: NDArray[np.float64], window: Window) -> dict[str, NDArray[np.float32]]:
        """Its maps (D, H, W) on a window, by name."""
        return {}

    @classmethod
    def together(cls, points_N3: NDArray[np.float64]) -> tuple[float, ...]:
        """Equal for the shapes of a label that share a map, which has the largest of their values: all, by default."""
        return ()

    @classmethod
    def joined_maps(cls, one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
        """A map (D, H, W) of shapes that are not one together."""
        return np.maximum(one, other)

    @classmethod
    def holds(cls, points_N3: NDArray[np.float64], shape: Sequence[int], beyond: float = 0.0) -> NDArray[np.bool_]:
        """(D, H, W) whether a voxel's centre lies inside, or at most ``beyond`` voxels outside; if it confines.

        Args:
            points_N3: of the shape, in voxels (D, H, W).
            shape: (D, H, W) of the array.
            beyond: voxels.
        """
        raise NotImplementedError

    @classmethod
    def holds_voxels(
        cls, points_N3: NDArray[np.float64], voxels_N3: NDArray[np.int64], beyond: float = 0.0
    ) -> NDArray[np.bool_]:
        """(N,) the same for single voxels.

        Args:
            points_N3: of the shape, in voxels (D, H, W).
            voxels_N3: to be looked at.
            beyond: voxels outside that still count.
        """
        raise NotImplementedError

    @classmethod
    def depth(cls, points_N3: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
        """(D, H, W) from 1 in the middle of the body of which it is the outline to 0 on its surface; negative outside,
        and -1 without a body. Geometry only, for controls of the benchmark.

        Args:
            window: with a pitch in mm.
        """
        return np.full(window.size, -1.0)

    @classmethod
    def simulate(cls, target: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]) -> Shape | None:
        """What a user might draw around a target, with label 1; None where nothing can be drawn.

        Args:
            target: (D, H, W), not empty.
            rng: draws everything that is random.
            spacing: mm along D, H, W.
        """
        raise NotImplementedError


def points_to_voxels(points_N3: NDArray[np.float64], shape: Sequence[int]) -> Voxels:
    """The voxels of an array that contain these points, each once, in the points' order."""
    voxels = np.floor(np.round(points_N3, 6) + 0.5).astype(np.int64)
    voxels = voxels[((voxels >= 0) & (voxels < np.asarray(shape))).all(axis=1)]
    _, first = np.unique(voxels, axis=0, return_index=True)
    return voxels[np.sort(first)]


def along(points_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points of a polyline, at most half a voxel apart along every axis, with its corners.

    Raises:
        PromptError: it is longer than :data:`MAX_LENGTH`.
    """
    length = float(np.abs(np.diff(points_N3, axis=0)).max(axis=1).sum()) if len(points_N3) > 1 else 0.0
    if length > MAX_LENGTH:
        raise PromptError(f"a curve must not be longer than {MAX_LENGTH} voxels; this one has {length:.4g}")
    parts = [points_N3[:1]]
    for start, end in itertools.pairwise(points_N3):
        count = max(1, math.ceil(2 * np.abs(end - start).max()))
        parts.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(parts)


def place_text(values: Iterable[float]) -> str:
    """Numbers for a message: "10, 10.5, 5"."""
    return ", ".join(f"{value:g}" for value in values)


def spread(points_N3: NDArray[np.float64], pitch: Sequence[float], count: int, apart: float) -> NDArray[np.float64]:
    """Up to ``count`` of the points: the one nearest to their mean, then always the one farthest from those chosen.

    Args:
        points_N3: in voxels.
        pitch: edges of a voxel in T.
        count: at least 1.
        apart: smallest distance between them in T.
    """
    scaled = points_N3 * np.asarray(pitch)

    def distance_to(place: NDArray[np.float64]) -> NDArray[np.float64]:
        # rounded: of equal distances, the first point's counts in every window and mirror image
        return np.round(np.linalg.norm(scaled - place, axis=1), 6)

    chosen = [int(distance_to(scaled.mean(axis=0)).argmin())]
    distance = distance_to(scaled[chosen[0]])
    while len(chosen) < count and distance.max() >= apart:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, distance_to(scaled[chosen[-1]]))
    return points_N3[chosen]
