"""The server's own page and its routes (/api/...). World positions are RAS mm, voxel positions i, j, k of the file."""

from __future__ import annotations

import json
import math
import re
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnsam3d import __version__
from nnsam3d.errors import UserError
from nnsam3d.geometry.stored import GZIP
from nnsam3d.prompts.formats import SUFFIXES
from nnsam3d.server.app import BINARY, App, Request, Response, Route
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.leases import Lease
from nnsam3d.server.refusal import Refusal

FOLDER = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
LIBRARY = "niivue.js"
NO_LIBRARY = b"""<!doctype html><title>nnsam3d</title><p>The server is running. Viewers can connect to this address.
<p>The page itself needs NiiVue, which this installation does not contain. In a checkout, install it with
<code>make page</code> (needs npm). Wheels already contain it."""


# ---------------------------------------------------------------------- files


def index(app: App, request: Request, lease: None) -> Response:
    app.label(request)  # report a wrong label in the address immediately
    if not (FOLDER / LIBRARY).is_file():
        return Response(NO_LIBRARY, TYPES[".html"])
    return Response((FOLDER / "index.html").read_bytes(), TYPES[".html"])


def static(app: App, request: Request, lease: None) -> Response:
    files = {path.name: path for path in FOLDER.iterdir() if path.suffix in TYPES} if FOLDER.is_dir() else {}
    if request.rest not in files:
        raise Refusal(404, "no such file")
    path = files[request.rest]
    return Response(path.read_bytes(), TYPES[path.suffix])


def image_file(app: App, request: Request, lease: Lease) -> Response:
    number = request.rest.partition("/")[0]
    files = lease.conversation.files
    if not number.isdigit() or len(number) > 4 or int(number) >= len(files):
        raise Refusal(404, "no such image")
    return Response(files[int(number)].read_bytes(), BINARY)


def mask_file(app: App, request: Request, lease: Lease) -> Response:
    return app.work_for(request, lease, lambda conversation: _file(conversation.session.save_segmentation, ".nii.gz"))


def prompt_file(app: App, request: Request, lease: Lease) -> Response:
    return app.work_for(request, lease, lambda conversation: _file(conversation.session.save_prompts, ".json"))


def _file(write: Callable[[Path], None], ending: str) -> Response:
    with tempfile.TemporaryDirectory(prefix="nnsam3d_") as folder:
        path = Path(folder) / f"file{ending}"
        write(path)
        return Response(path.read_bytes(), BINARY)


# ---------------------------------------------------------------------- clients and images


def claim(app: App, request: Request, lease: None) -> Response:
    made = app.leases.claim()
    channels = app.model.dataset_json.get("channel_names", app.model.dataset_json.get("modality", {}))
    return Response.of(
        lease_token=made.token,
        idle_timeout_seconds=app.leases.idle,
        liveness_timeout_seconds=app.leases.liveness,
        version=__version__,
        model={"name": app.model.folder.name, "labels": app.model.labels, "channels": list(channels.values())},
        folder=app.cases is not None,
        upload=app.model.num_channels == 1,
        saves=app.cases is not None and app.cases.output is not None,
    )


def release(app: App, request: Request, lease: None) -> Response:
    app.leases.release(request.token)
    return Response()


def heartbeat(app: App, request: Request, lease: Lease) -> Response:
    return Response.of(remaining_seconds=app.leases.remaining(lease))


def cases(app: App, request: Request, lease: Lease) -> Response:
    if app.cases is None:
        raise Refusal(404, "the server was started without --images")
    return Response(json.dumps(app.cases.overview()).encode())


def open_case(app: App, request: Request, lease: Lease) -> Response:
    if app.cases is None:
        raise Refusal(404, "the server was started without --images: open a file instead")
    case = request.json().get("case")
    files = app.cases.files(str(case))
    return app.work_for(request, lease, lambda conversation: _opened(app, lease, conversation, files, str(case)))


def upload(app: App, request: Request, lease: Lease) -> Response:
    app.check_one_channel()
    folder = tempfile.TemporaryDirectory(prefix="nnsam3d_")
    path, case = _stored(app, request, Path(folder.name))

    def job(conversation: Conversation) -> Response:
        response = _opened(app, lease, conversation, (path,), "", case)
        conversation.keeps = folder  # deleted with the conversation or when the next image is opened
        return response

    return app.work_for(request, lease, job)


def _opened(
    app: App, lease: Lease, conversation: Conversation, files: tuple[Path, ...], case: str, shown: str = ""
) -> Response:
    if app.model.reader_name == "NibabelIOWithReorient":
        raise Refusal(
            400,
            "the model's reader (NibabelIOWithReorient) reorients images, which the page does not support: use another "
            "viewer",
        )
    app.leases.make_room(sum(_voxels(file) for file in files) * 4, lease)
    conversation.open_files(files, case)
    session = conversation.session
    saved = app.cases.saved_mask(case) if app.cases is not None and case else None
    if saved is not None:  # or the next save would replace it by what is clicked now
        conversation.start_from(saved)
        conversation.change()  # what it contains counts in the volumes
    return Response.of(
        case=case or shown,
        shape=list(session.shape),
        spacing=list(session.spacing),
        channels=[file.name for file in files],
        remarks=list(session.remarks),
        saved=saved is not None,
        facts=_facts(conversation),
    )


def _facts(conversation: Conversation) -> dict[str, dict[str, float]]:
    return {name: {"ml": ml, "components": count} for name, (ml, count) in conversation.volumes().items()}


def _stored(app: App, request: Request, folder: Path) -> tuple[Path, str]:
    """Stores an uploaded file as <case>_0000 with its file ending, .nii.gz decompressed, and returns its path and case.

    Raises:
        Refusal: the file has another format or is damaged (400), or exceeds the size limit (413).
    """
    name, ending = _checked_name(request.query.get("name", ""))
    case, limit, content = name.removesuffix("_0000"), app.limits.array_bytes, request.body
    if ending == ".nii.gz" and content[:2] == GZIP:
        stream = zlib.decompressobj(wbits=31)
        try:
            content, ending = stream.decompress(content, limit + 1), ".nii"
        except zlib.error as error:
            raise Refusal(400, "the file is damaged: it cannot be decompressed") from error
        if not stream.eof and len(content) <= limit:
            raise Refusal(400, "the file is truncated")
    path = folder / f"{case}_0000{ending}"
    path.write_bytes(content[: limit + 1])
    if len(content) > limit or 4 * _voxels(path) > limit:
        raise Refusal(413, f"the image needs more than the limit of {limit / 2**20:,.0f} MiB")
    return path, case


def _voxels(file: Path) -> int:
    """Number of voxels according to the header. 0 if it is unreadable: the reader reports that with more detail."""
    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    try:
        header.ReadImageInformation()
    except RuntimeError:
        return 0
    return math.prod(header.GetSize())


def _checked_name(name: str) -> tuple[str, str]:
    """A file name without characters that could leave the folder, and its ending."""
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
    if ending is None:
        raise Refusal(400, f"{name[:80]!r}: unsupported file type; supported are {', '.join(ENDINGS)}")
    return re.sub(r"[^\w.-]", "_", name[: -len(ending)]).lstrip(".")[:50] or "image", ending


# ---------------------------------------------------------------------- interactions


def click(app: App, request: Request, lease: Lease) -> Response:
    given = request.json()
    position, label, space = given.get("position"), given.get("label"), given.get("space", "ras")
    if not isinstance(position, list) or len(position) != 3 or not isinstance(label, (str, int)):
        raise Refusal(400, "a click must have a position of three numbers and a label")

    def job(conversation: Conversation) -> None:
        conversation.add([position], label, str(space))

    return _changed(app, request, lease, job, Conversation.withdraw)


def undo(app: App, request: Request, lease: Lease) -> Response:
    return _changed(app, request, lease, Conversation.undo, Conversation.redo)


def redo(app: App, request: Request, lease: Lease) -> Response:
    return _changed(app, request, lease, Conversation.redo, Conversation.undo)


def reset(app: App, request: Request, lease: Lease) -> Response:
    return _changed(app, request, lease, Conversation.reset)


def segmentation(app: App, request: Request, lease: Lease) -> Response:
    def job(conversation: Conversation) -> None:
        with tempfile.TemporaryDirectory(prefix="nnsam3d_") as folder:
            path, _ = _stored(app, request, Path(folder))
            try:
                conversation.start_from(path)
            except UserError as error:
                raise Refusal(400, str(error).replace(str(path), "the file")) from error

    return _changed(app, request, lease, job)


def clicks(app: App, request: Request, lease: Lease) -> Response:
    name = request.query.get("name", "")[-100:]
    ending = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), ".json")

    def job(conversation: Conversation) -> None:
        with tempfile.TemporaryDirectory(prefix="nnsam3d_") as folder:
            path = Path(folder) / f"clicks{ending}"
            path.write_bytes(request.body)
            try:
                conversation.load_prompts(path)
            except UserError as error:
                raise Refusal(400, str(error).replace(str(path), name)) from error

    return _changed(app, request, lease, job, Conversation.unload_prompts)


def _changed(
    app: App,
    request: Request,
    lease: Lease,
    job: Callable[[Conversation], Any],
    back: Callable[[Conversation], Any] = lambda conversation: None,
) -> Response:
    """Performs a step and returns the change; ``back`` reverts the step if its computation fails or is cancelled."""

    def whole(conversation: Conversation) -> Response:
        start = time.perf_counter()
        done = job(conversation)
        try:
            change = conversation.change()
        except Exception:
            if done is not False:
                back(conversation)
            raise
        return _message(conversation, change, time.perf_counter() - start)

    return app.work_for(request, lease, whole)


def _message(conversation: Conversation, change: Any, seconds: float) -> Response:
    session = conversation.session
    box, voxels = change or (None, np.zeros(0, np.uint8))
    clicks = session.clicks
    points_N3 = session.grid.index_to_world([one.position for one in clicks], "ras").tolist() if clicks else []
    values = {
        "box": None if box is None else [[side.start, side.stop] for side in reversed(box)],
        "clicks": [
            {"position": list(one.position), "ras": point, "label": one.label}
            for one, point in zip(clicks, points_N3, strict=True)
        ],
        "can_undo": conversation.can_undo,
        "can_redo": conversation.can_redo,
        "seconds": round(seconds, 3),
        "facts": _facts(conversation),
        "remarks": list(session.remarks),
    }
    text = json.dumps(values).encode()
    return Response(struct.pack("<I", len(text)) + text + voxels.astype(np.uint8).tobytes(), BINARY)


def save(app: App, request: Request, lease: Lease) -> Response:
    folder = app.cases
    if folder is None or not lease.conversation.case:
        raise Refusal(400, "only cases of the server's folder (--images) can be saved: download the mask instead")

    def job(conversation: Conversation) -> Response:
        written = folder.save(conversation.case, conversation.session)
        return Response.of(saved=written, next=folder.following(conversation.case))

    return app.work_for(request, lease, job)


def progress(app: App, request: Request, lease: Lease) -> Response:
    what, number = lease.conversation.doing or (None, 0)
    return Response.of(what=what, number=number)


def cancel(app: App, request: Request, lease: Lease) -> Response:
    lease.conversation.session.cancel()
    return Response()


ROUTES = {
    ("GET", "/"): Route(index, "none", keyed=False),
    ("GET", "/page/"): Route(static, "none", keyed=False),
    ("POST", "/api/claim"): Route(claim, "none"),
    ("POST", "/api/release"): Route(release, "none"),
    ("POST", "/api/heartbeat"): Route(heartbeat, "lives"),
    ("GET", "/api/cases"): Route(cases, "lives"),
    ("POST", "/api/open"): Route(open_case),
    ("POST", "/api/upload"): Route(upload, large=True),
    ("GET", "/api/image/"): Route(image_file),
    ("GET", "/api/mask/"): Route(mask_file),
    ("GET", "/api/prompts/"): Route(prompt_file),
    ("POST", "/api/click"): Route(click),
    ("POST", "/api/undo"): Route(undo),
    ("POST", "/api/redo"): Route(redo),
    ("POST", "/api/reset"): Route(reset),
    ("POST", "/api/segmentation"): Route(segmentation, large=True),
    ("POST", "/api/clicks"): Route(clicks),
    ("POST", "/api/save"): Route(save),
    ("GET", "/api/progress"): Route(progress, "looks"),
    ("POST", "/api/cancel"): Route(cancel, "lives"),
}
