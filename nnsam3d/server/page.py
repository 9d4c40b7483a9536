"""The server's own page and its routes (/api/...). World positions are RAS mm, voxel positions i, j, k of the file."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount

from nnsam3d import __version__
from nnsam3d.errors import UserError
from nnsam3d.geometry.standalone import check_standalone
from nnsam3d.inference.given import files_version
from nnsam3d.prompts import MaskPrompt, Prompt
from nnsam3d.prompts.formats.detect import SUFFIXES
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.server.call import BINARY, Call, route
from nnsam3d.server.cases import Cases
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.refusal import Refusal
from nnsam3d.server.shown import change_to_show, shown_change, shown_state, shown_tools
from nnsam3d.server.static import FOLDER, PageFiles, index
from nnsam3d.server.uploads import bytes_to_read, stored

# ---------------------------------------------------------------------- files


async def image_file(call: Call) -> Response:
    number, files = call.request.path_params["number"], call.lease.conversation.files
    if number not in map(str, range(len(files))):
        raise Refusal(404, "no such image")
    return FileResponse(files[int(number)], media_type=BINARY)


async def mask_file(call: Call) -> Response:
    return await call.work(lambda conversation: _file(conversation.session.save_segmentation, "mask.nii.gz"))


async def prompt_file(call: Call) -> Response:
    # without the mask to start from, which is a temporary file of the server
    return await call.work(
        lambda conversation: _file(lambda path: conversation.session.save_prompts(path, masks=False), "prompts.json")
    )


def _file(write: Callable[[Path], None], name: str) -> Response:
    with tempfile.TemporaryDirectory(prefix="nnsam3d_") as folder:
        path = Path(folder) / name
        write(path)
        return Response(path.read_bytes(), media_type=BINARY)


# ---------------------------------------------------------------------- clients and images


async def claim(call: Call) -> Response:
    app = call.app
    made = app.leases.claim()
    channels = app.model.dataset_json.get("channel_names", app.model.dataset_json.get("modality", {}))
    return JSONResponse(
        {
            "lease_token": made.token,
            "idle_timeout_seconds": app.leases.idle,
            "liveness_timeout_seconds": app.leases.liveness,
            "version": __version__,
            "model": {
                "name": app.model.folder.name,
                "labels": app.model.labels,
                "channels": list(channels.values()),
                "kinds": list(app.model.codec.kinds),
            },
            "learns": app.learner is not None,
            "tools": shown_tools(),
            "folder": app.cases is not None,
            "upload": app.model.num_channels == 1,
            "saves": app.cases is not None and app.cases.output is not None,
        }
    )


async def release(call: Call) -> Response:
    call.app.leases.release(call.token)
    return JSONResponse({})


async def heartbeat(call: Call) -> Response:
    learner = call.app.learner
    learning = None if learner is None else {"now": learner.learns, "said": learner.said}
    return JSONResponse({"remaining_seconds": call.app.leases.remaining(call.lease), "learning": learning})


async def cases(call: Call) -> Response:
    return JSONResponse(await asyncio.to_thread(_folder(call).overview))


async def next_case(call: Call) -> Response:
    return JSONResponse({"next": await _following(call)})


async def _following(call: Call) -> str | None:
    elsewhere = call.app.leases.opened_by_others(call.lease)
    return await asyncio.to_thread(_folder(call).following, call.lease.conversation.case, elsewhere)


async def read_ahead(call: Call) -> Response:
    """Reads the images of the case that will probably be the next, where memory is free.

    It is a guess: if it fails, nothing is read, and opening the case says why.
    """
    lease, conversation = call.lease, call.lease.conversation
    nothing = JSONResponse({"next": None})
    async with lease.reading:
        case = await _following(call)
        if case is None:
            return nothing
        try:
            files, size, version = await asyncio.to_thread(_readable, _folder(call), case)
            if not await asyncio.to_thread(conversation.has_read, files):
                if call.app.leases.free < size:
                    return nothing
                await asyncio.to_thread(conversation.read_ahead, files, size)
        except (UserError, Refusal):
            return nothing
    return JSONResponse({"next": case, "version": version, "file": files[0].name})


async def file_ahead(call: Call) -> Response:
    files = call.lease.conversation.ahead_files
    if not files or Path(files[0]).name != call.request.path_params["name"]:
        raise Refusal(404, "this image was not read ahead")
    return FileResponse(files[0], media_type=BINARY)


def _readable(folder: Cases, case: str) -> tuple[tuple[Path, ...], int, str]:
    """The images of a case, which name no other files; the memory that reading them takes; and their version."""
    files = folder.files(case)
    for file in files:
        check_standalone(file)
    return files, bytes_to_read(files), files_version(files)


async def open_case(call: Call) -> Response:
    folder, case = _folder(call), str(call.json().get("case"))
    saved = call.json().get("saved") is True
    files, size, version = await asyncio.to_thread(_readable, folder, case)

    def job(conversation: Conversation) -> Response:
        # what was saved takes the place of the client's own draft, never of somebody else's, which is newer
        theirs = conversation.case == case and folder.has_newer_draft(conversation)
        conversation.open_files(files, case)
        folder.reopen(case, conversation, draft=not saved or theirs)
        return _opened(call, conversation, case, version)

    async with call.lease.reading:  # which may be this case
        is_read = await asyncio.to_thread(call.lease.conversation.has_read, files)
    await call.reserve(0 if is_read else size)
    return await call.step(job)


async def upload(call: Call) -> Response:
    call.app.check_one_channel()
    _check_reader(call)
    folder = tempfile.TemporaryDirectory(prefix="nnsam3d_")
    path, case = await stored(call, Path(folder.name))

    def job(conversation: Conversation) -> Response:
        _hiding(path, call.query.get("name", "the file"), lambda: conversation.open_files((path,), ""))
        conversation.keeps = folder  # deleted with the conversation or when the next image is opened
        return _opened(call, conversation, case)

    return await call.step(job)


def _folder(call: Call) -> Cases:
    if call.app.cases is None:
        raise Refusal(404, "the server was started without --images: open a file instead")
    _check_reader(call)
    return call.app.cases


def _check_reader(call: Call) -> None:
    if call.app.model.reader_name == "NibabelIOWithReorient":
        raise Refusal(
            400,
            "the model's reader (NibabelIOWithReorient) reorients images, which the page does not support: use another "
            "viewer",
        )


def _opened(call: Call, conversation: Conversation, case: str, version: str = "") -> Response:
    session = conversation.session
    change_to_show(conversation)
    return JSONResponse(
        {
            "case": case,
            "shape": list(session.shape),
            "spacing": list(session.spacing),
            "channels": [file.name for file in conversation.files],
            "automatic": not conversation.model.class_agnostic,
            "saved": bool(conversation.version),
            "version": version,
            **({} if call.app.cases is None or not conversation.case else call.app.cases.row(conversation.case)),
            **shown_state(call, conversation),
        }
    )


def _hiding(path: Path, name: str, action: Callable[[], Any]) -> None:
    """Performs an action on a temporary file, whose path must not be shown."""
    try:
        action()
    except UserError as error:
        raise Refusal(400, str(error).replace(str(path), name).replace(path.name, name)) from error


# ---------------------------------------------------------------------- interactions


async def prompt(call: Call) -> Response:
    """A prompt of any kind but a mask, as in a prompt file, with "space" and "replace" beside its own keys."""
    given = call.json()
    space, instead = str(given.pop("space", "ras")), bool(given.pop("replace", False))
    made = _prompt(given)

    def job(conversation: Conversation) -> None:
        (conversation.replace_last if instead else conversation.session.add)([made], space)

    return await _changed(call, job)


def _prompt(given: dict[str, Any]) -> Prompt:
    """Raises Refusal (400), PromptError."""
    drawn = {name: kind for name, kind in KINDS.items() if name != MaskPrompt.kind}
    kind = drawn.get(str(given.get("type")))
    if kind is None:
        raise Refusal(400, f"a prompt must have a type: {', '.join(drawn)}")
    missing = [key for key in kind.keys if key not in given and key not in kind.optional]
    if missing:
        raise Refusal(400, f"a prompt of type {kind.kind} must have {' and '.join(missing)}")
    return kind.parse({key: given[key] for key in kind.keys if key in given})


async def remove(call: Call) -> Response:
    number = _number(call.json())
    return await _changed(call, lambda conversation: conversation.session.replace(number, ()))


async def replace(call: Call) -> Response:
    """Another prompt in the place of one: as :func:`prompt`, with its number."""
    given = call.json()
    number, space = _number(given), str(given.get("space", "ras"))
    made = _prompt({key: value for key, value in given.items() if key not in ("number", "space")})
    return await _changed(call, lambda conversation: conversation.session.replace(number, [made], space))


def _number(given: dict[str, Any]) -> int:
    number = given.get("number")
    if isinstance(number, bool) or not isinstance(number, int):
        raise Refusal(400, "the number of a prompt must be a whole number, from 0")
    return number


async def segmentation(call: Call) -> Response:
    with tempfile.TemporaryDirectory(prefix="nnsam3d_") as folder:
        path, _ = await stored(call, Path(folder))

        def job(conversation: Conversation) -> None:
            _hiding(path, call.query.get("name", "the file"), lambda: conversation.start_from(path))
            path.unlink()  # or the draft would name it, which is deleted in a moment, and keep no copy

        return await _changed(call, job)


async def load_prompts(call: Call) -> Response:
    name = call.query.get("name", "the file")[-100:]
    ending = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), ".json")
    with tempfile.TemporaryDirectory(prefix="nnsam3d_") as folder:
        path = Path(folder) / f"prompts{ending}"
        path.write_bytes(call.body)
        return await _changed(call, lambda conversation: _hiding(path, name, lambda: conversation.load_prompts(path)))


def _step(job: Callable[[Conversation], Any]) -> Callable[[Call], Awaitable[Response]]:
    """What serves a step that takes no values."""
    return lambda call: _changed(call, job)


async def _changed(call: Call, job: Callable[[Conversation], Any]) -> Response:
    """Performs a step and returns the change; if it fails or is cancelled, everything is as before."""

    def whole(conversation: Conversation) -> Response:
        start = time.perf_counter()
        job(conversation)
        change_to_show(conversation)  # what fails, is cancelled or cannot be shown is no draft
        if call.app.cases is not None:
            call.app.cases.keep_draft(conversation)
        conversation.is_worked_on()
        return shown_change(call, conversation, time.perf_counter() - start)

    return await call.step(whole)


async def save(call: Call) -> Response:
    folder, lease = call.app.cases, call.lease
    if folder is None or not lease.conversation.case:
        raise Refusal(400, "only cases of the server's folder (--images) can be saved: download the mask instead")
    overwrite = call.query.get("overwrite", "") == "1"
    annotator = str(call.json().get("annotator", ""))[:100]

    def job(conversation: Conversation) -> Response:
        written = folder.save(conversation, overwrite, annotator)
        if call.app.learner is not None:
            call.app.learner.case_saved()
        return JSONResponse({"saved": written})

    return await call.work(job)


async def note(call: Call) -> Response:
    """A mark, a flag or a comment for the case that is open."""
    folder, case = _folder(call), call.lease.conversation.case
    if folder.journal is None or not case:
        raise Refusal(400, "only cases that can be saved (--output) have notes")
    given = call.json()
    kinds = {"mark": str, "comment": str, "flagged": bool}
    if not given or not all(isinstance(value, kinds.get(key, ())) for key, value in given.items()):
        raise Refusal(400, "a note has the keys mark (text), comment (text) and flagged (true or false)")
    await asyncio.to_thread(folder.journal.change, case, **given)
    return JSONResponse(await asyncio.to_thread(folder.row, case))


async def progress(call: Call) -> Response:
    place = call.app.worker.place(call.lease.job) if call.lease.job is not None else 0
    what, number = ("waiting", place) if place else call.lease.conversation.doing or (None, 0)
    return JSONResponse({"what": what, "number": number})


async def cancel(call: Call) -> Response:
    call.lease.conversation.session.cancel()
    if call.lease.job is not None:
        call.lease.job.cancel()  # if it has not begun
    return JSONResponse({})


ROUTES = [
    route("GET", "/", index, "none", keyed=False),
    Mount("/page", GZipMiddleware(PageFiles(directory=FOLDER))),
    route("POST", "/api/claim", claim, "none"),
    route("POST", "/api/release", release, "none"),
    route("POST", "/api/heartbeat", heartbeat, "lives"),
    route("GET", "/api/cases", cases, "lives"),
    route("GET", "/api/next", next_case),
    route("POST", "/api/ahead", read_ahead, "looks"),
    route("GET", "/api/ahead/{name:path}", file_ahead, "looks"),
    route("POST", "/api/open", open_case),
    route("POST", "/api/upload", upload, large=True),
    route("GET", "/api/image/{number}/{name:path}", image_file),
    route("GET", "/api/mask/{name:path}", mask_file),
    route("GET", "/api/prompts/{name:path}", prompt_file),
    route("POST", "/api/prompt", prompt),
    route("POST", "/api/remove", remove),
    route("POST", "/api/replace", replace),
    route("POST", "/api/undo", _step(lambda conversation: conversation.session.undo())),
    route("POST", "/api/redo", _step(lambda conversation: conversation.session.redo())),
    route("POST", "/api/reset", _step(Conversation.reset)),
    route("POST", "/api/automatic", _step(lambda conversation: conversation.session.start_automatically())),
    route("POST", "/api/segmentation", segmentation, large=True),
    route("POST", "/api/prompts", load_prompts, large=True),
    route("POST", "/api/save", save),
    route("POST", "/api/note", note),
    route("GET", "/api/progress", progress, "looks"),
    route("POST", "/api/cancel", cancel, "lives"),
]
