"""The protocol of nnInteractive 2.x, which 3D Slicer, napari and MITK use.

The viewer's image is (C, a, b, c) with C = 1; a, b, c correspond to z, y, x here. A client segments one label: NAME in
the path (/label/NAME), otherwise the model's first label.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from nnsam3d import __version__
from nnsam3d.inference.session import Session
from nnsam3d.prompts import Click, Prompt
from nnsam3d.server.arrays import pack, read_header, unpack
from nnsam3d.server.call import BINARY, Call, route, spacing_mm, three_numbers
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.drawn import box_prompts, interactions, lasso_prompts, scribble_prompts
from nnsam3d.server.refusal import Refusal

PROTOCOL = "2.5.1"


async def healthz(call: Call) -> Response:
    _ = call.label  # report a wrong label in the address immediately
    return _json(ok=True)


async def claim(call: Call) -> Response:
    _ = call.label  # report a wrong label in the address immediately
    made = call.app.leases.claim()
    return _json(
        lease_token=made.token,
        idle_timeout_seconds=call.app.leases.idle,
        liveness_timeout_seconds=call.app.leases.liveness,
        max_sessions=call.app.leases.limit,
    )


async def capabilities(call: Call) -> Response:
    return _json(
        supported_interactions=interactions(call.app.model.codec.kinds),
        channel_mapping={},
        num_interaction_channels=0,
        supports_initial_label=True,
        supports_zero_shot_label_refinement=False,
        preferred_scribble_thickness=[2, 2, 2],
        interaction_decay=None,
        inference_session_version=PROTOCOL,
        supports_undo=True,
        do_autozoom=False,
        license="see the model",
        server=f"nnsam3d {__version__}",
        labels=call.app.model.labels,
    )


async def release(call: Call) -> Response:
    call.app.leases.release(call.token)
    return _json(released=True)


async def heartbeat(call: Call) -> Response:
    return _json(remaining_seconds=call.app.leases.remaining(call.lease))


async def lease_status(call: Call) -> Response:
    return _json(remaining_seconds=call.app.leases.remaining(call.lease), idle_timeout_seconds=call.app.leases.idle)


async def set_image(call: Call) -> Response:
    call.app.check_one_channel()
    array = await _unpacked(call)
    if array.ndim != 4 or array.shape[0] != 1:
        raise Refusal(400, f"the image must have the shape (1, a, b, c), not {array.shape}")
    properties = call.meta().get("image_properties")
    spacing = spacing_mm(
        properties.get("spacing") if isinstance(properties, dict) else None, "image_properties.spacing"
    )
    await call.reserve(4 * array.size)  # the session's copy
    await call.work(lambda conversation: conversation.open_array(array, spacing))
    return _json(original_image_shape=list(array.shape))


async def set_target_buffer(call: Call) -> Response:
    shape = call.json().get("shape")

    def job(conversation: Conversation) -> None:
        if shape != list(conversation.session.shape):
            raise Refusal(400, f"the buffer has shape {shape}, the image {list(conversation.session.shape)}")
        conversation.clear_buffer()

    await call.work(job)
    return _json()


async def set_do_autozoom(call: Call) -> Response:
    call.json()
    return _json()


async def reset_interactions(call: Call) -> Response:
    await call.work(Conversation.next_object)
    return _json()


async def add_point(call: Call) -> Response:
    given = call.json()
    a, b, c = (round(value) for value in three_numbers(given.get("coordinates"), "coordinates"))
    return await _add(call, given, lambda _, label: [Click((a, b, c), label)])


async def add_box(call: Call) -> Response:
    given = call.json()
    ends = _ends(given.get("bbox_coords"))
    return await _add(call, given, lambda session, label: box_prompts(ends, session.shape, label, session.kinds))


async def add_scribble(call: Call) -> Response:
    return await _add_mask(call, scribble_prompts)


async def add_lasso(call: Call) -> Response:
    return await _add_mask(call, lasso_prompts)


async def add_initial_segmentation(call: Call) -> Response:
    label, run = call.label, bool(call.meta().get("run_prediction", False))
    shape, size = _announced(call), call.lease.conversation.session.shape
    if shape != size:
        raise Refusal(400, f"the segmentation has shape {shape}, the image {size}")
    array = await _unpacked(call)

    def job(conversation: Conversation) -> Response:
        mask = (array != 0).astype(np.uint8)
        conversation.start_from(_labelled(mask, conversation.values(label)[0]))
        conversation.fill_buffer(mask)
        return _painted(conversation, label) if run else _nothing(ran=False)

    return await call.step(job)


async def undo(call: Call) -> Response:
    label = call.label

    def job(conversation: Conversation) -> Response:
        return _painted(conversation, label) if conversation.session.undo() is not None else _nothing(False)

    return await call.step(job)


async def predict(call: Call) -> Response:
    label = call.label
    return await call.work(
        lambda conversation: _painted(conversation, label) if conversation.session.can_undo else _nothing(ran=False)
    )


# ---------------------------------------------------------------------- helpers


async def _add(call: Call, given: dict[str, Any], prompts_of: Callable[[Session, int], list[Prompt]]) -> Response:
    """A step of prompts.

    Args:
        given: what the client says about it.
        prompts_of: the prompts with a label.
    """
    label = call.label
    positive, run = bool(given.get("include_interaction", True)), bool(given.get("run_prediction", True))

    def job(conversation: Conversation) -> Response:
        conversation.session.add(prompts_of(conversation.session, label if positive else 0), "array")
        return _painted(conversation, label) if run else _nothing(ran=False)

    return await call.step(job)


async def _add_mask(call: Call, prompts_of: Callable[..., list[Prompt]]) -> Response:
    """A step of prompts that were drawn as a mask of the image, or of a part of it."""
    given, shape = call.meta(), _announced(call)
    if len(shape) != 3:
        raise Refusal(400, f"a drawn mask must have three axes, not shape {shape}")
    first, size = _corner(given.get("interaction_bbox"), shape), call.lease.conversation.session.shape
    if any(low + n > whole for low, n, whole in zip(first, shape, size, strict=True)):
        raise Refusal(400, f"the drawn mask reaches beyond the image: shape {shape} from voxel {first} on, of {size}")
    array = await _unpacked(call)
    return await _add(call, given, lambda session, label: prompts_of(array != 0, first, label, session.kinds))


def _announced(call: Call) -> tuple[int, ...]:
    """The shape of the array in the body, of which nothing has been decompressed yet."""
    return read_header(call.body, call.app.limits.array_bytes).shape


async def _unpacked(call: Call) -> NDArray[Any]:
    limit = call.app.limits.array_bytes
    header = read_header(call.body, limit)
    size = header.nbytes * (2 if header.chunks > 1 else 1)
    return await call.unpacked(size, lambda: unpack(call.body, limit))


def _labelled(mask: NDArray[np.uint8], value: int) -> NDArray[Any]:
    """The mask with a label's value, in a type that holds it."""
    return mask.astype(np.uint8 if value < 256 else np.uint16) * value


def _json(**values: Any) -> Response:
    return JSONResponse(values)


def _painted(conversation: Conversation, label: int) -> Response:
    change = conversation.repaint(label)
    if change is None:
        return _nothing(ran=True)
    box, part = change
    meta = {
        "ran_prediction": True,
        "bbox": [[side.start, side.stop] for side in box],
        "dtype": "uint8",
        "shape": list(part.shape),
    }
    return Response(pack(part), headers={"X-Meta": json.dumps(meta)}, media_type=BINARY)


def _nothing(ran: bool) -> Response:
    return Response(headers={"X-Meta": json.dumps({"ran_prediction": ran, "bbox": None})}, media_type=BINARY)


def _ends(values: Any) -> list[tuple[int, int]]:
    """Three half-open ranges of whole numbers. Raises Refusal (400)."""
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, list) and len(v) == 2 for v in values):
        raise Refusal(400, "bbox_coords must be [[a0, a1], [b0, b1], [c0, c1]]")
    low, high = (three_numbers([pair[end] for pair in values], "bbox_coords") for end in (0, 1))
    return [(round(a), round(b)) for a, b in zip(low, high, strict=True)]


def _corner(box: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The position of a cropped mask in the volume: its first voxel."""
    if box is None:
        return (0, 0, 0)
    try:
        low, high = zip(*((int(a), int(b)) for a, b in box), strict=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refusal(400, "interaction_bbox must be [[a0, a1], [b0, b1], [c0, c1]]") from error
    if tuple(b - a for a, b in zip(low, high, strict=True)) != shape or min(low) < 0:
        raise Refusal(400, f"interaction_bbox {box} does not match the mask's shape {shape}")
    return low


ROUTES = [
    route("GET", "/healthz", healthz, "none", keyed=False),
    route("POST", "/claim", claim, "none"),
    route("GET", "/capabilities", capabilities, "lives"),
    route("POST", "/release", release, "none"),
    route("POST", "/heartbeat", heartbeat, "lives"),
    route("GET", "/lease_status", lease_status, "looks"),
    route("POST", "/set_image", set_image, large=True, opens=True),
    route("POST", "/set_target_buffer", set_target_buffer),
    route("POST", "/set_do_autozoom", set_do_autozoom),
    route("POST", "/reset_interactions", reset_interactions),
    route("POST", "/add_point_interaction", add_point),
    route("POST", "/add_bbox_interaction", add_box),
    route("POST", "/add_scribble_interaction", add_scribble, large=True),
    route("POST", "/add_lasso_interaction", add_lasso, large=True),
    route("POST", "/add_initial_seg_interaction", add_initial_segmentation, large=True),
    route("POST", "/undo", undo),
    route("POST", "/predict", predict),
]
