"""The routes of ITK-SNAP's deep-learning server. The session id is the lease; responses contain the whole mask."""

from __future__ import annotations

import base64
import gzip
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d import __version__
from nnsam3d.server.app import App, Request, Response, Route, as_object
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.leases import Lease
from nnsam3d.server.refusal import Refusal
from nnsam3d.server.scribbles import spread_voxels


def status(app: App, request: Request, lease: None) -> Response:
    return Response.of(status="ok", version=__version__)


def start_session(app: App, request: Request, lease: None) -> Response:
    app.label(request)
    return Response.of(session_id=app.leases.claim().token)


def end_session(app: App, request: Request, lease: None) -> Response:
    app.leases.release(request.rest)
    return Response.of(status="success")


def upload_raw(app: App, request: Request, lease: Lease) -> Response:
    app.check_one_channel()
    array, metadata = _volume(app, request)
    spacing = metadata.get("spacing", [1.0, 1.0, 1.0])
    if not isinstance(spacing, list) or len(spacing) != 3:
        raise Refusal(400, "the metadata must contain a spacing of three numbers")

    def job(conversation: Conversation) -> None:
        app.leases.make_room(4 * array.size, lease)
        conversation.open_array(array, [abs(float(step)) for step in reversed(spacing)])

    app.work_for(request, lease, job)
    return Response.of(status="success")


def process_point(app: App, request: Request, lease: Lease) -> Response:
    try:
        x, y, z = (round(float(request.query[name])) for name in "xyz")
    except (KeyError, ValueError, OverflowError) as error:
        raise Refusal(400, "a point must have the numbers x, y and z") from error
    return _added(app, request, lease, lambda: [(z, y, x)])


def process_scribble(app: App, request: Request, lease: Lease) -> Response:
    array, _ = _volume(app, request)

    def positions() -> list[tuple[int, int, int]]:
        if array.shape != lease.conversation.session.shape:
            raise Refusal(400, f"the scribble has shape {array.shape}, the image {lease.conversation.session.shape}")
        return spread_voxels(array != 0)

    return _added(app, request, lease, positions)


def refuse_lasso(app: App, request: Request, lease: Lease) -> Response:
    raise Refusal(400, "lasso is not supported: use clicks or scribbles")


def reset_interactions(app: App, request: Request, lease: Lease) -> Response:
    app.work_for(request, lease, lambda conversation: conversation.reset())
    return Response.of(status="success")


# ---------------------------------------------------------------------- helpers


def _added(app: App, request: Request, lease: Lease, positions: Callable[[], list[tuple[int, int, int]]]) -> Response:
    label, positive = app.label(request), request.query.get("foreground", "true").lower() == "true"

    def job(conversation: Conversation) -> Response:
        conversation.add(positions(), label if positive else 0, "array")
        try:
            mask = conversation.mask(label)
        except Exception:
            conversation.withdraw()
            raise
        packed = gzip.compress(mask.astype(np.int8).tobytes(), 1)
        return Response.of(status="success", result=base64.b64encode(packed).decode())

    return app.work_for(request, lease, job)


def _volume(app: App, request: Request) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The array (z, y, x) of an upload, and its metadata."""
    parts = multipart(request.headers.get("Content-Type", ""), request.body)
    if "file" not in parts or "metadata" not in parts:
        raise Refusal(400, "an upload must have two parts, file and metadata")
    metadata = as_object(parts["metadata"], "metadata")
    shape = metadata.get("dimensions")
    if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(n, int) and 0 < n < 2**20 for n in shape):
        raise Refusal(400, "the metadata must contain dimensions, three positive integers")
    if metadata.get("components_per_pixel", 1) != 1:
        raise Refusal(400, "the image must have one value per voxel")
    wanted = 4 * math.prod(shape)
    if wanted > app.limits.array_bytes:
        raise Refusal(413, f"the image has {wanted:,} bytes; the limit is {app.limits.array_bytes:,}")
    content = _decompressed(parts["file"], wanted)
    return np.frombuffer(content, "<f4").reshape(shape[::-1]), metadata


def _decompressed(packed: bytes, wanted: int) -> bytes:
    """Decompresses at most one byte more than expected, to limit memory use."""
    stream = zlib.decompressobj(wbits=31)
    try:
        content = stream.decompress(packed, wanted + 1)
    except zlib.error as error:
        raise Refusal(400, "the file is not a gzip stream or is damaged") from error
    if len(content) != wanted:
        raise Refusal(400, f"the file does not contain {wanted:,} bytes, as expected from the metadata (float32)")
    return content


def multipart(content_type: str, body: bytes) -> dict[str, bytes]:
    """The parts of a form, by name."""
    kind, _, parameters = content_type.partition(";")
    boundary = next(
        (
            value.strip('" ')
            for name, _, value in (part.partition("=") for part in parameters.split(";"))
            if name.strip().lower() == "boundary"
        ),
        "",
    )
    if kind.strip().lower() != "multipart/form-data" or not boundary:
        raise Refusal(400, "the request must be a form (multipart/form-data)")
    found: dict[str, bytes] = {}
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1", "replace"))[1:]:
        head, middle, content = part.partition(b"\r\n\r\n")
        if not middle:
            continue
        for word in head.replace(b"\r\n", b";").split(b";"):
            name, _, value = word.strip().partition(b"=")
            if name == b"name":
                found[value.strip(b'"').decode("utf-8", "replace")] = content
    return found


ROUTES = {
    ("GET", "/status"): Route(status, "none", keyed=False),
    ("GET", "/start_session"): Route(start_session, "none"),
    ("GET", "/end_session/"): Route(end_session, "none"),
    ("POST", "/upload_raw/"): Route(upload_raw, large=True),
    ("GET", "/process_point_interaction/"): Route(process_point),
    ("POST", "/process_scribble_interaction/"): Route(process_scribble, large=True),
    ("POST", "/process_lasso_interaction/"): Route(refuse_lasso, large=True),
    ("GET", "/reset_interactions/"): Route(reset_interactions),
}
