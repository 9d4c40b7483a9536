"""Protocols: seeded, and with the same first prompts for all arms.

Prompts are placed on the grid of the ground truth (voxels of the image file), never on a network's. Axis letters: D, H,
W = array axes z, y, x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.evaluation.first import Truth, first_prompts, target_of
from nnsam3d.evaluation.names import MAX_CLICKS, Protocol
from nnsam3d.prompts import CasePrompts, PromptSimulator, VoxelClick, VoxelPrompts, case_rng
from nnsam3d.prompts.centres import TIE, as_voxel
from nnsam3d.prompts.components import Components
from nnsam3d.prompts.kinds import KINDS, Shape

Answer = Callable[[VoxelPrompts], NDArray]
"""All prompts so far -> label map (D, H, W)."""


class Interaction(NamedTuple):
    """
    Attributes:
        clicks: number of clicks so far; in the challenge's protocol, of clicks on each label.
        prompts: the first prompts, and all clicks so far.
        answer: label map (D, H, W).
    """

    clicks: int
    prompts: VoxelPrompts
    answer: NDArray


def run_protocol(
    protocol: Protocol, truth: Truth, seed: int, answer: Answer, max_clicks: int = MAX_CLICKS
) -> Iterator[Interaction]:
    """Yields the steps, starting without clicks; ends early if there is no error.

    Protocols without corrections have two steps: no click, and one click for every label that occurs. Random draws
    depend on the name of the case, the seed and the ground truth only: all arms get the same first prompts.

    Args:
        answer: called once per step, with all prompts.
    """
    rng = case_rng(truth.case, seed)
    shapes = first_prompts(protocol, truth, rng) if protocol.extent else ()
    given = VoxelPrompts.of((), shapes)
    result = answer(given)
    yield Interaction(0, given, result)
    most = protocol.limit(max_clicks)
    if protocol.first == "challenge":
        yield from _challenge(truth, rng, given, result, answer, most)
        return
    clicked = protocol.first in ("uniform", "center")
    simulator = PromptSimulator(
        truth.labels, truth.spacing, truth.ignore_label, protocol.first if clicked else "uniform"
    )
    present = set(np.unique(truth.segmentation_DHW).tolist()) & set(truth.labels)
    first = simulator.fixed(truth.segmentation_DHW, len(present), rng) if clicked else []
    if not protocol.corrected:
        if first:
            given = VoxelPrompts.of(first)
            yield Interaction(len(first), given, answer(given))
        return
    clicks: list[VoxelClick] = []
    while len(clicks) < most:
        click = first[0] if first and not clicks else None
        click = click or simulator.correction(truth.segmentation_DHW, result, [voxel for voxel, _ in clicks])
        if click is None:
            return
        clicks.append(click)
        given = VoxelPrompts.of(clicks, shapes)
        result = answer(given)
        yield Interaction(len(clicks), given, result)


def _challenge(
    truth: Truth, rng: Generator, given: VoxelPrompts, result: NDArray, answer: Answer, most: int
) -> Iterator[Interaction]:
    """In every step a click on every label that has an error."""
    for number in range(1, most + 1):
        found = [challenge_click(truth, result, label, rng) for label in truth.labels]
        clicks = [click for click in found if click is not None]
        if not clicks:
            return
        given = given + VoxelPrompts.of(clicks)
        result = answer(given)
        yield Interaction(number, given, result)


def challenge_click(truth: Truth, answer_DHW: NDArray, label: int, rng: Generator) -> VoxelClick | None:
    """The click of the CVPR 2025 challenge: in the middle of the largest 26-connected component of all errors of a
    label, misses and false alarms together; None without an error, or where the label does not occur.

    The middle is the voxel with the largest distance to the outside in voxels, not mm; of several, one is drawn. The
    click has the ground truth's label there.
    """
    target = target_of(truth, label)
    if not target.any():
        return None
    error = np.isin(answer_DHW, truth.values(label)) != target
    if truth.ignore_label is not None:
        error &= truth.segmentation_DHW != truth.ignore_label
    if not error.any():
        return None
    components = Components(error)
    largest = components[int(components.volumes.argmax())]
    depth_N = largest.depth((1.0, 1.0, 1.0))
    deepest = np.flatnonzero(depth_N >= depth_N.max() * (1 - TIE))
    voxel = as_voxel(largest.voxels()[int(deepest[int(rng.integers(len(deepest)))])])
    value = int(truth.segmentation_DHW[voxel])
    inside = label if target[voxel] else 0
    return VoxelClick(voxel, value if value in truth.labels else inside)


# ---------------------------------------------------------------------- as a user would give them


def as_prompts(case: str, clicks: Sequence[VoxelClick], shapes: Sequence[Shape] = ()) -> CasePrompts:
    """Clicks (z, y, x) and shapes on the array of the image as prompts in its index i, j, k; the shapes first."""
    points = CasePrompts.of_array(case, [voxel for voxel, _ in clicks], [label for _, label in clicks])
    drawn = [KINDS[shape.kind].of_simulated(shape, shape.label) for shape in shapes]
    return CasePrompts(case, "voxel", [*drawn, *points.prompts])
