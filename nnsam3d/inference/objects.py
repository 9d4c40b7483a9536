"""Several objects with a class-agnostic network, which segments one thing at a time: what its prompts say.

Every label is an object with prompts of its own, and is segmented separately. Clicks and scribbles on one object say to
the others that they do not reach there. Where two objects still claim a voxel, the one with the larger probability has
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import Slices
from nnsam3d.geometry.boxes import overlap
from nnsam3d.prompts import CasePrompts, Click, Scribble
from nnsam3d.prompts.labels import resolve_label

NO_PROMPT = (
    "there is no prompt on an object, so the mask is empty: this model segments what is pointed at, nothing else"
)
Strength = Sequence[tuple[Slices, NDArray[np.float32]]]


@dataclass(frozen=True)
class Claim:
    """The answer for one object.

    Attributes:
        value: of its label.
        mask_ZYX: non-zero inside.
        boxes: outside of these, the mask is empty.
        strength: boxes (z, y, x) with the object's probability in them.
    """

    value: int
    mask_ZYX: NDArray[np.integer]
    boxes: tuple[Slices, ...]
    strength: Strength


def objects_of(prompts: CasePrompts, labels: Mapping[str, int]) -> list[int]:
    """The values of the objects that prompts speak of, in ascending order."""
    values = {resolve_label(prompt.label, labels, prompts.case) for prompt in prompts.without_masks.prompts}
    return sorted(values - {0})


def prompts_of_object(prompts: CasePrompts, labels: Mapping[str, int], value: int) -> tuple[CasePrompts, list[int]]:
    """The prompts that concern one object, with label 1 on it and 0 elsewhere, and the numbers of its clicks.

    Args:
        prompts: of all objects.
        labels: names and values.
        value: of the object.

    Returns:
        The prompts; for each of the clicks among them, its number (from 1) among all clicks.
    """
    own, numbers, number = [], [], 0
    for prompt in prompts.without_masks.prompts:
        label = resolve_label(prompt.label, labels, prompts.case)
        is_click = isinstance(prompt, Click)
        number += is_click
        if label in (0, value) or isinstance(prompt, (Click, Scribble)):
            own.append(replace(prompt, label=int(label == value)))  # type: ignore[type-var]
            numbers += [number] if is_click else []
    return CasePrompts(prompts.case, prompts.space, own), numbers


def joined(claims: Sequence[Claim], shape_ZYX: Sequence[int]) -> NDArray[np.integer]:
    """The label map (z, y, x) of several objects.

    Args:
        claims: of equal probabilities, the earlier one has the voxel.
    """
    largest = max((claim.value for claim in claims), default=0)
    label_map = np.zeros(tuple(shape_ZYX), np.uint8 if largest < 2**8 else np.uint16)
    earlier: dict[int, Strength] = {}
    for claim in claims:
        for box in claim.boxes:
            part, wins = label_map[box], claim.mask_ZYX[box] != 0
            contested = wins & (part != 0) & (part != claim.value)
            if contested.any():
                own = _within(claim.strength, box)
                for other in np.unique(part[contested]).tolist():
                    wins &= ~(contested & (part == other)) | (own > _within(earlier[other], box))
            part[wins] = claim.value
        earlier[claim.value] = claim.strength
    return label_map


def _within(strength: Strength, box: Slices) -> NDArray[np.float32]:
    """Probabilities in a box; 0 where none were computed."""
    found = np.zeros([side.stop - side.start for side in box], np.float32)
    for place, values in strength:
        here, there = overlap(place, box), overlap(box, place)
        if here is not None and there is not None:
            found[here] = values[there]
    return found
