"""The array format of nnInteractive's protocol ("NNIA").

Little-endian: ``b"NNIA"``, u8 version 1, u8 codec, u8 number of axes, u8 length of the dtype's name, the name, an i64
length for each axis, u32 number of chunks; then for each chunk u64 length of its content, u64 length of its blosc2
frame, and the frame. The concatenated contents of the chunks are the array in C order.
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
CODECS = (1, 2)  # ZSTD, LZ4
KINDS = (
    "bool",
    "float16",
    "float32",
    "float64",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
)
MAX_AXES = 4
CHUNK = 2**30  # bytes
MAX_CHUNKS = 1024


@dataclass(frozen=True)
class ArrayHeader:
    """Describes the array before anything is decompressed."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: int
    end: int  # of the header: offset of the first chunk

    @property
    def nbytes(self) -> int:
        return int(self.dtype.itemsize * math.prod(self.shape))


def read_header(data: bytes | bytearray, limit: int) -> ArrayHeader:
    """Reads the header of an encoded array.

    Args:
        limit: maximum size of the array in bytes.

    Raises:
        Refusal: the header is invalid (400), or the array is larger than the limit (413).
    """
    try:
        version, codec, axes, length = struct.unpack_from("<4B", data, len(MAGIC))
        place = len(MAGIC) + 4
        name = bytes(data[place : place + length]).decode("ascii")
        shape = struct.unpack_from(f"<{axes}q", data, place + length)
        (chunks,) = struct.unpack_from("<I", data, place + length + 8 * axes)
    except (struct.error, UnicodeDecodeError) as error:
        raise Refusal(400, "the header of the array is truncated or damaged") from error
    if data[: len(MAGIC)] != MAGIC or version != VERSION:
        raise Refusal(400, "the body is not an array in the protocol's format (NNIA, version 1)")
    if codec not in CODECS or name not in KINDS:
        raise Refusal(400, f"unsupported array: type {name!r}, codec {codec}")
    if not 1 <= axes <= MAX_AXES or min(shape) < 1:
        raise Refusal(400, f"unsupported array shape {shape}")
    header = ArrayHeader(np.dtype(name).newbyteorder("<"), shape, chunks, place + length + 8 * axes + 4)
    if header.nbytes > limit:
        raise Refusal(413, f"the array has {header.nbytes / 2**20:,.0f} MiB; the limit is {limit / 2**20:,.0f} MiB")
    if not 1 <= chunks <= MAX_CHUNKS:
        raise Refusal(400, f"unsupported number of chunks: {chunks}")
    return header


def unpack(data: bytes | bytearray, limit: int) -> NDArray[Any]:
    """Decodes an array. Needs its size in memory, twice if it consists of several chunks.

    Raises:
        Refusal: see :func:`read_header`; also if the chunks do not match the header.
    """
    import blosc2  # imported late: a dependency of nnU-Net that takes half a second to import

    header, view = read_header(data, limit), memoryview(data)
    parts: list[bytes] = []
    place, filled = header.end, 0
    for _ in range(header.chunks):
        try:
            raw, packed = struct.unpack_from("<2Q", data, place)
        except struct.error as error:
            raise Refusal(400, "the array is truncated") from error
        frame = bytes(view[place + 16 : place + 16 + packed])
        place += 16 + packed
        if len(frame) != packed or filled + raw > header.nbytes:
            raise Refusal(400, "the chunks of the array do not match its shape")
        try:
            # the frame also states the size of its content: check it before memory is allocated for it
            fits = blosc2.get_cbuffer_sizes(frame)[:2] == (raw, len(frame))
            content: bytes = blosc2.decompress2(frame) if fits else b""
        except Exception as error:  # blosc2 raises errors of many types
            raise Refusal(400, "a chunk of the array cannot be decompressed") from error
        if not fits or len(content) != raw:
            raise Refusal(400, "a chunk of the array is damaged")
        parts.append(content)
        filled += raw
    if filled != header.nbytes or place != len(data):
        raise Refusal(400, "the chunks of the array do not match its shape")
    array: NDArray[Any] = np.frombuffer(b"".join(parts), header.dtype).reshape(header.shape)
    return array


def pack(array: NDArray[Any]) -> bytes:
    """Encodes an array."""
    import blosc2

    name = array.dtype.name
    content = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).view(np.uint8).reshape(-1)
    parts = [MAGIC, struct.pack("<4B", VERSION, 1, array.ndim, len(name)), name.encode("ascii")]
    parts.append(struct.pack(f"<{array.ndim}q", *array.shape))
    starts = range(0, max(1, len(content)), CHUNK)
    parts.append(struct.pack("<I", len(starts)))
    for start in starts:
        raw = content[start : start + CHUNK].tobytes()
        # blosc2 fails on buffers of zeros if the type size is not given
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
