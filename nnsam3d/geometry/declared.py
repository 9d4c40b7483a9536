"""Compares what an image's header declares with the bytes that are there, before a reader allocates anything.

A header of 400 bytes can declare gigabytes, which ITK would allocate and fill with zeros.
"""

from __future__ import annotations

import glob
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError

HEAD = 2**16  # bytes that are looked at; headers are shorter
DEFLATE = 1100.0  # the highest ratio of decompressed to compressed size: 1032, and its headers
BZIP2 = 2e6
NRRD = (".nrrd", ".nhdr")
LONGEST_FIELD = 800  # bytes of a line of an NRRD header, with these exceptions; ITK crashes at about 1000
ANY_LENGTH = re.compile(rb"#|(content|labels) ?:|[^:]*:=", re.IGNORECASE)  # comments, texts and key:=value
TEXT = 8.0  # a number takes at least one character and a separator
RATIOS = {
    **dict.fromkeys(("raw", "hex"), 1.0),
    **dict.fromkeys(("gz", "gzip"), DEFLATE),
    **dict.fromkeys(("bz2", "bzip2"), BZIP2),
    **dict.fromkeys(("txt", "text", "ascii"), TEXT),
}
CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Stored:
    """The bytes behind a header.

    Attributes:
        count: of all data files, without the header where its length is known.
        ratio: the most that a byte can become.
    """

    count: int
    ratio: float


def memory_bytes() -> int:
    """Main memory that a process of this machine or container can have."""
    limits = []
    for file in CGROUPS:
        try:
            limits.append(int(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows
        limits.append(2**40)
    return min(limits)


def check_data_files(file: str, name: str) -> Stored | None:
    """The bytes of a MetaImage or NRRD file and of the data files that its header names; None for other formats.

    Args:
        name: the original file name, for messages.

    Raises:
        UserError: a data file is not a regular file: reading a pipe would wait for ever. Or a line of an NRRD header is
            so long that ITK may crash (:func:`overlong_line`).
    """
    lower = file.lower()
    if lower.endswith((".mha", ".mhd")):
        return _meta_image(Path(file), name)
    if lower.endswith(NRRD):
        return _nrrd(Path(file), name)
    return None


def check_declared(header: Any, stored: Stored | None, file: str, name: str) -> None:
    """Refuse a header that declares more voxels than the file can contain, or than memory can hold.

    Args:
        header: SimpleITK's ImageFileReader after ReadImageInformation.
        stored: from :func:`check_data_files`; None: the file and those of the same name beside it, compressed or not.
        file, name: its name, and the original one for messages.

    Raises:
        UserError: so.
    """
    import SimpleITK as sitk  # late: this package must import with numpy alone

    kind = sitk.GetPixelIDValueAsString(header.GetPixelID()).lower()
    bits = re.search(r"(\d+)-bit", kind)
    if bits is None:
        return
    values = math.prod(header.GetSize()) * header.GetNumberOfComponents()
    declared = values * int(bits[1]) // 8 * (2 if "complex" in kind else 1)
    there = stored or Stored(_beside(Path(file)), 1.0 if file.lower().endswith(".nii") else DEFLATE)
    voxels = " x ".join(map(str, header.GetSize()))
    if declared > there.count * there.ratio:
        missing = f"{declared - there.count} bytes are missing" if there.ratio == 1.0 else "most of it is missing"
        raise UserError(
            f"{name}: the image cannot be read, it is truncated or damaged: its header declares {voxels} voxels, "
            f"{declared} bytes, and there are {there.count}: {missing}"
        )
    if 4 * values > (limit := memory_bytes()):
        raise UserError(
            f"{name}: {voxels} voxels take {4 * values / 1e9:.1f} GB of memory, and there are {limit / 1e9:.1f} GB: "
            "crop the image, or use a computer with more memory"
        )


def _beside(file: Path) -> int:
    """The file's size, and that of others with the same stem: .hdr and .img."""
    stem = file.name.partition(".")[0]
    own = {file, *file.parent.glob(f"{glob.escape(stem)}.*")} if file.suffix.lower() in (".hdr", ".img") else {file}
    return sum(path.stat().st_size for path in own if path.is_file())


def _meta_image(file: Path, name: str) -> Stored | None:
    head = head_of(file)
    fields: dict[str, str] = {}
    ends = 0
    for line in head.splitlines(keepends=True):
        key, separator, value = line.decode("latin-1").partition("=")
        ends += len(line)
        if separator:
            fields[key.strip().lower()] = value.strip()
        if key.strip().lower() == "elementdatafile":
            break
    named = fields.get("elementdatafile", "")
    if not named:
        return None  # left to the reader
    packed, text = (fields.get(key, "").lower() for key in ("compresseddata", "binarydata"))
    ratio = DEFLATE if packed.startswith("t") else TEXT if text.startswith("f") else 1.0
    if named.upper() == "LOCAL":
        return Stored(file.stat().st_size - ends, ratio)
    return _of_data_files(file, named, head[ends:], ratio, name)


def _nrrd(file: Path, name: str) -> Stored | None:
    head = head_of(file)
    found = re.search(rb"\r?\n\r?\n", head)
    text = head[: found.start()] if found else head
    if (line := overlong_line(text)) is not None:
        raise UserError(f"{name}: the image cannot be read, it is damaged: a line of its header is too long: {line}")
    fields = {
        key.strip().lower(): value.strip()
        for key, separator, value in (line.partition(":") for line in text.decode("latin-1").splitlines())
        if separator and not value.startswith("=")
    }
    ratio = RATIOS.get(fields.get("encoding", "").lower())
    if ratio is None:
        return None
    named = fields.get("data file", fields.get("datafile", ""))
    if not named:
        return Stored(file.stat().st_size - (found.end() if found else 0), ratio)
    listed = re.split(rb"data ?file:[^\n]*\n", text, maxsplit=1, flags=re.IGNORECASE)[-1]
    return _of_data_files(file, named, listed, ratio, name)


def _of_data_files(file: Path, named: str, following: bytes, ratio: float, name: str) -> Stored | None:
    """The data files that a header names: one, a list in the following lines, or a pattern like ``slice%03d.raw``."""
    if named.upper().startswith("LIST"):
        names = [line.strip() for line in following.decode("utf-8", "surrogateescape").splitlines() if line.strip()]
    elif "%" in named:
        pattern = re.sub(r"%0?\d*[du]", "*", glob.escape(named.split()[0]))
        names = [str(path) for path in file.parent.glob(pattern)] if not os.path.isabs(pattern) else []
    else:
        names = [named.encode("latin-1").decode("utf-8", "surrogateescape")]
    paths = [file.parent / one for one in names]
    for path in paths:
        if path.exists() and not path.is_file():
            raise UserError(f"{name}: its data file {path} is not a regular file: the image cannot be read")
    if not paths or not all(path.is_file() for path in paths):
        return None  # the reader names what is missing
    return Stored(sum(path.stat().st_size for path in paths), ratio)


def overlong_line(head: bytes) -> str | None:
    """The beginning of a line of an NRRD header that is longer than any field needs; None if there is none.

    At a line of about 1000 bytes that is no known field, or has a wrong value, ITK crashes, and the process with it.
    """
    for line in re.split(rb"\r?\n", re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]):
        if len(line) > LONGEST_FIELD and not ANY_LENGTH.match(line):
            return f"{line[:40].decode('latin-1')} ..."
    return None


def head_of(file: Path) -> bytes:
    """The first bytes of a file, with its header. Raises OSError."""
    with file.open("rb") as content:
        return content.read(HEAD)
