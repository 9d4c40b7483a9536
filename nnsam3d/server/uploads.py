"""Uploaded image files: checked on their bytes, then stored with a clean header for the model's reader."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.geometry.declared import HEAD
from nnsam3d.geometry.frames import itk_header
from nnsam3d.geometry.standalone import Declared, check_contained, declared
from nnsam3d.geometry.stored import GZIP
from nnsam3d.server.call import Call
from nnsam3d.server.refusal import Refusal

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
PIECE = 2**22  # bytes decompressed at a time
READING = 8  # bytes per voxel while a reader converts an image to float32


async def stored(call: Call, folder: Path) -> tuple[Path, str]:
    """Stores the file in a request's body as <case>_0000 with its file ending; .nii.gz is stored decompressed.

    The memory that reading it takes is reserved until the request has been answered.

    Returns:
        The path, and the name of the case.

    Raises:
        Refusal: an unsupported format (400), a file that names others, is truncated or damaged (400), or one larger
            than the limit (413).
    """
    name = call.query.get("name", "")[-200:]
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), None)
    if ending is None:
        raise Refusal(400, f"{name[:80]!r}: unsupported file type; supported are {', '.join(ENDINGS)}")
    # without characters that could leave the folder
    case = re.sub(r"[^\w.-]", "_", name[: -len(ending)]).lstrip(".")[:50] or "image"
    packed = ending == ".nii.gz" and call.body[:2] == GZIP
    head = _unpacked_head(call.body) if packed else bytes(call.body[:HEAD])
    try:
        found = declared(head, ending, name)
        check_contained(found, len(call.body), name if packed else case)
    except UserError as error:
        raise Refusal(400, str(error)) from error
    voxels, limit = math.prod(found.shape), call.app.limits.array_bytes
    if max(found.nbytes, 4 * voxels) > limit:
        raise Refusal(413, f"the image needs more than the limit of {limit / 2**20:,.0f} MiB")
    path = folder / f"{case.removesuffix('_0000')}_0000{'.nii' if packed else ending}"
    await call.unpacked(READING * voxels, lambda: _write(path, call.body, found, limit if packed else 0))
    return path, case.removesuffix("_0000")


def _unpacked_head(body: bytearray) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        head = stream.decompress(memoryview(body)[: 2 * HEAD], HEAD)
    except zlib.error as error:
        raise Refusal(400, "the file is damaged: it cannot be decompressed") from error
    if len(head) < 352 and not stream.eof:
        raise Refusal(400, "the file is truncated")
    return head


def _write(path: Path, body: bytearray, found: Declared, limit: int) -> None:
    """Writes the clean header and the voxels, and nothing that follows them.

    Args:
        limit: of the decompressed bytes; 0: the body is not compressed as a whole.
    """
    with path.open("wb") as file:
        file.write(found.header)
        if not limit:
            file.write(memoryview(body)[found.start : None if found.packed else found.start + found.nbytes])
            return
        first, last, read = found.start, found.start + found.nbytes, 0
        for piece in _pieces(body):  # to its end, where the checksum is
            file.write(piece[max(0, first - read) : max(0, last - read)])
            read += len(piece)
            if read > limit:
                raise Refusal(413, f"the file contains more than the limit of {limit / 2**20:,.0f} MiB")
        if read < last:
            raise Refusal(400, "the file is truncated")


def _pieces(body: bytearray) -> Iterator[bytes]:
    """The content of a gzip stream; of several members, like its readers."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
            while piece := stream.read(PIECE):
                yield piece
    except EOFError as error:
        raise Refusal(400, "the file is truncated") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise Refusal(400, "the file is damaged: it cannot be decompressed") from error


def bytes_to_read(files: Sequence[Path]) -> int:
    """Memory that reading images takes, by their headers; 0 for unreadable ones, which their reader reports."""
    total = 0
    for file in files:
        with contextlib.suppress(RuntimeError):
            total += READING * math.prod(itk_header(file).GetSize())
    return total
