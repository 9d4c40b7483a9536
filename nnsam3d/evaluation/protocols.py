"""Click protocols: seeded, and the same for all arms.

Clicks are placed on the grid of the ground truth (voxels of the image file), never on a network's. Axis letters: D, H,
W = array axes z, y, x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnsam3d.evaluation.plan import MAX_CLICKS, Protocol
from nnsam3d.prompts import CasePrompts, PromptSimulator, VoxelClick, case_rng

Answer = Callable[[Sequence[VoxelClick]], NDArray]
"""Clicks (z, y, x) with labels -> label map (D, H, W)."""


@dataclass(frozen=True)
class Truth:
    """The ground truth of a case on its grid.

    Attributes:
        segmentation_DHW: label map.
        spacing: mm along D, H, W.
        labels: foreground values that may be clicked.
        ignore_label: never clicked, never scored.
    """

    case: str
    segmentation_DHW: NDArray
    spacing: tuple[float, float, float]
    labels: tuple[int, ...]
    ignore_label: int | None = None


def run_protocol(
    protocol: Protocol, truth: Truth, seed: int, answer: Answer, max_clicks: int = MAX_CLICKS
) -> Iterator[tuple[tuple[VoxelClick, ...], NDArray]]:
    """Yields the clicks so far and the answer to them, starting without clicks; ends early if there is no error.

    Protocols without corrections have two steps: no click, and one click for every label that occurs. Random draws
    depend on the name of the case, the seed and the ground truth only: all arms get the same first clicks.

    Args:
        answer: called once per step, with all clicks.
    """
    clicks: list[VoxelClick] = []
    result = answer(())
    yield (), result
    present = set(np.unique(truth.segmentation_DHW).tolist()) & set(truth.labels)
    simulator = PromptSimulator(truth.labels, truth.spacing, truth.ignore_label, protocol.first)
    first = simulator.fixed(truth.segmentation_DHW, len(present), case_rng(truth.case, seed))
    if not protocol.corrected:
        if first:
            yield tuple(first), answer(first)
        return
    while len(clicks) < max_clicks:
        click = first[0] if first and not clicks else None
        click = click or simulator.correction(truth.segmentation_DHW, result, [voxel for voxel, _ in clicks])
        if click is None:
            return
        clicks.append(click)
        result = answer(tuple(clicks))
        yield tuple(clicks), result


def as_prompts(case: str, clicks: Sequence[VoxelClick]) -> CasePrompts:
    """Clicks in voxels (z, y, x) of the image as prompts."""
    return CasePrompts.of_array(case, [voxel for voxel, _ in clicks], [label for _, label in clicks])
