"""Image files that come from strangers: only such as contain their voxels themselves.

Headers of MetaImage and NRRD can name other files, and readers open those with the rights of their process. An uploaded
file is therefore checked on its bytes, before any reader sees it, and its header is written anew with the known fields
only. The size that the header declares is compared with the size of the file, before anything is allocated for it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.geometry.declared import DEFLATE, HEAD, head_of

NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"  # one way to match: no backtracking
NUMBERS = rf"{NUMBER}(?: +{NUMBER})*"
WORDS = r"[-\w .,()+\"%?]*"
# With fewer values, MetaIO would take the next line, ElementDataFile, for one of them, and the voxels for more header.
VECTORS = ("Offset", "Position", "Origin", "CenterOfRotation", "ElementSpacing", "ElementSize", "DimSize")
MATRICES = ("TransformMatrix", "Rotation", "Orientation")
META_FIELDS = {
    "ObjectType": "Image",
    "NDims": "[1-4]",
    **dict.fromkeys(("BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData"), "(?i:true|false)"),
    "BinaryData": "(?i:true)",
    "CompressedDataSize": "[0-9]+",
    **dict.fromkeys((*MATRICES, *VECTORS), NUMBERS),
    "AnatomicalOrientation": r"[A-Za-z?]+",
    "DimSize": "[0-9 ]+",
    "ElementNumberOfChannels": "[0-9]+",
    "ElementType": "MET_[A-Z_]+",
    "ElementDataFile": "LOCAL",
}
META_TYPES = {
    "MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4, "MET_LONG": 4,
    "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8,
}  # fmt: skip
NRRD_FIELDS = {
    "dimension": "[1-4]",
    "type": r"[\w ]+",
    "sizes": "[0-9 ]+",
    "encoding": "(?i:raw|gzip|gz)",
    "endian": "(?i:little|big)",
    "space dimension": "[0-9]+",
    **dict.fromkeys(("space", "space directions", "space origin", "space units", "measurement frame"), WORDS),
    **dict.fromkeys(("kinds", "centers", "centerings", "spacings", "thicknesses", "units", "labels"), WORDS),
    **dict.fromkeys(("axis mins", "axismins", "axis maxs", "axismaxs"), WORDS),
    **dict.fromkeys(("line skip", "lineskip", "byte skip", "byteskip"), "0"),
}
NRRD_SEGMENT = re.compile(rb"Segment[0-9]{1,4}_(?:ID|Name|LabelValue|Layer):=[ !-\[\]-~]{0,200}")  # without escapes
NRRD_TYPES = (
    ({"signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"}, 1),
    ({"short", "short int", "signed short", "signed short int", "int16", "int16_t"}, 2),
    ({"ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"}, 2),
    ({"int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"}, 4),
    ({"longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"}, 8),
    ({"ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t", "double"}, 8),
)


def quoted(text: str) -> str:
    """A value of a header in a message."""
    return repr(text[:40])


HEADER_SIZE = re.compile(rb"(?:^|\n)[ \t]*HeaderSize[ \t]*[=:]([^\n]*)")


class NotStandalone(UserError):
    """A header that is malformed, names another file, or declares what the file cannot contain."""


@dataclass(frozen=True)
class Declared:
    """What the header of a file declares.

    Attributes:
        shape: voxels along x, y, z, ...
        values: numbers per voxel.
        nbytes: of all voxels, uncompressed.
        packed: whether they are compressed.
        start: of the voxels in the (decompressed) file, in bytes.
        header: to be written instead of the first ``start`` bytes.
        stored: bytes of the compressed voxels, if stated.
    """

    shape: tuple[int, ...]
    values: int
    nbytes: int
    packed: bool
    start: int
    header: bytes
    stored: int = 0


def declared(head: bytes, ending: str, name: str) -> Declared:
    """Reads the header of a file that contains its voxels itself.

    Args:
        head: the first ``HEAD`` bytes of the file; of .nii.gz, of its decompressed content.
        ending: .nii, .nii.gz, .nrrd or .mha.
        name: of the file, for messages.

    Raises:
        NotStandalone: the header is malformed or names another file.
    """
    read: dict[str, Callable[[bytes, str], Declared]] = {".nrrd": _nrrd, ".mha": _meta}
    found = read.get(ending, _nifti)(head, name)
    if not found.shape or min(found.shape) < 1 or found.values < 1 or math.prod(found.shape) >= 2**40:
        raise NotStandalone(f"{name}: the header declares an impossible size, {found.shape} voxels (x, y, z)")
    return found


def check_contained(found: Declared, size: int, name: str) -> None:
    """Compares what a header declares with what the file can contain.

    Args:
        found: what the header declares.
        size: of the file in bytes.
        name: of the file, for messages; with the ending .gz, the whole file is compressed.

    Raises:
        NotStandalone: the header declares more voxels than there can be.
    """
    whole = not found.packed and name.lower().endswith(".gz")
    available = size * DEFLATE if whole else (size - found.start) * (DEFLATE if found.packed else 1)
    if found.nbytes > available + (HEAD if found.packed or whole else 0) or found.stored > size:
        raise NotStandalone(
            f"{name}: the header declares {found.shape} voxels (x, y, z), {found.nbytes:,} bytes; a file of {size:,} "
            "bytes cannot contain them: it is truncated or damaged"
        )


def check_standalone(path: Path) -> None:
    """Checks a file on disk.

    Raises:
        NotStandalone: the header is malformed or names another file.
        UserError: the file cannot be read.
    """
    ending = path.suffix.lower()
    if ending not in (".nrrd", ".mha"):  # NIfTI names no other file in these formats; nnU-Net reads no others
        return
    try:
        if not path.is_file():
            raise NotStandalone(f"{path}: not a regular file")
        head = head_of(path)
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read: {error.strerror}") from error
    declared(head, ending, str(path))


def _fields(
    lines: list[bytes], separators: tuple[bytes, ...], allowed: Mapping[str, str], fold: bool, name: str
) -> dict[str, str]:
    """The known fields of a text header, in order; others describe the image and are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        place = min((found for sign in separators if (found := line.find(sign)) >= 0), default=-1)
        if place < 0:
            continue
        key, value = (part.decode("latin-1").strip() for part in (line[:place], line[place + 1 :]))
        key = key.lower() if fold else key
        plain = re.sub("[^a-z]", "", key.lower())
        if "datafile" in plain and (key, value) != ("ElementDataFile", "LOCAL"):
            raise NotStandalone(
                f"{name}: the header names another file as the one with the voxels. Only files that contain their "
                "voxels themselves are accepted: save the image as one file, for example as .nii.gz"
            )
        if key in fields:
            raise NotStandalone(f"{name}: the header contains {quoted(key)} twice")
        if key in allowed:
            if not re.fullmatch(allowed[key], value, re.ASCII):
                raise NotStandalone(f"{name}: unsupported value in the header: {quoted(key)} = {quoted(value)}")
            fields[key] = value
    return fields


def _meta(head: bytes, name: str) -> Declared:
    """MetaImage: lines ``Key = Value``, the last one ``ElementDataFile``, then the voxels."""
    end = re.search(rb"(?:^|\n)[ \t]*ElementDataFile[ \t]*[=:][^\n]*\n", head)
    if end is None:
        raise NotStandalone(f"{name} is not an image: it has no MetaImage header, or a damaged one")
    lines = head[: end.end()].splitlines()
    fields = _fields(lines, (b"=", b":"), META_FIELDS, False, name)
    missing = [key for key in ("NDims", "DimSize", "ElementType", "ElementDataFile") if key not in fields]
    if missing or fields["ElementType"] not in META_TYPES:
        raise NotStandalone(f"{name}: not a supported MetaImage file: {', '.join(missing) or fields['ElementType']}")
    shape = tuple(_whole(size, name) for size in fields["DimSize"].split())
    if len(shape) != int(fields["NDims"]):
        raise NotStandalone(f"{name}: the header declares {fields['NDims']} axes and {len(shape)} sizes")
    values = _whole(fields.get("ElementNumberOfChannels", "1"), name)
    for key, needed in [*((key, len(shape)) for key in VECTORS), *((key, len(shape) ** 2) for key in MATRICES)]:
        if key in fields and len(fields[key].split()) != needed:
            raise NotStandalone(f"{name}: {key} in the header must be {needed} numbers, not {quoted(fields[key])}")
    if (skipped := HEADER_SIZE.search(head[: end.end()])) and skipped[1].strip() != b"0":
        raise NotStandalone(
            f"{name}: unsupported value in the header: HeaderSize = {quoted(skipped[1].decode('latin-1'))}"
        )
    data = fields.pop("ElementDataFile")
    ordered = {"ObjectType": "Image", "NDims": fields.pop("NDims"), **fields, "ElementDataFile": data}
    header = "".join(f"{key} = {value}\n" for key, value in ordered.items()).encode("ascii")
    nbytes = math.prod(shape) * values * META_TYPES[fields["ElementType"]]
    packed = fields.get("CompressedData", "").lower() == "true"
    stored = _whole(fields.get("CompressedDataSize", "0"), name)
    return Declared(shape, values, nbytes, packed, end.end(), header, stored)


def _nrrd(head: bytes, name: str) -> Declared:
    """NRRD: a line with the version, lines ``field: value``, an empty line, then the voxels."""
    end = re.search(rb"\r?\n\r?\n", head)
    if not re.match(rb"NRRD000[1-5]\r?\n", head) or end is None:
        raise NotStandalone(f"{name} is not an image: it has no NRRD header, or a damaged one")
    given = [line for line in head[: end.start()].splitlines()[1:] if not line.startswith(b"#")]
    lines = [line for line in given if b":=" not in line]
    segments = b"".join(line + b"\n" for line in given if NRRD_SEGMENT.fullmatch(line))  # of 3D Slicer's segmentations
    fields = _fields(lines, (b":",), NRRD_FIELDS, True, name)
    missing = [key for key in ("dimension", "type", "sizes", "encoding") if key not in fields]
    if missing:
        raise NotStandalone(f"{name}: fields of the NRRD header are missing: {', '.join(missing)}")
    shape = tuple(_whole(size, name) for size in fields["sizes"].split())
    if len(shape) != int(fields["dimension"]):
        raise NotStandalone(f"{name}: the header declares {fields['dimension']} axes and {len(shape)} sizes")
    size = next((size for names, size in NRRD_TYPES if fields["type"].lower() in names), None)
    if size is None:
        raise NotStandalone(f"{name}: unsupported type in the NRRD header: {quoted(fields['type'])}")
    text = "".join(f"{key}: {value}\n" for key, value in fields.items())
    packed = fields["encoding"].lower() != "raw"
    header = head[:8] + b"\n" + text.encode("ascii") + segments + b"\n"
    return Declared(shape, 1, math.prod(shape) * size, packed, end.end(), header)


def _nifti(head: bytes, name: str) -> Declared:
    """NIfTI-1 and -2 in one file."""
    import nibabel  # late: this package must import with numpy alone

    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}  # type: ignore[arg-type]
    second = 540 in sizes  # as ITK decides it
    magic = head[4:8] if second else head[344:348] if 348 in sizes else b""
    if magic != (b"n+2\0" if second else b"n+1\0"):
        reason = "its voxels are in another file" if magic in (b"ni1\0", b"ni2\0") else "it has no NIfTI header"
        raise NotStandalone(f"{name} is not an image: {reason}")
    kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    try:
        header: Any = kind.from_fileobj(io.BytesIO(head), check=False)
        shape = tuple(int(n) for n in header.get_data_shape())
        size, start = header.get_data_dtype().itemsize, float(header["vox_offset"])
    except Exception as error:  # nibabel raises errors of many types
        raise NotStandalone(f"{name}: the NIfTI header is damaged ({error})") from error
    least = 544 if second else 352
    if not least <= start <= len(head) or start != int(start):  # the whole header, with its extensions, is passed on
        raise NotStandalone(f"{name}: the NIfTI header is damaged: its voxels begin at byte {start:g}")
    if any(n < 0 for n in shape) or not np.isfinite(header["pixdim"]).all():
        raise NotStandalone(f"{name}: the NIfTI header is damaged: shape {shape}, pixdim {header['pixdim'][1:4]}")
    return Declared(shape, 1, math.prod(shape) * size, False, int(start), head[: int(start)])


def _whole(text: str, name: str) -> int:
    if len(text) > 10:
        raise NotStandalone(f"{name}: the header declares an impossible size, {text[:40]}")
    return int(text)
