"""Negative clicks: background voxels, some in a band just outside the foreground, some with a similar intensity.

Fast enough for training workers: rays from random foreground voxels find the band without a distance transform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

NEAR = 0.5  # probability that a click is in the band around the foreground; others can be anywhere
MARGIN_MM = 5.0  # width of the band; voxels that touch the foreground always belong to it
LOOKALIKE = 0.5  # share of the other clicks on background similar to the foreground, where users tend to put them
_ROUNDS = 4  # attempts with random rays or voxels before the slower, exact method
_RAYS = 8  # rays per click and round
_CANDIDATES = 32  # background voxels from which the one most similar to the foreground is clicked
_SAMPLE = 500  # foreground voxels that estimate the intensity of the foreground


def negative_clicks(
    volume: NDArray,
    n: int,
    rng: Generator,
    present: Mapping[int, NDArray[np.int64]],
    spacing: Sequence[float],
    image: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """n background voxels (n, 3) zyx, all different if there are enough; (0, 3) without background.

    Args:
        volume: (D, H, W) label map; background is the value 0.
        n: number of voxels.
        rng: draws them.
        present: raveled indices of the foreground, by label.
        spacing: mm along D, H, W.
        image: (C, D, H, W); without it, none are chosen because they look like the foreground.

    Raises:
        ValueError: the image has another shape than the volume.
    """
    if image is not None and np.shape(image)[1:] != volume.shape:
        raise ValueError(f"image (C, D, H, W) has shape {np.shape(image)}, the segmentation {volume.shape}")
    chosen: dict[int, None] = {}  # raveled indices, in order, without repetition
    if present:
        foreground_flat = np.concatenate(list(present.values()))
        if close := int(rng.binomial(n, NEAR)):
            _draw_near(chosen, close, volume, list(present), foreground_flat, rng, spacing)
        if image is not None:
            alike = int(rng.binomial(n - len(chosen), LOOKALIKE))
            _draw_lookalikes(chosen, alike, volume, np.asarray(image), foreground_flat, rng)
    _draw_anywhere(chosen, n, volume, rng)
    flat = np.array(list(chosen), dtype=np.int64)
    if 0 < len(flat) < n:  # less background than clicks: repeat some
        flat = np.concatenate([flat, flat[rng.integers(0, len(flat), n - len(flat))]])
    return np.stack(np.unravel_index(flat, volume.shape), axis=1).astype(np.int64).reshape(-1, 3)


def _draw_near(
    chosen: dict[int, None],
    count: int,
    volume: NDArray,
    labels: Sequence[int],
    foreground_flat: NDArray[np.int64],
    rng: Generator,
    spacing: Sequence[float],
) -> None:
    """Adds up to ``count`` voxels of the band; fewer if the rays find none."""
    for _ in range(_ROUNDS):
        rays = _RAYS * (count - len(chosen))
        start = foreground_flat[rng.integers(0, len(foreground_flat), rays)]
        for flat in _ends_outside(start, volume, labels, rng, spacing):
            chosen[int(flat)] = None
            if len(chosen) == count:
                return


def _ends_outside(
    start: NDArray[np.int64],
    volume: NDArray,
    labels: Sequence[int],
    rng: Generator,
    spacing: Sequence[float],
) -> NDArray[np.int64]:
    """One random voxel (raveled) of the band for every ray that reaches it.

    Directions are uniform in mm. Rays are sampled at half the finest spacing, so that consecutive samples touch. The
    band of a ray starts where it first leaves the foreground.
    """
    size = np.asarray(volume.shape)
    pitch = np.asarray(spacing, dtype=np.float64)
    origin = np.stack(np.unravel_index(start, volume.shape), axis=1)
    direction = rng.normal(size=(len(start), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True) * pitch
    luck = rng.random(len(start))
    # Rays need not be longer than the foreground's bounding box plus the band.
    reach_mm = np.linalg.norm((origin.max(axis=0) - origin.min(axis=0) + 2) * pitch) + MARGIN_MM
    step_mm = 0.5 * pitch.min()
    steps = np.arange(1, int(np.ceil(min(reach_mm, np.linalg.norm(size * pitch)) / step_mm)) + 2)
    path = np.rint(origin[:, None] + direction[:, None] * (steps * step_mm)[None, :, None]).astype(np.int64)
    inside = ((path >= 0) & (path < size)).all(axis=2)
    flat = np.ravel_multi_index(tuple(np.moveaxis(path, 2, 0)), volume.shape, mode="clip")
    value = volume.reshape(-1)[flat]
    left = ~(np.isin(value, labels) & inside)
    exit_step = np.where(left.any(axis=1), left.argmax(axis=1), len(steps))
    rows = np.arange(len(start))
    last = np.where((exit_step == 0)[:, None], origin, path[rows, np.clip(exit_step - 1, 0, None)])
    gap_mm = np.linalg.norm((path - last[:, None]) * pitch, axis=2)
    touching = np.abs(path - last[:, None]).max(axis=2) <= 1
    beyond = np.arange(len(steps))[None] >= exit_step[:, None]
    usable = beyond & inside & (value == 0) & ((gap_mm <= MARGIN_MM) | touching)
    hits = usable.sum(axis=1)
    ok = hits > 0
    nth = np.floor(luck[ok] * hits[ok]).astype(np.int64)
    column = (np.cumsum(usable[ok], axis=1) > nth[:, None]).argmax(axis=1)
    return flat[ok][np.arange(ok.sum()), column]


def _draw_lookalikes(
    chosen: dict[int, None],
    count: int,
    volume: NDArray,
    image_CDHW: NDArray,
    foreground_flat: NDArray[np.int64],
    rng: Generator,
) -> None:
    """Adds up to ``count`` voxels: each the one closest to the foreground's median among random background voxels."""
    values, intensity_CV = volume.reshape(-1), image_CDHW.reshape(len(image_CDHW), -1)
    sample = intensity_CV[:, foreground_flat[rng.integers(0, len(foreground_flat), _SAMPLE)]]
    typical, spread = np.median(sample, axis=1), sample.std(axis=1) + 1e-6
    for _ in range(count):
        candidates = rng.integers(0, values.size, _CANDIDATES)
        candidates = candidates[values[candidates] == 0]
        if candidates.size:
            distance = np.abs((intensity_CV[:, candidates] - typical[:, None]) / spread[:, None]).sum(axis=0)
            chosen[int(candidates[distance.argmin()])] = None


def _draw_anywhere(chosen: dict[int, None], n: int, volume: NDArray, rng: Generator) -> None:
    """Fills ``chosen`` up to n with uniformly drawn background voxels; fewer if there are not enough."""
    values = volume.reshape(-1)
    for _ in range(_ROUNDS):
        if len(chosen) >= n or not values.size:
            return
        for flat in rng.integers(0, values.size, 4 * (n - len(chosen))).tolist():
            if values[flat] == 0 and len(chosen) < n:
                chosen[flat] = None
    background = np.flatnonzero(values == 0)
    for i in rng.permutation(len(background)):
        if len(chosen) >= n:
            return
        chosen[int(background[i])] = None
