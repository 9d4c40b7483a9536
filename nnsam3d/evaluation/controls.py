"""Controls: what is made of a model's answer without prompts, or of prompts alone.

Results have the axes of nnU-Net's reader (z, y, x).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nnsam3d.evaluation.bodies import KINDS_WITH_BODY, Spacing, bodies, clipped
from nnsam3d.evaluation.names import ELLIPSOID, Protocol
from nnsam3d.inference.binding import Regions
from nnsam3d.inference.extent import prompted
from nnsam3d.prompts import VoxelPrompts
from nnsam3d.tables import plural


@dataclass(frozen=True)
class Control:
    """
    Attributes:
        answer: to prompts, of the label map without prompts (empty if there is no model), of the prompts on its grid,
            of its spacing and of the regions.
        listens: whether it uses clicks.
        refusal: why it cannot take part in a protocol; "" if it can.
    """

    answer: Callable[[NDArray[Any], VoxelPrompts, Spacing, Regions | None], NDArray[Any]]
    listens: bool
    refusal: Callable[[Protocol], str]


def reduce_to_hit(label_map: NDArray[Any], prompts: VoxelPrompts, regions: Regions | None = None) -> NDArray[Any]:
    """A label map without the components (26-connected) that are not hit by a positive prompt with their label.

    That is the information in the prompts, without a model that uses it. If none of its components is hit, a label is
    kept: the control must not suffer from a prompt that its model did not receive. With regions, components are those
    of all foreground, and any positive prompt keeps them, so that a click on the rim of a tumour keeps its core.
    """
    labels = prompts.positive_labels
    if regions is None:
        masks = [(label_map == label, [label]) for label in labels]
    else:
        masks = [(label_map > 0, labels)] if labels else []
    result = label_map.copy()
    for mask, own in masks:
        kept = prompted(mask, prompts, own)
        if kept.any():
            result[mask & ~kept] = 0
    return result


def refusal_of_body(protocol: Protocol) -> str:
    """Why a control by geometry cannot take part in a protocol; "" if it can."""
    if protocol.needs in KINDS_WITH_BODY:
        return ""
    return f"answers only to {', '.join(plural(kind) for kind in KINDS_WITH_BODY)}"


CONTROLS = {
    "oracle": Control(
        lambda label_map, prompts, _, regions: reduce_to_hit(label_map, prompts, regions), True, lambda _: ""
    ),
    "clipped": Control(clipped, False, refusal_of_body),
    ELLIPSOID: Control(
        lambda empty, prompts, spacing, regions: bodies(prompts, empty.shape, spacing, regions), False, refusal_of_body
    ),
}
"""By :attr:`nnsam3d.evaluation.names.ArmName.control`."""
