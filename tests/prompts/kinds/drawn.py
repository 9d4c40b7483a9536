"""Prompts of every kind, drawn at random: for the tests that all kinds must pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator
from scipy.spatial.transform import Rotation

from nnsam3d.geometry import ImageGrid
from nnsam3d.prompts import Box, Click, Lasso, Line, MaskPrompt, Paint, Prompt, Scribble
from nnsam3d.prompts.kinds import KINDS

SIZE_XYZ = (20, 17, 13)
SHAPE_ZYX = SIZE_XYZ[::-1]
LABELS = {"background": 0, "tumour": 1, "organ": 2}

EXTENT = tuple(kind for kind in KINDS if kind != MaskPrompt.kind)
"""The kinds with points."""
LEARNT = tuple(kind for kind in EXTENT if KINDS[kind].trained)
"""Those that networks get: they can be simulated, and viewers draw them."""


def _grid(matrix: Any) -> ImageGrid:
    return ImageGrid(SIZE_XYZ, (0.7, 1.1, 3.0), (5.0, -70.0, 310.0), tuple(map(tuple, np.asarray(matrix, float))))


GRIDS = {
    "straight": _grid(np.eye(3)),
    "flipped": _grid(np.diag([-1, 1, -1])),
    "other axes": _grid([[0, 0, 1], [-1, 0, 0], [0, 1, 0]]),
    "oblique": _grid(Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()),
    "oblique and flipped": _grid(Rotation.from_euler("xyz", [-3, 170, 88], degrees=True).as_matrix() * [1, -1, 1]),
}


def _places(rng: Generator, count: int) -> np.ndarray:
    """Most of them inside the image."""
    return rng.uniform(-0.2, 1.2, (count, 3)) * (np.array(SIZE_XYZ) - 1)


def _on_slice(rng: Generator, count: int) -> np.ndarray:
    """Corners around a middle, on a slice of the image or on a turned one."""
    turns = np.sort(rng.uniform(0, 2 * np.pi, count - 1))
    turns = np.append(turns, turns[0] + 2.0)  # never on one line
    radii = rng.uniform(2, 9, count)[:, None]
    flat = np.stack([np.cos(turns), np.sin(turns)], axis=1) * radii
    if rng.random() < 0.6:
        axis = int(rng.integers(3))
        middle = rng.integers(1, np.array(SIZE_XYZ) - 1).astype(float)
        return middle + np.insert(flat, axis, 0, axis=1)
    basis = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()[:2]
    return np.array(SIZE_XYZ) / 2 + flat @ basis


def _box(rng: Generator, label: int | str) -> Box:
    kind = rng.integers(5)
    low, high = np.sort(_places(rng, 2), axis=0)
    if kind == 0:  # on a slice
        low, high = np.round(low), np.round(high) + 2
        axis = int(rng.integers(3))
        high[axis] = low[axis] = rng.integers(1, SIZE_XYZ[axis] - 1)
    elif kind == 1:
        low, high = np.round(low), np.round(high) + 2
    elif kind == 2:  # turned
        axes = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix() * rng.uniform(1, 9, (3, 1))
        return Box(tuple(low), tuple(low), label, tuple(map(tuple, axes.tolist())))
    elif kind == 4 and rng.integers(2):  # a point
        high = low
    elif kind == 4:  # a line
        high = np.where(np.arange(3) == rng.integers(3), high, low)
    return Box(tuple(low - 0.3), tuple(high + 0.3), label) if kind == 3 else Box(tuple(low), tuple(high), label)


_DRAW: dict[str, Callable[[Generator, int | str], Prompt]] = {
    "click": lambda rng, label: Click(_places(rng, 1)[0], label),
    "scribble": lambda rng, label: Scribble(_places(rng, int(rng.integers(1, 6))), label, bool(rng.integers(2))),
    "box": _box,
    "line": lambda rng, label: Line(*_places(rng, 2), label),
    "lasso": lambda rng, label: Lasso(_on_slice(rng, int(rng.integers(3, 12))), label),
    "paint": lambda rng, label: Paint(_places(rng, int(rng.integers(1, 6))), label),
    "mask": lambda rng, label: MaskPrompt(f"before_{rng.integers(99)}.nii.gz", label if rng.random() < 0.5 else None),
}
assert set(_DRAW) == set(KINDS), "a new kind is drawn here, and all tests are its own"


def drawn(kind: str, rng: Generator, label: int | str = "tumour") -> Prompt:
    """A prompt of a kind in voxels i, j, k of an image of :data:`SIZE_XYZ`."""
    return _DRAW[kind](rng, label)


def targets() -> dict[str, np.ndarray]:
    """Ground truths (z, y, x) that are hard to draw around."""
    found: dict[str, np.ndarray] = {}

    def target(name: str) -> np.ndarray:
        return found.setdefault(name, np.zeros(SHAPE_ZYX, bool))

    target("one voxel")[5, 6, 7] = True
    target("one voxel in a corner")[0, 0, 0] = True
    target("one voxel in the last corner")[-1, -1, -1] = True
    target("two voxels")[5, 6, 7:9] = True
    target("two voxels apart")[[2, 10], [3, 12], [4, 15]] = True
    target("a diagonal")[range(10), range(10), range(10)] = True
    target("one slice")[5, 4:12, 3:15] = True
    target("one line")[5, 4, 3:15] = True
    target("a slab at the border")[:, :5, :] = True
    target("everything")[:] = True
    z, y, x = np.ogrid[: SHAPE_ZYX[0], : SHAPE_ZYX[1], : SHAPE_ZYX[2]]
    target("a ball")[((z - 6) ** 2 + (y - 8) ** 2 + (x - 10) ** 2) <= 25] = True
    target("a shell")[found["a ball"] & (((z - 6) ** 2 + (y - 8) ** 2 + (x - 10) ** 2) > 16)] = True
    target("a ring")[np.broadcast_to(np.abs(np.hypot(y - 8, x - 10) - 6) < 1, SHAPE_ZYX) & (np.abs(z - 6) < 2)] = True
    target("many components")[1::3, 1::3, 1::3] = True
    target("noise")[np.random.default_rng(0).random(SHAPE_ZYX) < 0.2] = True
    return found
