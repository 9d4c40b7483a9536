"""A box around the target; on one slice, it is a rectangle.

Maps: ``box_sd``, the signed distance to the nearest face, and ``box_el``, the ellipsoid inscribed in the box. A box on
one slice says nothing about the other slices: on an array, it is a lasso with four corners.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.prompts.components import bounding_box
from nnsam3d.prompts.kinds.base import Outline, Prompt, Shape, Space, Tool, Voxels, Window, place_text, points_to_voxels
from nnsam3d.prompts.kinds.checks import Position, PromptError, checked_label, checked_position
from nnsam3d.prompts.kinds.lasso import Lasso, some_slice

REACH = 2.0  # T; the distance to a face is clipped there
FLAT = 1.01  # voxels of the image; a box this thin lies on one slice
THINNEST = 1e-3  # voxels or mm; half edge of a turned box
JITTER = 0.25  # largest error of a face in training, as a share of the box's edge
BEYOND = 0.8  # where the target leaves the patch, its box ends up to this share of the patch farther out
EDGE = 0.00225  # voxels; positions are rounded to a thousandth, which must not decide about a centre on a face
SLAB = 16  # slices whose distances are computed at a time
FLAT_SHARE = 0.4  # of simulated boxes


@dataclass(frozen=True)
class Box(Prompt):
    """A box around the target. Between spaces it is turned with the image's axes, never enlarged.

    Attributes:
        low, high: two opposite corners, in any order. In voxels, both belong to the box, so that its faces lie half a
            voxel beyond them; in mm, they lie on its faces.
        label: see :class:`Click`; background: nothing in the box is the target.
        axes: three half edges from the box's middle to its faces, in its space; None: parallel to the axes of the
            space. With them, ``low`` and ``high`` only say where its middle is.

    Raises:
        PromptError: see :class:`Click`; half edges in one plane.

    >>> Box((120, 80, 41), (90, 99, 40), "tumour")
    Box(low=(90.0, 80.0, 40.0), high=(120.0, 99.0, 41.0), label='tumour', axes=None)
    """

    kind: ClassVar[str] = "box"
    keys: ClassVar[tuple[str, ...]] = ("low", "high", "label", "axes")
    optional: ClassVar[tuple[str, ...]] = ("axes",)
    maps: ClassVar[tuple[str, ...]] = ("box_sd", "box_el", *Lasso.maps)
    weight: ClassVar[float] = 0.325
    tool: ClassVar[Tool | None] = Tool(
        "B", "rectangle", "Drag a rectangle around the target; then drag in another plane to give it a depth."
    )
    drawn: ClassVar[Outline] = "solid"
    confines: ClassVar[bool] = True
    body: ClassVar[bool] = True
    low: Position
    high: Position
    label: int | str
    axes: tuple[Position, Position, Position] | None = None

    def __post_init__(self) -> None:
        both = np.array([checked_position(self.low), checked_position(self.high)])
        object.__setattr__(self, "low", tuple(both.min(axis=0).tolist()))
        object.__setattr__(self, "high", tuple(both.max(axis=0).tolist()))
        object.__setattr__(self, "label", checked_label(self.label))
        if self.axes is not None:
            if not isinstance(self.axes, (list, tuple)) or len(self.axes) != 3:
                raise PromptError("axes of a box must be three half edges of three numbers each")
            axes = tuple(checked_position(axis) for axis in self.axes)
            if abs(np.linalg.det(axes)) <= 1e-9 * max(1.0, float(np.abs(axes).max())) ** 3:
                raise PromptError("axes of a box must not lie in one plane")
            object.__setattr__(self, "axes", axes)

    def describe(self) -> str:
        if self.axes is not None:
            edges = 2 * np.linalg.norm(self.axes, axis=1)
            middle = (np.add(self.low, self.high) / 2).tolist()
            return f"turned, {' x '.join(f'{v:g}' for v in edges)} around {place_text(middle)}"
        return f"{place_text(self.low)} to {place_text(self.high)}"

    def points(self, space: Space) -> NDArray[np.float64]:
        """(4, 3): the middle, and the middles of three faces."""
        low, high = np.array(self.low), np.array(self.high)
        middle = (low + high) / 2
        if self.axes is not None:
            return np.vstack([middle, middle + np.array(self.axes)])
        half = (high - low) / 2 + (0.5 if space == "voxel" else 0.0)
        return np.vstack([middle, middle + np.diag(half)])

    def corners_in(self, space: Space) -> NDArray[np.float64]:
        middle, *half = self.points(space)
        signs = np.array([*itertools.product((-1, 1), repeat=3)])
        return middle + signs @ (np.array(half) - middle)

    def in_units_of(self, spacing_xyz: NDArray[np.float64]) -> Box:
        points_N3 = self.points("voxel") / spacing_xyz
        if self.axes is None:
            # the half voxel beyond a box on one slice is none of the scaled positions
            for axis in np.flatnonzero(np.equal(self.low, self.high)):
                points_N3[1 + axis, axis] = points_N3[0, axis] + 0.5
        return self.at(points_N3, "voxel")

    def at(self, points_N3: NDArray[np.float64], space: Space) -> Box:
        middle, half = points_N3[0], points_N3[1:] - points_N3[0]
        long = half[np.abs(half).max(axis=1) > 1e-9]
        order = np.abs(long).argmax(axis=1)
        parallel = np.where(np.arange(3) == order[:, None], long, 0)
        off = float(np.abs(long - parallel).max(initial=0.0))
        if len(set(order.tolist())) < len(long) or off > 1e-6 * np.abs(half).max():
            for edge in np.flatnonzero(np.abs(half).max(axis=1) < THINNEST):
                half[edge] = 0  # a turned box needs a direction for every edge
                half[edge] = THINNEST * _across(half)
            axes = tuple(tuple(row) for row in half.tolist())
            return replace(self, low=tuple(middle.tolist()), high=tuple(middle.tolist()), axes=axes)  # type: ignore[arg-type]
        edges = np.abs(parallel).max(axis=0, initial=0.0) - (0.5 if space == "voxel" else 0.0)
        edges = np.maximum(edges, 0.0)
        return replace(self, low=tuple((middle - edges).tolist()), high=tuple((middle + edges).tolist()), axes=None)

    @classmethod
    def of(cls, points_N3: NDArray[np.float64], label: int | str) -> Box:
        x, y, z = points_N3[0].tolist()
        return cls((x, y, z), (x, y, z), label).at(points_N3, "voxel")

    @classmethod
    def of_simulated(cls, shape: Shape, label: int | str) -> Prompt:
        if shape.kind == cls.kind:
            return cls.of(shape.points_N3[:, ::-1], label)
        corners = shape.points_N3[:, ::-1]  # of a rectangle on a slice
        low, high = corners.min(axis=0), corners.max(axis=0)
        middle, half = (low + high) / 2, np.where(high > low, (high - low) / 2, 0.5)
        return cls.of(points_of_faces(np.stack([middle - half, middle + half], axis=1)), label)

    def shape(self, points_N3: NDArray[np.float64], label: int) -> Shape:
        """A box that is one voxel thick, along an axis of the array, as the rectangle that it is."""
        middle, half = points_N3[0], points_N3[1:] - points_N3[0]
        reach = np.abs(half).max(axis=1)
        thin = int(reach.argmin())
        if 2 * reach[thin] <= FLAT < 2 * np.delete(reach, thin).min():
            first, second = np.delete(half, thin, axis=0)
            corners = [middle - first - second, middle - first + second, middle + first + second]
            return Shape(Lasso.kind, label, np.array([*corners, middle + first - second]))
        # no thinner than a voxel
        half[reach < 1e-6] = 0
        for edge in np.flatnonzero(reach < 0.5):
            half[edge] = half[edge] * (0.5 / reach[edge]) if half[edge].any() else 0.5 * _across(half)
        return Shape(self.kind, label, np.vstack([middle, middle + half]))

    @classmethod
    def inside(cls, points_N3: NDArray[np.float64], shape: Sequence[int]) -> Voxels:
        """Those whose centres it holds; of a box between all centres, as on a coarser array, that around its middle."""
        low, high = (np.clip(end, -1, np.asarray(shape)) for end in cls.bounds(points_N3))
        start = np.maximum(np.floor(low), 0).astype(np.int64)
        size = np.maximum(np.minimum(np.ceil(high) + 1, shape).astype(np.int64) - start, 0)
        found = np.argwhere(cls.holds(points_N3 - start, size)) + start
        return found if len(found) else points_to_voxels(points_N3[:1], shape)

    @classmethod
    def mark(cls, points_N3: NDArray[np.float64], marked_DHW: NDArray[np.bool_]) -> None:
        """Without a list of voxels: a box may hold all of a CT."""
        held = cls.holds(points_N3, marked_DHW.shape)
        if held.any():
            marked_DHW |= held
        else:
            marked_DHW[tuple(points_to_voxels(points_N3[:1], marked_DHW.shape).T)] = True

    @classmethod
    def bounds(cls, points_N3: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        reach = np.abs(points_N3[1:] - points_N3[0]).sum(axis=0)
        return points_N3[0] - reach, points_N3[0] + reach

    @classmethod
    def holds(cls, points_N3: NDArray[np.float64], shape: Sequence[int], beyond: float = 0.0) -> NDArray[np.bool_]:
        d, h, w = (int(n) for n in shape)
        found = np.zeros((d, h, w), dtype=bool)
        for low in range(0, d, SLAB):  # distances of a whole CT would take gigabytes
            window = Window((low, 0, 0), (min(SLAB, d - low), h, w), (1.0, 1.0, 1.0))
            found[low : low + SLAB] = _to_faces(points_N3, window.axes(), window.pitch)[0] >= -beyond - EDGE
        return found

    @classmethod
    def holds_voxels(
        cls, points_N3: NDArray[np.float64], voxels_N3: NDArray[np.int64], beyond: float = 0.0
    ) -> NDArray[np.bool_]:
        z, y, x = voxels_N3.astype(np.float64).T
        return _to_faces(points_N3, (z, y, x), (1.0, 1.0, 1.0))[0] >= -beyond - EDGE

    @classmethod
    def render(cls, points_N3: NDArray[np.float64], window: Window) -> dict[str, NDArray[np.float32]]:
        distance, square = _to_faces(points_N3, window.axes(), window.pitch)
        return {
            "box_sd": np.clip(distance / REACH, -1, 1).astype(np.float32),
            "box_el": np.clip(1 - square, -1, 1).astype(np.float32),
        }

    @classmethod
    def depth(cls, points_N3: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
        """Of the inscribed ellipsoid."""
        return cls.render(points_N3, window)["box_el"].astype(np.float64)

    @classmethod
    def simulate(cls, target: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]) -> Shape | None:
        if rng.random() < FLAT_SHARE:
            return cls._simulate_flat(target, rng, spacing)
        share = rng.uniform(0, JITTER)
        ends = [(side.start - 0.5, side.stop - 0.5) for side in bounding_box(target)]
        faces = np.array([_moved(low, high, n, share, rng) for (low, high), n in zip(ends, target.shape, strict=True)])
        return Shape(cls.kind, 1, points_of_faces(faces))

    @classmethod
    def _simulate_flat(cls, target: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]) -> Shape | None:
        axis, number, area = some_slice(target, rng, spacing)
        share = rng.uniform(0, JITTER)
        first, second = (
            _moved(float(np.flatnonzero(line)[0]) - 0.5, float(np.flatnonzero(line)[-1]) + 0.5, len(line), share, rng)
            for line in (np.asarray(area.any(axis=1)), np.asarray(area.any(axis=0)))
        )
        corners = np.array([*itertools.product(first, second)])[[0, 1, 3, 2]]
        return Shape(Lasso.kind, 1, np.insert(corners, axis, number, axis=1))


def _across(half_33: NDArray[np.float64]) -> NDArray[np.float64]:
    """A direction that is at right angles to all edges with a length, close to an axis of the array."""
    directions, _ = np.linalg.qr(half_33[half_33.any(axis=1)].T)
    left = np.eye(3) - directions @ directions.T
    lengths = np.linalg.norm(left, axis=1)
    return left[lengths.argmax()] / lengths.max()


def _to_faces(
    points_N3: NDArray[np.float64],
    places: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    pitch: tuple[float, float, float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance to the nearest face, positive inside, and square of the place's radius in units of the ellipsoid's.

    Args:
        places: positions along the three axes, in units of ``1 / pitch`` voxels; of shapes that fit together.
        pitch: edges of a voxel.
    """
    middle, half = points_N3[0] * pitch, (points_N3[1:] - points_N3[0]) * pitch
    to_share = np.linalg.inv(half)  # (x - middle) @ to_share is -1..1 between opposite faces
    distances, square = [], np.zeros(())
    for face in to_share.T:
        share = sum((axis - m) * f for axis, m, f in zip(places, middle, face, strict=True))
        distances.append((1 - np.abs(share)) / np.linalg.norm(face))
        square = square + np.square(share)
    return np.minimum(np.minimum(distances[0], distances[1]), distances[2]), square


def points_of_faces(faces_32: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 3) the points of a box between two faces along each axis of an array."""
    middle = faces_32.mean(axis=1)
    return np.vstack([middle, middle + np.diag((faces_32[:, 1] - faces_32[:, 0]) / 2)])


def _moved(low: float, high: float, length: int, share: float, rng: Generator) -> tuple[float, float]:
    """A user's faces along one axis of a patch: not exact, and somewhere outside where the target leaves the patch."""
    error = max(1.0, share * (high - low))
    moved_low, moved_high = low + rng.uniform(-error, error), high + rng.uniform(-error, error)
    if low <= 0:
        moved_low = low - rng.uniform(0, BEYOND * length)
    if high >= length - 1:
        moved_high = high + rng.uniform(0, BEYOND * length)
    if moved_high - moved_low < 1:
        moved_low, moved_high = low, high
    return moved_low, moved_high
