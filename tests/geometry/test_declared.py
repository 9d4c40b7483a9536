"""What a header declares against the bytes that are there: refused before a reader allocates anything."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.geometry import declared
from nnsam3d.geometry.frames import itk_header
from nnsam3d.geometry.label_files import stored_slices
from nnsam3d.geometry.stored import check_stored, decompressed

RNG = np.random.default_rng(0)
KINDS = (np.uint8, np.int16, np.float32, np.float64)


def check(path: Path) -> None:
    with decompressed(str(path)) as file:
        check_stored(file, str(path))


def image(kind: type = np.int16, values: np.ndarray | None = None) -> sitk.Image:
    array = RNG.integers(0, 100, (8, 9, 10)) if values is None else values
    return sitk.GetImageFromArray(array.astype(kind))


META = "ObjectType = Image\nNDims = 3\nDimSize = {size}\nElementType = MET_SHORT\nElementSpacing = 1 1 1\n{more}"
NRRD = "NRRD0004\ntype: int16\ndimension: 3\nsizes: {size}\nendian: little\nencoding: {encoding}\n{more}\n"
HUGE = "700 700 1000"
LONG = "x" * 2000


def write(path: Path, header: str, data: bytes = b"", **fields: str) -> Path:
    path.write_bytes(header.format(**fields).encode() + data)
    return path


def nifti(folder: Path) -> bytes:
    sitk.WriteImage(image(), str(folder / "small.nii"))
    header = bytearray((folder / "small.nii").read_bytes()[:352])
    header[42:48] = np.array([700, 700, 1000], "<i2").tobytes()
    return bytes(header) + b"\0" * 48


LYING = {
    "a.mha": (META, "ElementDataFile = LOCAL\n", ""),
    "packed.mha": (META, "CompressedData = True\nElementDataFile = LOCAL\n", ""),
    "a.mhd": (META, "ElementDataFile = a.raw\n", ""),
    "list.mhd": (META, "ElementDataFile = LIST\n" + "a.raw\n" * 3, ""),
    "a.nrrd": (NRRD, "", "raw"),
    "packed.nrrd": (NRRD, "", "gzip"),
    "text.nrrd": (NRRD, "", "ascii"),
    "a.nhdr": (NRRD, "data file: a.raw\n", "raw"),
}
"""Headers, the field that names their data, and an encoding."""


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", *LYING])
def test_a_header_of_a_few_bytes_that_declares_gigabytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (tmp_path / "a.raw").write_bytes(b"\0" * 60)
    if name in LYING:
        header, more, encoding = LYING[name]
        write(path, header, b"" if "a.raw" in more else b"\0" * 60, size=HUGE, more=more, encoding=encoding)
    else:
        path.write_bytes(gzip.compress(nifti(tmp_path)) if name.endswith(".gz") else nifti(tmp_path))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=rf"{name}.*truncated or damaged"):
            check(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".nhdr", ".hdr", ".gipl", ".vtk"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_writers_write_passes(tmp_path: Path, ending: str, packed: bool, kind: type) -> None:
    """Also one value in every voxel, which compresses as well as anything can."""
    for name, values in (("noise", None), ("constant", np.full((40, 100, 100), 7))):
        path = tmp_path / f"{name}{ending}"
        sitk.WriteImage(image(kind, values), str(path), packed)
        check(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd", ".nhdr"])
def test_a_single_missing_byte_is_found(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"case{ending}"
    sitk.WriteImage(image(), str(path))
    data = path.with_suffix(".raw") if ending in (".mhd", ".nhdr") else path
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(UserError, match="1 bytes are missing"):
        check(path)


def test_slices_in_files_of_their_own(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"slice{number:02d}.raw").write_bytes(b"\0" * 2 * 30)
    nrrd = {"size": "5 6 4", "encoding": "raw"}
    check(write(tmp_path / "p.nhdr", NRRD, more="data file: slice%02d.raw 0 3 1\n", **nrrd))
    listed = "data file: LIST\n" + "".join(f"slice{number:02d}.raw\n" for number in range(4))
    path = tmp_path / "l.nhdr"
    path.write_text(NRRD.format(more="", **nrrd).rstrip("\n") + "\n" + listed)
    check(path)
    write(path, META, size="5 6 4", more="ElementDataFile = LIST\n" + listed.partition("\n")[2])
    path.rename(tmp_path / "l.mhd")
    check(tmp_path / "l.mhd")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_a_data_file_that_is_a_pipe_is_not_opened(tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / "pipe.raw")
    if ending == ".mhd":
        path = write(tmp_path / "case.mhd", META, size="5 6 4", more="ElementDataFile = pipe.raw\n")
    else:
        path = write(tmp_path / "case.nhdr", NRRD, size="5 6 4", encoding="raw", more="data file: pipe.raw\n")
    with pytest.raises(UserError, match="not a regular file"):
        check(path)


def test_more_voxels_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "case.nii"
    sitk.WriteImage(image(), str(path))
    check(path)
    monkeypatch.setattr(declared, "memory_bytes", lambda: 1000)
    with pytest.raises(UserError, match=r"case\.nii: 10 x 9 x 8 voxels take .* GB of memory"):
        check(path)


@pytest.mark.parametrize("line", [LONG, f"foo: {LONG}", f"foo: {LONG}:=y", f"units: {LONG}"])
def test_a_line_at_which_itk_crashes_is_refused(tmp_path: Path, line: str) -> None:
    """In this process: without the check it would end here."""
    path = write(tmp_path / "case.nrrd", NRRD, bytes(480), size="5 6 4", encoding="raw", more=f"{line}\n")
    with pytest.raises(UserError, match=r"case\.nrrd: .* a line of its header is too long: (x|foo|units)"):
        check(path)
    with pytest.raises(RuntimeError, match="too long"):
        itk_header(path)
    with pytest.raises(RuntimeError, match="too long"):
        stored_slices(path)


@pytest.mark.parametrize("line", [f"a:={LONG}", f"# {LONG}", f"content: {LONG}"])
def test_comments_and_values_of_any_length(tmp_path: Path, line: str) -> None:
    check(write(tmp_path / "case.nrrd", NRRD, bytes(480), size="5 6 4", encoding="raw", more=f"{line}\n"))
