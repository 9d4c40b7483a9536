"""What the page is told: the tools, the prompts and the state of the segmentation."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from nnsam3d.geometry import Slices
from nnsam3d.inference.session import Session
from nnsam3d.prompts import Prompt
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.prompts.labels import resolve_label
from nnsam3d.server.call import BINARY, Call
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.refusal import Refusal


def shown_tools() -> list[dict[str, Any]]:
    """What the page knows about the kinds that can be drawn."""
    return [
        {
            "kind": kind.kind,
            "title": kind.kind.capitalize(),
            "keys": kind.keys,
            "drawn": kind.drawn,
            "trained": kind.trained,
            **kind.tool._asdict(),
        }
        for kind in KINDS.values()
        if kind.tool is not None
    ]


def shown_change(call: Call, conversation: Conversation, seconds: float) -> Response:
    """The change of the label map, with the state: JSON behind its length, then the labels in the changed box.

    Args:
        seconds: that the step has taken.

    Raises:
        Refusal: see :func:`change_to_show`.
    """
    start = time.perf_counter()
    box, voxels = change_to_show(conversation)
    values = {
        "part": None if box is None else [[side.start, side.stop] for side in reversed(box)],
        "seconds": round(seconds + time.perf_counter() - start, 3),
        **shown_state(call, conversation),
    }
    text = json.dumps(values).encode()
    return Response(struct.pack("<I", len(text)) + text + voxels.astype(np.uint8).tobytes(), media_type=BINARY)


def change_to_show(conversation: Conversation) -> tuple[Slices | None, NDArray[Any]]:
    """What a step has changed: a box of the label map, if any, and the labels in it.

    Raises:
        Refusal: labels above 255, which the page does not show (400).
    """
    box, voxels = conversation.change() or (None, np.zeros(0, np.uint8))
    if voxels.size and voxels.max() > 255:
        raise Refusal(400, "the page cannot show labels above 255: use another viewer")
    return box, voxels


def shown_state(call: Call, conversation: Conversation) -> dict[str, Any]:
    """What the page shows beside the mask."""
    session = conversation.session
    facts = conversation.volumes()
    return {
        "prompts": [_shown(one, session) for one in session.prompts],
        "can_undo": session.can_undo,
        "can_redo": session.can_redo,
        "started": session.started,
        "facts": {name: {"ml": ml, "components": count} for name, (ml, count) in facts.items()},
        "remarks": [*session.remarks, *conversation.warnings],
        "also_open": call.app.leases.opened_by_others(call.lease).count(conversation.case),
    }


def _shown(one: Prompt, session: Session) -> dict[str, Any]:
    """A prompt for the list and the planes.

    "entry" is that of a prompt file, with which the page can send it again; "ras" are the positions to draw, and
    "drawn" says how: :data:`nnsam3d.prompts.kinds.base.Outline`.
    """
    points_N3 = one.corners_in("voxel")
    value = resolve_label(one.label, session.labels, one.kind)  # a loaded file may have used the number
    return {
        "type": one.kind,
        "label": next(name for name, known in session.labels.items() if known == value),
        "value": value,
        "text": one.describe(),
        "drawn": one.outline(),
        "entry": {"type": one.kind, **one.entry()},
        "ras": np.round(session.grid.index_to_world(points_N3, "ras"), 4).tolist(),
    }
