"""Simulation of prompts from a ground truth: training, validation, benchmark and `nnsam3d prompts simulate`.

:class:`PromptSimulator` holds the settings; :func:`simulate_clicks` draws clicks on one label. All positions are array
voxels (z, y, x), int64. All randomness comes from the given generator, whose state determines the result.
Positive clicks are drawn one by one: for the same seed, n clicks are the first n of any larger number.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

from nnsam3d.prompts.centres import as_voxel, centres_first, error_centres, next_click, shuffled
from nnsam3d.prompts.components import Components
from nnsam3d.prompts.kinds import KINDS, Shape
from nnsam3d.prompts.labels import label_values
from nnsam3d.prompts.negatives import negative_clicks
from nnsam3d.prompts.types import VoxelClick
from nnsam3d.prompts.voxels import VoxelPrompts

CLICK_STRATEGIES = ("uniform", "center")  # without a prediction
STRATEGIES = (*CLICK_STRATEGIES, "largest_error")
EXTENT_WEIGHTS = {name: kind.weight for name, kind in KINDS.items() if kind.weight}
"""How often training draws each kind, relative to the others."""
COMPONENT_SHARE = 0.5  # of extents that are drawn around one component; others around all of the label


@dataclass(frozen=True)
class PromptSimulator:
    """Draws prompts from a ground truth (D, H, W).

    Attributes:
        labels: foreground values that may be clicked; 0 and the ignore label are skipped.
        spacing: mm along D, H, W.
        ignore_label: never clicked.
        strategy: placement of positive clicks, "uniform" or "center" (:func:`nnsam3d.prompts.simulate_clicks`).
        max_clicks: maximum per training sample.
        zero_share: share of training samples without clicks.
        negative_share: share of background clicks in a training sample.
        kinds: of prompts in training samples, see :data:`nnsam3d.prompts.kinds.KINDS`.
        extent_share: share of training samples that begin with a prompt of another kind than clicks.
        regions: for datasets with regions: label -> the values of a segmentation inside its region, around all of which
            such a prompt is drawn. Clicks are on the voxels whose value is the label.

    Raises:
        ValueError: max_clicks negative, a share outside 0..1, or an unknown strategy.

    >>> segmentation = np.zeros((8, 8, 8), int)
    >>> segmentation[2:5, 2:5, 2:5] = 1
    >>> simulator = PromptSimulator(labels=(1,), zero_share=0)
    >>> clicks = simulator.sample(segmentation, np.random.default_rng(0))
    >>> 1 <= len(clicks) <= 8 and any(click.label == 1 for click in clicks)
    True
    >>> simulator.correction(segmentation, np.zeros_like(segmentation))
    VoxelClick(voxel=(3, 3, 3), label=1)
    """

    labels: tuple[int, ...]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ignore_label: int | None = None
    strategy: str = "uniform"
    max_clicks: int = 8
    zero_share: float = 0.2
    negative_share: float = 0.25
    kinds: tuple[str, ...] = ("click",)
    extent_share: float = 0.0
    regions: Mapping[int, frozenset[int]] | None = None

    def __post_init__(self) -> None:
        if self.max_clicks < 0:
            raise ValueError(f"max_clicks must not be negative, got {self.max_clicks}")
        for name in ("zero_share", "negative_share", "extent_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        check_strategy(self.strategy, CLICK_STRATEGIES)
        object.__setattr__(self, "labels", tuple(int(label) for label in self.labels))

    def sample(self, segmentation: ArrayLike, rng: Generator, image: ArrayLike | None = None) -> list[VoxelClick]:
        """The clicks of a training sample, at most ``max_clicks``, in random order.

        With probability ``zero_share`` there are none. Otherwise, the number n = 1..max_clicks has the weight 1 / n,
        because most users give one or two clicks, and each click is negative (label 0) with probability
        ``negative_share``. Positive clicks alternate between the labels present; there is at least one. A patch without
        foreground gets either negative clicks only or none, with equal probability.

        Args:
            segmentation: values outside ``labels`` and 0 are never clicked.
            rng: draws the clicks.
            image: (C, D, H, W), for negative clicks on background that looks like foreground.
        """
        volume = as_volume(segmentation)
        if self.max_clicks == 0 or rng.random() < self.zero_share:
            return []
        weights = 1 / np.arange(1, self.max_clicks + 1)
        n = 1 + int(rng.choice(self.max_clicks, p=weights / weights.sum()))
        present = self._present(volume)
        if present:
            negatives = min(int(rng.binomial(n, self.negative_share)), n - 1)
        else:
            negatives = n if rng.random() < 0.5 else 0
        clicks: list[VoxelClick] = []
        if negatives:
            found = negative_clicks(volume, negatives, rng, present, self.spacing, image)
            clicks = [VoxelClick(as_voxel(row), 0) for row in found]
        if present:
            # Without background, all clicks are positive.
            positives = n - len(clicks)
            clicks += itertools.islice(self._alternating(present, volume.shape, rng), positives)
        return [clicks[i] for i in rng.permutation(len(clicks))]

    def sample_prompts(self, segmentation: ArrayLike, rng: Generator, image: ArrayLike | None = None) -> VoxelPrompts:
        """The prompts of a training sample: with probability ``extent_share`` a single one with an extent, drawn around
        a label that occurs, or else clicks (:meth:`sample`).

        Args:
            segmentation, image: see :meth:`sample`.
            rng: draws the prompts.
        """
        volume = as_volume(segmentation)
        kinds = [kind for kind in EXTENT_WEIGHTS if kind in self.kinds]
        if kinds and rng.random() < self.extent_share:
            shape = self.extent(volume, rng, kinds)
            if shape is not None:
                return VoxelPrompts.of((), [shape])
        return VoxelPrompts.of(self.sample(volume, rng, image))

    def extent(self, segmentation: ArrayLike, rng: Generator, kinds: Sequence[str]) -> Shape | None:
        """One prompt of one of these kinds around a label, or one of its components; None where there is no label, or
        where nothing can be drawn.

        Larger components are chosen more often.

        Args:
            segmentation: (D, H, W) label map.
            rng: draws kind, label and shape.
            kinds: keys of :data:`nnsam3d.prompts.kinds.KINDS`.
        """
        volume = as_volume(segmentation)
        if self.regions is None:
            present = list(self._present(volume))
        else:
            values = set(np.unique(volume).tolist())
            present = [label for label in sorted({*self.labels} & {*self.regions}) if values & self.regions[label]]
        if not present:
            return None
        label = present[int(rng.integers(len(present)))]
        target = np.isin(volume, label_values(label, self.regions))
        if rng.random() < COMPONENT_SHARE:
            found = Components(target)
            one = found[int(rng.choice(len(found), p=found.volumes / found.volumes.sum()))]
            target = np.zeros_like(target)
            target[one.place] = one.box
        weights = np.array([EXTENT_WEIGHTS[kind] for kind in kinds])
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        shape = KINDS[kind].simulate(target, rng, self.spacing)
        return None if shape is None else shape._replace(label=label)

    def fixed(self, segmentation: ArrayLike, n: int, rng: Generator) -> list[VoxelClick]:
        """Exactly n positive clicks, alternating between the ``labels`` that occur; none if there are no such labels.

        For the same generator state, they are the first n of any larger number.

        Args:
            segmentation: (D, H, W) label map.
            n: number of clicks.
            rng: draws them.

        Raises:
            ValueError: n negative.
        """
        if n < 0:
            raise ValueError(f"the number of clicks must not be negative, got {n}")
        if n == 0:
            return []
        volume = as_volume(segmentation)
        present = self._present(volume)
        return list(itertools.islice(self._alternating(present, volume.shape, rng), n))

    def correction(
        self, segmentation: ArrayLike, prediction: ArrayLike, clicked: Iterable[Sequence[int]] = ()
    ) -> VoxelClick | None:
        """The click that corrects a prediction (:func:`nnsam3d.prompts.next_click`); deterministic.

        Args:
            segmentation, prediction: (D, H, W) label maps.
            clicked: voxels (z, y, x) that have been clicked already.
        """
        return next_click(
            segmentation,
            prediction,
            self.spacing,
            labels=self.labels,
            ignore_label=self.ignore_label,
            clicked=clicked,
        )

    def _present(self, volume: NDArray) -> dict[int, NDArray[np.int64]]:
        """Label -> raveled indices, for those of ``labels`` that occur; a single pass for many labels."""
        wanted = sorted({*self.labels} - {0, self.ignore_label})
        if len(wanted) <= 2:
            found = {label: np.flatnonzero(volume == label) for label in wanted}
            return {label: flat for label, flat in found.items() if flat.size}
        flat = np.flatnonzero(volume)
        values = volume.reshape(-1)[flat]
        occurring = [label for label in wanted if (values == label).any()]
        return {label: flat[values == label] for label in occurring}

    def _alternating(
        self, present: dict[int, NDArray[np.int64]], shape: tuple[int, ...], rng: Generator
    ) -> Iterator[VoxelClick]:
        """An infinite sequence of positive clicks, alternating labels in random order; empty if no label is present."""
        order = [list(present)[i] for i in rng.permutation(len(present))]
        sources = {label: _positions(present[label], shape, rng, self.strategy, self.spacing) for label in order}
        for label in itertools.cycle(order):
            yield VoxelClick(next(sources[label]), label)


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
        rng: draws the positions; see :func:`case_rng`.
        strategy: "uniform": voxels of the label, without replacement while there are enough;
            "center": the voxel deepest inside the largest component (distance transform in mm), then inside
            the next components, then the voxel farthest from the border and all earlier clicks, repeatedly;
            "largest_error": the centres of the errors ``(prediction == label) != (segmentation == label)``, largest
            error first (:mod:`nnsam3d.prompts.centres`, deterministic), then the next best voxel of each. Such a click
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
        positions = _error_positions(truth, _error(truth, label, prediction, ignore_label), spacing)
    else:
        flat = np.flatnonzero(truth == label)
        if not flat.size:
            raise ValueError(f"label {label} does not occur in the segmentation of shape {truth.shape}")
        positions = _positions(flat, truth.shape, rng, strategy, spacing)
    return np.array(list(itertools.islice(positions, n)), dtype=np.int64).reshape(n, 3)


def _positions(
    flat: NDArray[np.int64], shape: tuple[int, ...], rng: Generator, strategy: str, spacing: Sequence[float]
) -> Iterator[tuple[int, int, int]]:
    """An infinite sequence of click positions on the voxels ``flat`` (raveled indices)."""
    if strategy != "uniform":
        mask = np.zeros(shape, dtype=bool)
        mask.reshape(-1)[flat] = True
        return centres_first(mask, rng, spacing)
    return (as_voxel(np.unravel_index(flat[i], shape)) for i in shuffled(len(flat), rng))


def _error(truth: NDArray, label: int, prediction: ArrayLike | None, ignore_label: int | None) -> NDArray[np.bool_]:
    if prediction is None:
        raise ValueError('strategy "largest_error" needs a prediction')
    predicted = np.asarray(prediction)
    if predicted.shape != truth.shape:
        raise ValueError(f"prediction has shape {predicted.shape}, segmentation {truth.shape}")
    error = (predicted == label) != (truth == label)
    if ignore_label is not None:
        error &= truth != ignore_label
    if not error.any():
        raise ValueError(f"label {label}: prediction and segmentation agree, no error to click on")
    return error


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
