"""Paint over an answer: the voxels that a person has set are what they are set to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nnsam3d.geometry.boxes import box_between
from nnsam3d.prompts import CasePrompts
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.prompts.labels import label_values

if TYPE_CHECKING:
    from nnsam3d.inference.image import PreparedImage, Segmentation


def painted_over(
    answer: Segmentation, prompts: CasePrompts, labels: Mapping[str, int], image: PreparedImage
) -> Segmentation:
    """A segmentation in which painted voxels have their labels; of several strokes, the last one counts.

    Args:
        answer: to the other prompts.
        prompts: of which those that the network does not get are painted.
        labels: their names and values.
        image: that was segmented.

    Raises:
        PromptError: an unknown label, or paint outside the image.
    """
    placed = image.placed(prompts.paint, labels)
    largest = max((shape.label for shape in placed.shapes), default=0)
    label_map = answer.label_map.astype(np.result_type(answer.label_map, np.min_scalar_type(largest)))
    boxes = answer.boxes
    for shape in placed.shapes:
        voxels_N3 = KINDS[shape.kind].inside(shape.points_N3, label_map.shape)
        if not len(voxels_N3):  # around the image, but not in it
            continue
        place = tuple(voxels_N3.T)
        right = label_values(shape.label, image.model.regions)  # the core of a region belongs to it already
        label_map[place] = np.where(np.isin(label_map[place], right), label_map[place], shape.label)
        boxes = (*boxes, box_between(voxels_N3.min(0), voxels_N3.max(0) + 1))
    return replace(answer, label_map=label_map, boxes=boxes)
