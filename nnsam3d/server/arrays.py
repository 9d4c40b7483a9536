"""Arrays on the wire, as nnInteractive's viewers send and expect them ("NNIA").

Little-endian: ``b"NNIA"``, u8 version 1, u8 codec, u8 number of axes, u8 length of the dtype's name, the name, an i64
for each axis, u32 number of chunks; then for each chunk u64 length of its content, u64 length of its blosc2 frame, and
the frame. The content of all chunks in a row is the array in C order.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.server.refusal import Refusal

MAGIC = b"NNIA"
VERSION = 1
CODECS = {1: "ZSTD", 2: "LZ4"}
KINDS = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
)
MAX_AXES = 4
CHUNK = 2**30  # bytes
MAX_CHUNKS = 1024


@dataclass(frozen=True)
class Header:
    """What the array will be, known before anything is decompressed."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    codec: int
    chunks: int
    end: int  # where the first chunk begins

    @property
    def nbytes(self) -> int:
        return int(self.dtype.itemsize * math.prod(self.shape))


def read_header(data: bytes, limit: int) -> Header:
    """The header of a message.

    Args:
        limit: bytes that the array may take.

    Raises:
        Refusal: no such message (400), or a larger array (413).
    """
    try:
        version, codec, axes, length = struct.unpack_from("<4B", data, len(MAGIC))
        place = len(MAGIC) + 4
        name = data[place : place + length].decode("ascii")
        shape = struct.unpack_from(f"<{axes}q", data, place + length)
        (chunks,) = struct.unpack_from("<I", data, place + length + 8 * axes)
    except (struct.error, UnicodeDecodeError) as error:
        raise Refusal(400, "the array's header is cut short or damaged") from error
    if data[: len(MAGIC)] != MAGIC or version != VERSION:
        raise Refusal(400, "the body is no array of the protocol (NNIA, version 1)")
    if codec not in CODECS or name not in KINDS:
        raise Refusal(400, f"an array of type {name!r}, packed with codec {codec}, is not known here")
    if not 1 <= axes <= MAX_AXES or min(shape) < 1:
        raise Refusal(400, f"an array of shape {shape} cannot be used")
    header = Header(np.dtype(name).newbyteorder("<"), shape, codec, chunks, place + length + 8 * axes + 4)
    if header.nbytes > limit:
        raise Refusal(413, f"an array of {header.nbytes / 2**20:,.0f} MiB; at most {limit / 2**20:,.0f} MiB are taken")
    if not 1 <= chunks <= MAX_CHUNKS:
        raise Refusal(400, f"an array in {chunks} chunks cannot be used")
    return header


def unpack(data: bytes, limit: int) -> NDArray[Any]:
    """The array of a message.

    Raises:
        Refusal: as :func:`read_header`, and for chunks that are not what the header says.
    """
    import blosc2  # late: a dependency of nnU-Net's that takes half a second to import

    header = read_header(data, limit)
    content = bytearray(header.nbytes)
    place, filled = header.end, 0
    for _ in range(header.chunks):
        try:
            raw, packed = struct.unpack_from("<2Q", data, place)
        except struct.error as error:
            raise Refusal(400, "the array is cut short") from error
        frame = data[place + 16 : place + 16 + packed]
        place += 16 + packed
        if len(frame) != packed or filled + raw > header.nbytes:
            raise Refusal(400, "the array's chunks do not fit its shape")
        content[filled : filled + raw] = _chunk(blosc2, frame, raw)
        filled += raw
    if filled != header.nbytes or place != len(data):
        raise Refusal(400, "the array's chunks do not fit its shape")
    array: NDArray[Any] = np.frombuffer(content, header.dtype).reshape(header.shape)
    return array


def _chunk(blosc2: Any, frame: bytes, raw: int) -> bytes:
    try:
        # the frame has its own idea of its content's size: it is looked at before memory is taken for it
        if blosc2.get_cbuffer_sizes(frame)[:2] != (raw, len(frame)):
            raise Refusal(400, "a chunk of the array is damaged")
        content: bytes = blosc2.decompress2(frame)
    except Refusal:
        raise
    except Exception as error:  # blosc2 has errors of its own
        raise Refusal(400, "a chunk of the array cannot be decompressed") from error
    if len(content) != raw:
        raise Refusal(400, "a chunk of the array is damaged")
    return content


def pack(array: NDArray[Any]) -> bytes:
    """The message of an array."""
    import blosc2

    name = array.dtype.name
    content = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).view(np.uint8).reshape(-1)
    parts = [MAGIC, struct.pack("<4B", VERSION, 1, array.ndim, len(name)), name.encode("ascii")]
    parts.append(struct.pack(f"<{array.ndim}q", *array.shape))
    starts = range(0, max(1, len(content)), CHUNK)
    parts.append(struct.pack("<I", len(starts)))
    for start in starts:
        raw = content[start : start + CHUNK].tobytes()
        # the type size is said: without it blosc2 fails on buffers of zeros
        frame = blosc2.compress2(
            raw,
            typesize=array.dtype.itemsize,
            codec=blosc2.Codec.ZSTD,
            clevel=1,
            filters=[blosc2.Filter.NOFILTER],
            filters_meta=[0],
        )
        parts += [struct.pack("<2Q", len(raw), len(frame)), frame]
    return b"".join(parts)
