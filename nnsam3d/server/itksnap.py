"""The routes of ITK-SNAP's deep-learning server. The session id is the lease; responses contain the whole mask.

ITK-SNAP sends most requests as GET. The one that needs no session id, /start_session, therefore changes nothing: the
session begins when its image arrives.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import math
import zlib
from collections.abc import Callable
from email.message import Message
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from nnsam3d import __version__
from nnsam3d.inference.session import Session
from nnsam3d.prompts import Click, Prompt
from nnsam3d.server.call import SMALL_BODY, Call, as_object, route, spacing_mm
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.drawn import lasso_prompts, scribble_prompts
from nnsam3d.server.refusal import Refusal

PARTS, HEAD = 16, 4096  # of a form: parts, and bytes of the head of each
SUCCESS = {"status": "success"}


async def status(call: Call) -> Response:
    return JSONResponse({"status": "ok", "version": __version__})


async def start_session(call: Call) -> Response:
    _ = call.label  # report a wrong label in the address immediately
    return JSONResponse({"session_id": call.app.promise()})


async def end_session(call: Call) -> Response:
    call.app.leases.release(call.request.path_params["token"])
    return JSONResponse(SUCCESS)


async def upload_raw(call: Call) -> Response:
    call.app.check_one_channel()
    array, metadata = await _volume(call)
    x, y, z = spacing_mm(metadata.get("spacing", [1.0, 1.0, 1.0]), "the spacing in the metadata")
    await call.work(lambda conversation: conversation.open_array(array, (z, y, x)))
    return JSONResponse(SUCCESS)


async def process_point(call: Call) -> Response:
    try:
        x, y, z = (round(float(call.query[name])) for name in "xyz")
    except (KeyError, ValueError, OverflowError) as error:
        raise Refusal(400, "a point must have the numbers x, y and z") from error
    return await _added(call, lambda _, label: [Click((z, y, x), label)])


async def process_scribble(call: Call) -> Response:
    return await _added_mask(call, scribble_prompts)


async def process_lasso(call: Call) -> Response:
    return await _added_mask(call, lasso_prompts)


async def reset_interactions(call: Call) -> Response:
    await call.work(Conversation.next_object)
    return JSONResponse(SUCCESS)


# ---------------------------------------------------------------------- helpers


async def _added(call: Call, prompts_of: Callable[[Session, int], list[Prompt]]) -> Response:
    label, positive = call.label, call.query.get("foreground", "true").lower() == "true"

    def job(conversation: Conversation) -> Response:
        conversation.session.add(prompts_of(conversation.session, label if positive else 0), "array")
        packed = gzip.compress(conversation.mask(label).astype(np.int8).tobytes(), 1)
        return JSONResponse({**SUCCESS, "result": base64.b64encode(packed).decode()})

    return await call.step(job)


async def _added_mask(call: Call, prompts_of: Callable[..., list[Prompt]]) -> Response:
    array, _ = await _volume(call, call.lease.conversation.session.shape)
    return await _added(call, lambda session, label: prompts_of(array != 0, (0, 0, 0), label, session.kinds))


async def _volume(call: Call, size: tuple[int, ...] | None = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The array (z, y, x) of an upload, and its metadata.

    Args:
        size: of the image, which the array must have, too.
    """
    parts = await asyncio.to_thread(multipart, call.request.headers.get("Content-Type", ""), call.body)
    if "file" not in parts or "metadata" not in parts:
        raise Refusal(400, "an upload must have two parts, file and metadata")
    if len(parts["metadata"]) > SMALL_BODY:
        raise Refusal(413, f"the metadata has {len(parts['metadata']):,} bytes; the limit is {SMALL_BODY:,}")
    metadata = as_object(bytes(parts["metadata"]), "metadata")
    shape = metadata.get("dimensions")
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(n) is int and 0 < n < 2**20 for n in shape):
        raise Refusal(400, "the metadata must contain dimensions, three positive integers")
    if metadata.get("components_per_pixel", 1) != 1:
        raise Refusal(400, "the image must have one value per voxel")
    if size not in (None, tuple(shape[::-1])):
        raise Refusal(400, f"the drawn mask has shape {tuple(shape[::-1])}, the image {size}")
    wanted, limit = 4 * math.prod(shape), call.app.limits.array_bytes
    if wanted > limit:
        raise Refusal(413, f"the image has {wanted:,} bytes; the limit is {limit:,}")
    content = await call.unpacked(2 * wanted, lambda: _decompressed(parts["file"], wanted))  # and the session's copy
    return np.frombuffer(content, "<f4").reshape(shape[::-1]), metadata


def _decompressed(packed: memoryview, wanted: int) -> bytes:
    """Decompresses at most one byte more than expected, to limit memory use."""
    stream = zlib.decompressobj(wbits=31)
    try:
        content = stream.decompress(packed, wanted + 1)
    except zlib.error as error:
        raise Refusal(400, "the file is not a gzip stream or is damaged") from error
    if len(content) != wanted:
        raise Refusal(400, f"the file does not contain {wanted:,} bytes, as expected from the metadata (float32)")
    return content


def multipart(content_type: str, body: bytes | bytearray) -> dict[str, memoryview]:
    """The parts of a form, by name, without copies.

    Raises:
        Refusal: not a form, a part whose head is too long, or too many parts (400).
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if header.get_content_type() != "multipart/form-data" or not boundary:
        raise Refusal(400, "the request must be a form (multipart/form-data)")
    edge = b"--" + boundary.encode("latin-1", "replace")
    found: dict[str, memoryview] = {}
    start = 0 if body.startswith(edge) else body.find(b"\r\n" + edge) + 2
    for _ in range(PARTS + 1):  # the last time finds the end
        if not body.startswith(edge, start) or body.startswith(edge + b"--", start):
            return found
        end = body.find(b"\r\n" + edge, start)
        end = len(body) if end < 0 else end
        middle = body.find(b"\r\n\r\n", start, min(start + HEAD, end))
        if middle < 0:
            raise Refusal(400, f"a part of the form has no head, or one of more than {HEAD} bytes")
        for word in bytes(body[start:middle]).replace(b"\r\n", b";").split(b";"):
            name, _, value = word.strip().partition(b"=")
            if name == b"name":
                found[value.strip(b'"').decode("utf-8", "replace")] = memoryview(body)[middle + 4 : end]
        start = end + 2
    raise Refusal(400, f"the form has more than {PARTS} parts")


ROUTES = [
    route("GET", "/status", status, "none", keyed=False),
    route("GET", "/start_session", start_session, "none"),
    route("GET", "/end_session/{token}", end_session, "none"),
    route("POST", "/upload_raw/{token}", upload_raw, large=True, claims=True, opens=True),
    route("GET", "/process_point_interaction/{token}", process_point),
    route("POST", "/process_scribble_interaction/{token}", process_scribble, large=True),
    route("POST", "/process_lasso_interaction/{token}", process_lasso, large=True),
    route("GET", "/reset_interactions/{token}", reset_interactions),
]
