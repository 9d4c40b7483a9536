"""Clicks from the ground truth: for training, validation and benchmarks.

All positions are array voxels (z, y, x), int64. Every draw comes from the generator that is passed in.
Positive clicks are drawn one by one: for one seed the first n clicks of a larger set are the set of n.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from nnsam3d.prompts.centres import as_voxel, centres_first, shuffled
from nnsam3d.prompts.negatives import simulate_negatives
from nnsam3d.prompts.refine import error_centres
from nnsam3d.prompts.types import LabelledClick

STRATEGIES = ("uniform", "center", "largest_error")


def case_rng(case: str, seed: int = 0) -> Generator:
    """A generator that depends on case name and seed only: the same in every process and Python version."""
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
    """Exactly n click positions for one label, (n, 3) zyx.

    Args:
        segmentation: (D, H, W) ground truth.
        label: its value in ``segmentation``.
        n: number of clicks; 0 gives shape (0, 3) and asks nothing of the segmentation.
        strategy: "uniform" voxels of the label, without replacement while there are enough of them;
            "center" the voxel deepest inside the largest component (distance transform in mm), then inside
            the next components, then each time the voxel farthest from the border and all earlier clicks;
            "largest_error" the centres of the errors ``(prediction == label) != (segmentation == label)``, largest
            error first (:mod:`nnsam3d.prompts.refine`: nothing is drawn), then over them again at the next best
            voxels. There a click may lie on another label (a false positive): its label is the segmentation's value.
        prediction: (D, H, W) label map, for "largest_error" only.
        spacing: mm along z, y, x.
        ignore_label: never clicked by "largest_error" (the other strategies stay on ``label`` anyway).

    Raises:
        ValueError: n negative, unknown strategy, missing or misshapen prediction, label (or error) absent.
    """
    if n < 0:
        raise ValueError(f"the number of clicks must not be negative, got {n}")
    _check_strategy(strategy)
    truth = _as_volume(segmentation)
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


def simulate_fixed(
    segmentation: ArrayLike,
    labels: Sequence[int],
    n: int,
    rng: Generator,
    *,
    ignore_label: int | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    strategy: str = "uniform",
) -> list[LabelledClick]:
    """Exactly n positive clicks, round robin over those of ``labels`` that occur; none if none of them does.

    With the same generator state the result for n is the beginning of the result for any larger n.

    Args: as :func:`simulate_prompt_set`; "largest_error" is not possible without a prediction.

    Raises:
        ValueError: n negative, or a strategy other than "uniform" and "center".
    """
    if n < 0:
        raise ValueError(f"the number of clicks must not be negative, got {n}")
    _check_strategy(strategy, STRATEGIES[:2])
    if n == 0:
        return []
    volume = _as_volume(segmentation)
    present = _present(volume, labels, ignore_label)
    return list(itertools.islice(_round_robin(present, volume.shape, rng, strategy, spacing), n))


def simulate_prompt_set(
    segmentation: ArrayLike,
    labels: Sequence[int],
    max_clicks: int,
    rng: Generator,
    *,
    zero_share: float = 0.2,
    negative_share: float = 0.25,
    ignore_label: int | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    strategy: str = "uniform",
    image: ArrayLike | None = None,
) -> list[LabelledClick]:
    """The clicks of one training sample, at most ``max_clicks``, positive and negative ones shuffled.

    With probability ``zero_share`` there are none. Otherwise n of 1..max_clicks has a weight of 1 / n (most
    users give one or two clicks; many must still be seen) and each click is negative (label 0) with probability
    ``negative_share``; positive ones go round robin over the labels present, and there is at least one of them.
    A patch without foreground gets only negatives, or none, with equal probability.

    Args:
        segmentation: (D, H, W) patch; values outside ``labels`` and 0 are never clicked.
        labels: values that may be clicked; 0 and the ignore label among them are skipped.
        spacing: mm along z, y, x (for the band of negatives and for "center").
        image: (C, D, H, W), for negatives on background that looks like foreground.

    Raises:
        ValueError: max_clicks negative, a share outside 0..1, or a strategy other than "uniform", "center".
    """
    if max_clicks < 0:
        raise ValueError(f"max_clicks must not be negative, got {max_clicks}")
    for name, share in (("zero_share", zero_share), ("negative_share", negative_share)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in 0..1, got {share}")
    _check_strategy(strategy, STRATEGIES[:2])
    volume = _as_volume(segmentation)
    if max_clicks == 0 or rng.random() < zero_share:
        return []
    weights = 1 / np.arange(1, max_clicks + 1)
    n = 1 + int(rng.choice(max_clicks, p=weights / weights.sum()))
    present = _present(volume, labels, ignore_label)
    if present:
        negatives = min(int(rng.binomial(n, negative_share)), n - 1)
    else:
        negatives = n if rng.random() < 0.5 else 0
    clicks: list[LabelledClick] = []
    if negatives:
        flat = np.concatenate(list(present.values())) if present else np.zeros(0, np.int64)
        found = simulate_negatives(
            volume,
            labels,
            negatives,
            rng,
            ignore_label=ignore_label,
            spacing=spacing,
            foreground_flat=flat,
            image=image,
        )
        clicks = [(as_voxel(row), 0) for row in found]
    if present:
        # A patch without background has no negatives; its clicks are positive then.
        positives = n - len(clicks)
        clicks += itertools.islice(_round_robin(present, volume.shape, rng, strategy, spacing), positives)
    return [clicks[i] for i in rng.permutation(len(clicks))]


def _round_robin(
    present: dict[int, NDArray[np.int64]],
    shape: tuple[int, ...],
    rng: Generator,
    strategy: str,
    spacing: Sequence[float],
) -> Iterator[LabelledClick]:
    """Endless positive clicks, one label after the other in random order; nothing if no label is present."""
    order = [list(present)[i] for i in rng.permutation(len(present))]
    sources = {label: _positions(present[label], shape, rng, strategy, spacing) for label in order}
    for label in itertools.cycle(order):
        yield next(sources[label]), label


def _positions(
    flat: NDArray[np.int64], shape: tuple[int, ...], rng: Generator, strategy: str, spacing: Sequence[float]
) -> Iterator[tuple[int, int, int]]:
    """Endless click positions on the voxels ``flat`` (raveled indices)."""
    if strategy != "uniform":
        mask = np.zeros(shape, dtype=bool)
        mask.reshape(-1)[flat] = True
        return centres_first(mask, rng, spacing)
    return (as_voxel(np.unravel_index(flat[i], shape)) for i in shuffled(len(flat), rng))


def _error_positions(
    truth: NDArray, error: NDArray[np.bool_], spacing: Sequence[float]
) -> Iterator[tuple[int, int, int]]:
    """Endless: the centre of every error, largest first, then the next best voxel of every error, and so on."""
    clicked: list[tuple[int, int, int]] = []
    before = -1
    while True:
        if len(clicked) == before:  # every voxel has been clicked
            clicked.clear()
        before = len(clicked)
        for voxel, _ in error_centres(truth, error, spacing, np.unique(truth).tolist(), tuple(clicked)):
            clicked.append(voxel)
            yield voxel


def _present(
    volume: NDArray, labels: Sequence[int], ignore_label: int | None
) -> dict[int, NDArray[np.int64]]:
    """Label -> raveled indices, for those of ``labels`` that occur. One pass over the volume for many."""
    wanted = sorted({int(label) for label in labels} - {0, ignore_label})
    if len(wanted) <= 2:
        found = {label: np.flatnonzero(volume == label) for label in wanted}
        return {label: flat for label, flat in found.items() if flat.size}
    flat = np.flatnonzero(volume)
    values = volume.reshape(-1)[flat]
    occurring = [label for label in wanted if (values == label).any()]
    return {label: flat[values == label] for label in occurring}


def _error(
    truth: NDArray, label: int, prediction: ArrayLike | None, ignore_label: int | None
) -> NDArray[np.bool_]:
    if prediction is None:
        raise ValueError('strategy "largest_error" needs a prediction')
    predicted = np.asarray(prediction)
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction has shape {predicted.shape}, segmentation {truth.shape}")
    error = (predicted == label) != (truth == label)
    return error if ignore_label is None else error & (truth != ignore_label)


def _check_strategy(strategy: str, allowed: Sequence[str] = STRATEGIES) -> None:
    if strategy not in allowed:
        raise ValueError(f"unknown strategy {strategy!r} here; allowed: {', '.join(allowed)}")


def _as_volume(segmentation: ArrayLike) -> NDArray:
    volume = np.ascontiguousarray(segmentation)
    if volume.ndim != 3:
        raise ValueError(f"segmentation must have shape (D, H, W), got {volume.shape}")
    return volume
