"""Simulation of clicks from a ground truth, for training, validation and benchmarks.

All positions are array voxels (z, y, x), int64. All randomness comes from the given generator.
Positive clicks are drawn one by one: for the same seed, n clicks are the first n of any larger number.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from nnsam3d.prompts.centres import as_voxel, centres_first, shuffled
from nnsam3d.prompts.refine import error_centres
from nnsam3d.prompts.types import VoxelClick

STRATEGIES = ("uniform", "center", "largest_error")


def case_rng(case: str, seed: int = 0) -> Generator:
    """A generator determined by case name and seed: the same in every process and Python version.

    >>> int(case_rng("liver_003").integers(1000)) == int(case_rng("liver_003").integers(1000))
    True
    """
    return np.random.default_rng([int(seed), zlib.crc32(case.encode("utf-8"))])


def simulate_clicks(
    segmentation: ArrayLike,
    label: int,
    n: int,
    rng: Generator,
    strategy: str = "uniform",
    prediction: ArrayLike | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    ignore_label: int | None = None,
) -> NDArray[np.int64]:
    """Exactly n click positions for one label, (n, 3), z y x.

    Args:
        segmentation: (D, H, W) ground truth.
        label: its value in ``segmentation``.
        n: number of clicks; 0 gives shape (0, 3) for any segmentation.
        strategy: "uniform": voxels of the label, without replacement while there are enough;
            "center": the voxel deepest inside the largest component (distance transform in mm), then inside
            the next components, then the voxel farthest from the border and all earlier clicks, repeatedly;
            "largest_error": the centres of the errors ``(prediction == label) != (segmentation == label)``, largest
            error first (:mod:`nnsam3d.prompts.refine`, deterministic), then the next best voxel of each. Such a click
            may be on another label (a false positive); its label is the segmentation's value.
        prediction: (D, H, W) label map, for "largest_error" only.
        spacing: mm along z, y, x.
        ignore_label: never clicked by "largest_error" (the other strategies only click on ``label``).

    Raises:
        ValueError: n negative, unknown strategy, missing or misshapen prediction, label (or error) absent.

    >>> segmentation = np.zeros((7, 7, 7), int)
    >>> segmentation[1:6, 1:6, 1:6] = 1
    >>> simulate_clicks(segmentation, label=1, n=1, rng=case_rng("case"), strategy="center").tolist()
    [[3, 3, 3]]
    >>> simulate_clicks(segmentation, label=1, n=4, rng=case_rng("case")).shape
    (4, 3)
    """
    if n < 0:
        raise ValueError(f"the number of clicks must not be negative, got {n}")
    check_strategy(strategy)
    truth = as_volume(segmentation)
    if n == 0:
        return np.zeros((0, 3), np.int64)
    if strategy == "largest_error":
        error = _error(truth, label, prediction, ignore_label)
        if not error.any():
            raise ValueError(f"label {label}: prediction and segmentation agree, no error to click on")
        positions = _error_positions(truth, error, spacing)
    else:
        flat = np.flatnonzero(truth == label)
        if not flat.size:
            raise ValueError(f"label {label} does not occur in the segmentation of shape {truth.shape}")
        positions = _positions(flat, truth.shape, rng, strategy, spacing)
    return np.array(list(itertools.islice(positions, n)), dtype=np.int64).reshape(n, 3)


def round_robin(
    present: dict[int, NDArray[np.int64]],
    shape: tuple[int, ...],
    rng: Generator,
    strategy: str,
    spacing: Sequence[float],
) -> Iterator[VoxelClick]:
    """An infinite sequence of positive clicks, alternating labels in random order; empty if no label is present."""
    order = [list(present)[i] for i in rng.permutation(len(present))]
    sources = {label: _positions(present[label], shape, rng, strategy, spacing) for label in order}
    for label in itertools.cycle(order):
        yield VoxelClick(next(sources[label]), label)


def _positions(
    flat: NDArray[np.int64], shape: tuple[int, ...], rng: Generator, strategy: str, spacing: Sequence[float]
) -> Iterator[tuple[int, int, int]]:
    """An infinite sequence of click positions on the voxels ``flat`` (raveled indices)."""
    if strategy != "uniform":
        mask = np.zeros(shape, dtype=bool)
        mask.reshape(-1)[flat] = True
        return centres_first(mask, rng, spacing)
    return (as_voxel(np.unravel_index(flat[i], shape)) for i in shuffled(len(flat), rng))


def _error_positions(
    truth: NDArray, error: NDArray[np.bool_], spacing: Sequence[float]
) -> Iterator[tuple[int, int, int]]:
    """Infinite: the centre of every error, largest first, then the next best voxel of every error, and so on."""
    clicked: list[tuple[int, int, int]] = []
    before = -1
    while True:
        if len(clicked) == before:  # every voxel has been clicked
            clicked.clear()
        before = len(clicked)
        for voxel, _ in error_centres(truth, error, spacing, np.unique(truth).tolist(), tuple(clicked)):
            clicked.append(voxel)
            yield voxel


def present_labels(volume: NDArray, labels: Sequence[int], ignore_label: int | None) -> dict[int, NDArray[np.int64]]:
    """Label -> raveled indices, for those of ``labels`` that occur; a single pass for many labels."""
    wanted = sorted({int(label) for label in labels} - {0, ignore_label})
    if len(wanted) <= 2:
        found = {label: np.flatnonzero(volume == label) for label in wanted}
        return {label: flat for label, flat in found.items() if flat.size}
    flat = np.flatnonzero(volume)
    values = volume.reshape(-1)[flat]
    occurring = [label for label in wanted if (values == label).any()]
    return {label: flat[values == label] for label in occurring}


def _error(truth: NDArray, label: int, prediction: ArrayLike | None, ignore_label: int | None) -> NDArray[np.bool_]:
    if prediction is None:
        raise ValueError('strategy "largest_error" needs a prediction')
    predicted = np.asarray(prediction)
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction has shape {predicted.shape}, segmentation {truth.shape}")
    error = (predicted == label) != (truth == label)
    return error if ignore_label is None else error & (truth != ignore_label)


def check_strategy(strategy: str, allowed: Sequence[str] = STRATEGIES) -> None:
    """Raises ValueError for a strategy that is not allowed."""
    if strategy not in allowed:
        raise ValueError(f"unknown strategy {strategy!r}; allowed: {', '.join(allowed)}")


def as_volume(segmentation: ArrayLike) -> NDArray:
    """Contiguous; raises ValueError unless it is (D, H, W)."""
    volume = np.ascontiguousarray(segmentation)
    if volume.ndim != 3:
        raise ValueError(f"segmentation must have shape (D, H, W), got {volume.shape}")
    return volume
