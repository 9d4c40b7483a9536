"""A lasso: a closed curve around the target on one slice of any orientation.

Maps: ``plane_near`` and ``plane_far``, the signed distance to the curve in its plane, fading with the distance from the
plane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.geometry.boxes import box_between
from nnsam3d.prompts.components import largest_area
from nnsam3d.prompts.kinds.base import (
    Outline,
    Prompt,
    Shape,
    Tool,
    Voxels,
    Window,
    place_text,
    points_to_voxels,
    spread,
)
from nnsam3d.prompts.kinds.checks import MAX_POINTS, Position, PromptError

REACH = 2.0  # T; the distance to the curve is clipped there
FADING = {"plane_near": 0.5, "plane_far": 2.0}  # T; standard deviation across the plane
CORNERS = 64  # of a curve, at most; a hand-drawn one has hundreds
BACKGROUND_CLICKS = 4  # into a lasso around background
BACKGROUND_PLACES = 64  # along an axis, from which they are chosen
NOT_FLAT = 0.25  # a curve's largest distance from its plane, as a share of its extent
LARGE_SLICE = 0.3  # share of the largest slice's area that a slice needs to be drawn on
ANY_AXIS = 0.5  # share of simulated slices that are not those of the image's coarsest axis
OUTLINE = (-1.2, 1.8)  # voxels; range of a simulated lasso's distance from the target
WIGGLE, WIGGLE_WIDTH = 1.2, 2.0  # voxels; how far and how smoothly a hand trembles


@dataclass(frozen=True)
class Lasso(Prompt):
    """A closed curve on a slice: "on this slice, the target is inside".

    Attributes:
        corners: three or more corners in order; the last is joined to the first.
        label: see :class:`Click`; background: nothing inside is the target.

    Raises:
        PromptError: see :class:`Click`; fewer than three points, points on a line, or points far from one plane.

    >>> lasso = Lasso([(10, 10, 5), (20, 10, 5), (20, 20, 5)], "tumour")
    >>> lasso.describe()
    '3 points around 16.6667, 13.3333, 5'
    """

    kind: ClassVar[str] = "lasso"
    keys: ClassVar[tuple[str, ...]] = ("points", "label")
    maps: ClassVar[tuple[str, ...]] = tuple(FADING)
    weight: ClassVar[float] = 0.125
    tool: ClassVar[Tool | None] = Tool("A", "path", "Drag around the target; the ends are joined.")
    drawn: ClassVar[Outline] = "ring"
    through: ClassVar[tuple[int, int]] = (3, MAX_POINTS)
    body: ClassVar[bool] = True
    corners: tuple[Position, ...]
    label: int | str

    def __post_init__(self) -> None:
        super().__post_init__()
        extent = np.linalg.svd(np.array(self.corners) - np.mean(self.corners, axis=0), compute_uv=False)
        if extent[1] <= 1e-6 * max(extent[0], 1e-9):
            raise PromptError("the points of a lasso lie on a line: it has nothing inside")

    def describe(self) -> str:
        middle = np.mean(self.corners, axis=0).tolist()
        return f"{len(self.corners)} points around {place_text(middle)}"

    def shape(self, points_N3: NDArray[np.float64], label: int) -> Shape:
        """Raises PromptError: the curve does not lie on a slice."""
        plane = Plane.of(points_N3)
        away_N = (points_N3 - plane.origin) @ plane.normal
        away = float(np.abs(away_N).max())
        if away > 1.0 and away > NOT_FLAT * float(np.ptp(points_N3, axis=0).max()):
            raise PromptError(f"the points of a lasso must lie on one slice; one is {away:.1f} voxels away")
        return Shape(self.kind, label, simplified(points_N3 - away_N[:, None] * plane.normal))

    @classmethod
    def inside(cls, points_N3: NDArray[np.float64], shape: Sequence[int]) -> Voxels:
        """Those nearest to the curve's plane whose centres lie in the curve; of a tiny one, the voxel that holds it."""
        return points_to_voxels(_places_inside(points_N3, np.full(3, -0.5), np.asarray(shape) - 0.5), shape)

    @classmethod
    def together(cls, points_N3: NDArray[np.float64]) -> tuple[float, ...]:
        """Equal for curves in one plane: its normal and its distance from the origin, rounded."""
        plane = Plane.of(points_N3)
        normal = plane.normal * np.sign(plane.normal[np.abs(plane.normal).argmax()])
        return tuple(np.round([*normal, normal @ plane.origin], 3).tolist())

    @classmethod
    def joined_maps(cls, one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of curves on several slices, the one that says most at a voxel: the maps are zero far from a slice."""
        return np.where(np.abs(other) > np.abs(one), other, one)

    @classmethod
    def render(cls, points_N3: NDArray[np.float64], window: Window) -> dict[str, NDArray[np.float32]]:
        pitch = np.asarray(window.pitch)
        plane = Plane.of(points_N3 * pitch)
        axes = window.axes()
        away = sum((axis - o) * n for axis, o, n in zip(axes, plane.origin, plane.normal, strict=True))
        away = np.broadcast_to(np.abs(away), window.size)
        near = away < 3.5 * max(FADING.values())  # the maps are zero beyond
        signed = np.zeros(window.size)
        across = int(np.abs(plane.normal).argmax())
        if np.abs(plane.normal[across]) > 1 - 1e-9:  # the usual case: all slices have the same distances
            slices = tuple(slice(0, 1) if axis == across else slice(None) for axis in range(3))
            places = np.stack(np.broadcast_arrays(*axes), -1)[slices]
            found = signed_distance(plane.project(places.reshape(-1, 3)), plane.corners_M2)
            signed = np.broadcast_to(found.reshape(places.shape[:3]), window.size)
        elif near.any():
            places_N3 = np.stack([np.broadcast_to(axis, window.size)[near] for axis in axes], -1)
            signed[near] = signed_distance(plane.project(places_N3), plane.corners_M2)
        clipped = np.clip(signed / REACH, -1, 1)
        return {
            name: np.where(near, clipped * np.exp(-(away**2) / (2 * width**2)), 0).astype(np.float32)
            for name, width in FADING.items()
        }

    @classmethod
    def depth(cls, points_N3: NDArray[np.float64], window: Window) -> NDArray[np.float64]:
        """At a distance z from the slice, the body is the curve shrunk by sqrt(1 - (z / r)²) towards its centre, where
        r is the radius of a circle with the same area."""
        pitch = np.asarray(window.pitch)
        plane = Plane.of(points_N3 * pitch)
        centre, area = _centre_and_area(plane.corners_M2)
        radius = max(math.sqrt(area / math.pi), 1e-6)
        reach = radius * np.abs(plane.normal)
        ends = np.array([(points_N3 * pitch).min(axis=0) - reach, (points_N3 * pitch).max(axis=0) + reach]) / pitch
        start, size = np.array(window.start), np.array(window.size)
        low = np.clip(np.floor(ends[0]), start, start + size).astype(int)
        high = np.clip(np.ceil(ends[1]) + 1, start, start + size).astype(int)
        places_N3 = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1).reshape(-1, 3) * pitch
        away_N = np.abs((places_N3 - plane.origin) @ plane.normal)
        share_N = np.sqrt(np.clip(1 - (away_N / radius) ** 2, 0, 1))
        near_N = share_N > 0
        spread_N2 = centre + (plane.project(places_N3[near_N]) - centre) / share_N[near_N, None]
        depth_N = np.full(len(places_N3), -1.0)
        depth_N[near_N] = share_N[near_N] * signed_distance(spread_N2, plane.corners_M2) / radius
        found = np.full(window.size, -1.0)
        found[box_between(low - start, high - start)] = np.clip(depth_N, -1, 1).reshape((high - low).tolist())
        return found

    @classmethod
    def simulate(cls, target: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]) -> Shape | None:
        from skimage.measure import find_contours

        axis, number, area = some_slice(target, rng, spacing)
        margin = 4
        padded = np.pad(area, margin)
        field = ndimage.distance_transform_edt(padded) - ndimage.distance_transform_edt(~padded)
        tremble = ndimage.gaussian_filter(rng.standard_normal(padded.shape), WIGGLE_WIDTH)
        field = field + WIGGLE * rng.random() * tremble / max(np.abs(tremble).max(), 1e-9) + rng.uniform(*OUTLINE)
        curves = find_contours(np.pad(field, 1, constant_values=-1.0), 0.0)
        if not curves:
            return None
        curve = max(curves, key=len) - margin - 1
        if len(curve) < 4 or np.linalg.svd(curve - curve.mean(axis=0), compute_uv=False)[1] < 0.5:
            return None
        return Shape(cls.kind, 1, simplified(np.insert(curve[:-1], axis, number, axis=1)))

    @classmethod
    def clicks(cls, points_N3: NDArray[np.float64], label: int, pitch: Sequence[float]) -> NDArray[np.float64]:
        """Inside a curve around background, for which there are no maps."""
        if label:
            return np.zeros((0, 3))
        low, high = cls.bounds(points_N3)
        places_N3 = _places_inside(points_N3, low, high, BACKGROUND_PLACES)
        return spread(places_N3, pitch, BACKGROUND_CLICKS, 1.0) if len(places_N3) else places_N3


@dataclass(frozen=True)
class Plane:
    """The plane of a curve.

    Attributes:
        origin: (3,) the mean of its points.
        normal: (3,) of length 1.
        basis_23: two directions in it, orthonormal.
        corners_M2: the curve in these directions.
    """

    origin: NDArray[np.float64]
    normal: NDArray[np.float64]
    basis_23: NDArray[np.float64]
    corners_M2: NDArray[np.float64]

    @classmethod
    def of(cls, points_N3: NDArray[np.float64]) -> Plane:
        origin = points_N3.mean(axis=0)
        _, _, directions = np.linalg.svd(points_N3 - origin, full_matrices=True)
        normal = directions[2]
        across = int(np.abs(normal).argmax())
        if abs(normal[across]) > 1 - 1e-9:  # a slice of the array: exactly its axes
            normal = np.eye(3)[across]
            basis = np.delete(np.eye(3), across, axis=0)
        else:
            basis = directions[:2]
        return cls(origin, normal, basis, (points_N3 - origin) @ basis.T)

    def project(self, places_N3: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) in its directions."""
        return (places_N3 - self.origin) @ self.basis_23.T


def _places_inside(
    points_N3: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], most: int | None = None
) -> NDArray[np.float64]:
    """(n, 3) places in the curve's plane and inside the curve, one above each voxel of the axes along which it lies.

    Args:
        low, high: of the places that are looked at.
        most: voxels along each of these axes, for a curve of any size; None: all.
    """
    plane = Plane.of(points_N3)
    across = int(np.abs(plane.normal).argmax())
    lowest, highest = points_N3.min(axis=0), points_N3.max(axis=0)
    axes = [axis for axis in range(3) if axis != across]
    ends = [(np.ceil(max(lowest[a], low[a])), np.floor(min(highest[a], high[a]))) for a in axes]
    first, second = (np.arange(a, b + 1, 1 if most is None else max(1, (b - a) // most)) for a, b in ends)
    places_N3 = np.zeros((len(first) * len(second), 3))
    places_N3[:, axes] = np.stack(np.meshgrid(first, second, indexing="ij"), -1).reshape(-1, 2)
    away_N = (places_N3[:, axes] - plane.origin[axes]) @ plane.normal[axes]
    places_N3[:, across] = plane.origin[across] - away_N / plane.normal[across]
    places_N3 = places_N3[signed_distance(plane.project(places_N3), plane.corners_M2) >= -1e-6]
    tiny = (highest - lowest)[axes].min() < 2
    return places_N3 if len(places_N3) or not tiny else plane.origin[None]


def _centre_and_area(corners_M2: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Centre of mass and area of a polygon."""
    following = np.roll(corners_M2, -1, axis=0)
    cross = corners_M2[:, 0] * following[:, 1] - following[:, 0] * corners_M2[:, 1]
    if abs(cross.sum()) < 1e-9:  # a curve that crosses itself
        return corners_M2.mean(axis=0), 0.0
    centre = ((corners_M2 + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    return centre, abs(float(cross.sum())) / 2


def simplified(points_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most :data:`CORNERS` corners, evenly chosen."""
    if len(points_N3) <= CORNERS:
        return points_N3
    return points_N3[np.linspace(0, len(points_N3), CORNERS, endpoint=False).astype(int)]


def signed_distance(places_N2: NDArray[np.float64], corners_M2: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) distance to a closed polygon, positive inside (even-odd rule)."""
    nearest_N = np.full(len(places_N2), np.inf)
    inside_N = np.zeros(len(places_N2), dtype=bool)
    for start, end in zip(corners_M2, np.roll(corners_M2, -1, axis=0), strict=True):
        edge, to_N2 = end - start, places_N2 - start
        share_N = np.clip(to_N2 @ edge / max(float(edge @ edge), 1e-12), 0, 1)
        nearest_N = np.minimum(nearest_N, ((to_N2 - share_N[:, None] * edge) ** 2).sum(axis=1))
        crosses_N = (start[1] > places_N2[:, 1]) != (end[1] > places_N2[:, 1])
        if crosses_N.any():
            at_N = start[0] + (places_N2[:, 1] - start[1]) / (end[1] - start[1]) * edge[0]
            inside_N ^= crosses_N & (places_N2[:, 0] < at_N)
    return np.where(inside_N, 1, -1) * np.sqrt(nearest_N)


def some_slice(
    target: NDArray[np.bool_], rng: Generator, spacing: Sequence[float]
) -> tuple[int, int, NDArray[np.bool_]]:
    """A slice on which a user might draw: its axis and number, and the largest component of the target on it.

    Args:
        target: (D, H, W), not empty.
        rng: draws axis and slice.
        spacing: mm along D, H, W: slices across the longest are preferred.
    """
    axis = int(rng.integers(3)) if rng.random() < ANY_AXIS else int(np.argmax(spacing))
    areas = target.sum(axis=tuple({0, 1, 2} - {axis}))
    number = int(rng.choice(np.flatnonzero(areas >= max(1, LARGE_SLICE * areas.max()))))
    return axis, number, largest_area(np.take(target, number, axis=axis))
