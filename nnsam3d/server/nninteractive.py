"""The protocol of nnInteractive 2.x, which 3D Slicer, napari and MITK use.

The viewer's image is (C, a, b, c) with C = 1; a, b, c correspond to z, y, x here. A client segments one label: NAME in
the path (/label/NAME), otherwise the model's first label.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d import __version__
from nnsam3d.server.app import BINARY, App, Request, Response, Route
from nnsam3d.server.arrays import pack, unpack
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.leases import Lease
from nnsam3d.server.refusal import Refusal
from nnsam3d.server.scribbles import spread_voxels

PROTOCOL = "2.5.1"


def healthz(app: App, request: Request, lease: None) -> Response:
    app.label(request)  # report a wrong label in the address immediately
    return Response.of(ok=True)


def claim(app: App, request: Request, lease: None) -> Response:
    app.label(request)  # report a wrong label in the address immediately
    made = app.leases.claim()
    return Response.of(
        lease_token=made.token,
        idle_timeout_seconds=app.leases.idle,
        liveness_timeout_seconds=app.leases.liveness,
        max_sessions=app.leases.limit,
    )


def capabilities(app: App, request: Request, lease: Lease) -> Response:
    return Response.of(
        supported_interactions={"points": True, "bbox2d": False, "bbox3d": False, "scribble": True, "lasso": False},
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
        labels=app.model.labels,
    )


def release(app: App, request: Request, lease: None) -> Response:
    app.leases.release(request.headers.get("X-Lease-Token") or request.query.get("lease", ""))
    return Response.of(released=True)


def heartbeat(app: App, request: Request, lease: Lease) -> Response:
    return Response.of(remaining_seconds=app.leases.remaining(lease))


def lease_status(app: App, request: Request, lease: Lease) -> Response:
    return Response.of(remaining_seconds=app.leases.remaining(lease), idle_timeout_seconds=app.leases.idle)


def set_image(app: App, request: Request, lease: Lease) -> Response:
    app.check_one_channel()
    array = unpack(request.body, app.limits.array_bytes)
    if array.ndim != 4 or array.shape[0] != 1:
        raise Refusal(400, f"the image must have the shape (1, a, b, c), not {array.shape}")
    properties = request.meta().get("image_properties")
    spacing = _spacing(properties.get("spacing") if isinstance(properties, dict) else None)

    def job(conversation: Conversation) -> None:
        app.leases.make_room(4 * array.size, lease)
        conversation.open_array(array, spacing)

    app.work_for(request, lease, job)
    return Response.of(original_image_shape=list(array.shape))


def set_target_buffer(app: App, request: Request, lease: Lease) -> Response:
    shape = request.json().get("shape")

    def job(conversation: Conversation) -> None:
        if shape != list(conversation.session.shape):
            raise Refusal(400, f"the buffer has shape {shape}, the image {list(conversation.session.shape)}")
        conversation.clear_buffer()

    app.work_for(request, lease, job)
    return Response()


def set_do_autozoom(app: App, request: Request, lease: Lease) -> Response:
    request.json()
    return Response()


def reset_interactions(app: App, request: Request, lease: Lease) -> Response:
    app.work_for(request, lease, lambda conversation: conversation.reset())
    return Response()


def add_point(app: App, request: Request, lease: Lease) -> Response:
    given = request.json()
    position = _numbers(given.get("coordinates"), "coordinates")
    return _add(app, request, lease, [tuple(round(value) for value in position)], given)


def add_scribble(app: App, request: Request, lease: Lease) -> Response:
    given = request.meta()
    array = unpack(request.body, app.limits.array_bytes)
    if array.ndim != 3:
        raise Refusal(400, f"the scribble must have three axes, not shape {array.shape}")
    low = _corner(given.get("interaction_bbox"), array)
    voxels = [tuple(a + b for a, b in zip(low, voxel, strict=True)) for voxel in spread_voxels(array != 0)]
    if not voxels:
        raise Refusal(400, "the scribble is empty")
    return _add(app, request, lease, voxels, given)


def refuse_box(app: App, request: Request, lease: Lease) -> Response:
    raise Refusal(400, "boxes are not supported: use clicks or scribbles")


def refuse_lasso(app: App, request: Request, lease: Lease) -> Response:
    raise Refusal(400, "lasso is not supported: use clicks or scribbles")


def add_initial_segmentation(app: App, request: Request, lease: Lease) -> Response:
    label, run = app.label(request), bool(request.meta().get("run_prediction", False))
    mask = (unpack(request.body, app.limits.array_bytes) != 0).astype(np.uint8)

    def job(conversation: Conversation) -> Response:
        if mask.shape != conversation.session.shape:
            raise Refusal(400, f"the segmentation has shape {mask.shape}, the image {conversation.session.shape}")
        conversation.start_from(mask * np.uint8(conversation.values(label)[0]))
        conversation.fill_buffer(mask)
        return _painted(conversation, label) if run else _nothing(ran=False)

    return app.work_for(request, lease, job)


def undo(app: App, request: Request, lease: Lease) -> Response:
    label = app.label(request)
    return app.work_for(
        request, lease, lambda conversation: _painted(conversation, label) if conversation.undo() else _nothing(False)
    )


def predict(app: App, request: Request, lease: Lease) -> Response:
    label = app.label(request)
    return app.work_for(
        request,
        lease,
        lambda conversation: _painted(conversation, label) if conversation.can_undo else _nothing(ran=False),
    )


# ---------------------------------------------------------------------- helpers


def _add(app: App, request: Request, lease: Lease, positions: list[tuple[int, ...]], given: dict[str, Any]) -> Response:
    label = app.label(request)
    positive, run = bool(given.get("include_interaction", True)), bool(given.get("run_prediction", True))

    def job(conversation: Conversation) -> Response:
        conversation.add(positions, label if positive else 0, "array")
        try:
            return _painted(conversation, label) if run else _nothing(ran=False)
        except Exception:
            conversation.withdraw()
            raise

    return app.work_for(request, lease, job)


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
    return Response(pack(part), BINARY, {"X-Meta": json.dumps(meta)})


def _nothing(ran: bool) -> Response:
    return Response(b"", BINARY, {"X-Meta": json.dumps({"ran_prediction": ran, "bbox": None})})


def _numbers(values: Any, what: str) -> list[float]:
    """Checks for three finite numbers. Raises Refusal (400)."""
    if (
        not isinstance(values, list)
        or len(values) != 3
        or any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values)
        or not all(math.isfinite(value) and abs(value) < 1e9 for value in values)
    ):
        raise Refusal(400, f"{what} must be three numbers")
    return [float(value) for value in values]


def _spacing(values: Any) -> list[float]:
    """mm along a, b, c. napari sends negative values for flipped axes."""
    spacing = [abs(value) for value in _numbers(values, "image_properties.spacing")]
    if not all(spacing):
        raise Refusal(400, f"invalid spacing: {spacing} mm")
    return spacing


def _corner(box: Any, array: NDArray[Any]) -> tuple[int, ...]:
    """The position of a cropped scribble in the volume: its first voxel."""
    if box is None:
        return (0, 0, 0)
    try:
        low, high = zip(*((int(a), int(b)) for a, b in box), strict=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refusal(400, "interaction_bbox must be [[a0, a1], [b0, b1], [c0, c1]]") from error
    if tuple(b - a for a, b in zip(low, high, strict=True)) != array.shape or min(low) < 0:
        raise Refusal(400, f"interaction_bbox {box} does not match the scribble's shape {array.shape}")
    return low


ROUTES = {
    ("GET", "/healthz"): Route(healthz, "none", keyed=False),
    ("POST", "/claim"): Route(claim, "none"),
    ("GET", "/capabilities"): Route(capabilities, "lives"),
    ("POST", "/release"): Route(release, "none"),
    ("POST", "/heartbeat"): Route(heartbeat, "lives"),
    ("GET", "/lease_status"): Route(lease_status, "looks"),
    ("POST", "/set_image"): Route(set_image, large=True),
    ("POST", "/set_target_buffer"): Route(set_target_buffer),
    ("POST", "/set_do_autozoom"): Route(set_do_autozoom),
    ("POST", "/reset_interactions"): Route(reset_interactions),
    ("POST", "/add_point_interaction"): Route(add_point),
    ("POST", "/add_bbox_interaction"): Route(refuse_box),
    ("POST", "/add_scribble_interaction"): Route(add_scribble, large=True),
    ("POST", "/add_lasso_interaction"): Route(refuse_lasso, large=True),
    ("POST", "/add_initial_seg_interaction"): Route(add_initial_segmentation, large=True),
    ("POST", "/undo"): Route(undo),
    ("POST", "/predict"): Route(predict),
}
