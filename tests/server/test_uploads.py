"""Uploaded files: nothing is read but the upload itself, and nothing is allocated that it cannot contain."""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.inference.model import Model
from nnsam3d.server.arrays import pack
from nnsam3d.server.cases import Cases
from nnsam3d.server.temporary import own_temporary_folder

from .conftest import (
    GEOMETRIES,
    META,
    PATCH,
    SHAPE,
    SPACING,
    Gate,
    Reply,
    Running,
    Start,
    image_array,
    until,
    write_cases,
)
from .test_itksnap import FORM, form


def content_of(folder: Path, ending: str, packed: bool = False, array: np.ndarray | None = None) -> bytes:
    """The content of an oblique image file."""
    image = sitk.GetImageFromArray(image_array() if array is None else array)
    image.SetDirection(GEOMETRIES["oblique"])
    image.SetSpacing(SPACING[::-1])
    path = folder / f"image{ending}"
    sitk.WriteImage(image, str(path), packed)
    return path.read_bytes()


def labels_of(folder: Path, ending: str) -> bytes:
    """A label map of the same place."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:13, 15:25, 10:20] = 1
    return content_of(folder, ending, array=labels)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_honest_files_are_opened(running: Running, tmp_path: Path, ending: str, packed: bool) -> None:
    lease = running.claim()
    content = content_of(tmp_path, ending, packed)
    opened = running.ask("POST", f"/api/upload?name=x{ending}", content, lease)
    assert opened.status == 200, opened.body
    assert opened.json()["shape"] == list(SHAPE)
    assert opened.json()["spacing"] == pytest.approx([2.0, 1.0, 1.5])
    reply = running.ask("POST", f"/api/segmentation?name=y{ending}", labels_of(tmp_path, ending), lease)
    assert reply.status == 200, reply.body


def test_gzip_streams_of_several_members_and_bytes_behind_them(running: Running, tmp_path: Path) -> None:
    """As their readers do; a stream that is cut is still found."""
    plain = content_of(tmp_path, ".nii")
    lease = running.claim()
    members = gzip.compress(plain[:1000]) + gzip.compress(plain[1000:])
    for content, status in ((members, 200), (gzip.compress(plain) + bytes(100), 200), (members[:-20], 400)):
        assert running.ask("POST", "/api/upload?name=x.nii.gz", content, lease).status == status


def naming_others(folder: Path, target: Path) -> dict[str, bytes]:
    """Headers that name another file, in every way that a reader may understand."""
    mha, nrrd = content_of(folder, ".mha"), content_of(folder, ".nrrd")
    nifti = bytearray(content_of(folder, ".nii"))
    nifti[344:348] = b"ni1\0"
    local = b"ElementDataFile = LOCAL\n"
    start = mha.index(local)
    head, voxels = mha[:start], mha[start + len(local) :]
    name = str(target).encode()
    size = len(voxels)
    found = {
        "plain.mha": head + b"ElementDataFile = " + name + b"\n",
        "skip.mha": head + b"HeaderSize = %d\nElementDataFile = " % 10 + name + b"\n",
        "list.mha": head + b"ElementDataFile = LIST\n" + name + b"\n" * size,
        "pattern.mha": head + b"ElementDataFile = " + name + b"%d 1 1 1\n",
        "twice.mha": head + b"ElementDataFile = LOCAL\nElementDataFile = " + name + b"\n",
        "comment.mha": b"Comment = x\r" + head + b"ElementDataFile = " + name + b"\n" + local + voxels,
        "colon.mha": head + b"ElementDataFile : " + name + b"\n",
        "tight.mha": head + b"ElementDataFile=" + name + b"\n",
        "case.mha": head + b"elementdatafile = " + name + b"\n" + local + voxels,
        "space.mha": head + b" ElementDataFile = " + name + b" \n",
        "local.mha": head + b"ElementDataFile = local\n" + voxels,
        "relative.mha": head + b"ElementDataFile = ../../../../../.." + name + b"\n",
        "single.nii": bytes(nifti),
    }
    # too few numbers: MetaIO takes the next line for one of them, and the voxels for more header
    inside = (b"\nElementDataFile = " + name + b"\n").ljust(size)
    for field in (b"Origin", b"Position", b"CenterOfRotation", b"Offset", b"ElementSize", b"Rotation", b"Orientation"):
        others = b"".join(line + b"\n" for line in head.splitlines() if not line.startswith((field, b"Comment")))
        for number, few in enumerate((b".", b"0 0", b"0 0 .", b"0 0 0 0", b"-", b"1e", b"")):
            found[f"few_{field.decode()}_{number}.mha"] = others + field + b" = " + few + b"\n" + local + inside
    first, rest = nrrd.split(b"\n", 1)
    for number, field in enumerate(
        (b"data file: ", b"datafile: ", b"data file:", b"Data File: ", b"DATAFILE: ", b" data file: ", b"data  file: ")
    ):
        found[f"field{number}.nrrd"] = first + b"\n" + field + name + b"\n" + rest
    found["list.nrrd"] = first + b"\ndata file: LIST\n" + name + b"\n" + rest
    found["skip.nrrd"] = first + b"\nbyte skip: -1\n" + rest
    return found


@pytest.mark.parametrize("kind", ["file", "fifo", "missing"])
def test_headers_that_name_other_files(running: Running, tmp_path: Path, kind: str) -> None:
    """A1: refused before any reader sees them. A FIFO would hang it for ever."""
    target = tmp_path / "secret.raw"
    if kind == "file":
        target.write_bytes(b"SECRET" * 20_000)
    elif kind == "fifo":
        os.mkfifo(target)
    lease = running.claim()
    assert running.ask("POST", "/api/upload?name=x.mha", content_of(tmp_path, ".mha"), lease).status == 200
    for name, content in naming_others(tmp_path, target).items():
        for path in ("upload", "segmentation"):
            reply = running.ask("POST", f"/api/{path}?name={name}", content, lease)
            assert reply.status == 400, name
            assert b"SECRET" not in reply.body
            assert not re.search("SECRET|/tmp", reply.reason)
    for ending in (".mhd", ".nhdr", ".hdr", ".img", ".raw", ".png", ".dcm", ".pickle", ""):
        assert running.ask("POST", f"/api/upload?name=x{ending}", b"ElementDataFile = x", lease).status == 400


def test_nifti_versions_as_itk_tells_them_apart(running: Running, tmp_path: Path) -> None:
    """By the size of the header: the place of the other version's magic is free text."""
    lease = running.claim()
    content = bytearray(content_of(tmp_path, ".nii"))
    content[4:8] = b"n+2\0"
    assert running.ask("POST", "/api/upload?name=x.nii", bytes(content), lease).json()["shape"] == list(SHAPE)
    struct.pack_into("<i", content, 0, 540)
    assert running.ask("POST", "/api/upload?name=x.nii", bytes(content), lease).status == 400
    long = bytearray(content_of(tmp_path, ".nii"))
    struct.pack_into("<f", long, 108, 2**20)
    assert running.ask("POST", "/api/upload?name=x.nii", bytes(long) + bytes(2**21), lease).status == 400


def test_images_of_viewers_count_from_the_first_moment(running: Running) -> None:
    """Before anything asks for them; an image that is replaced is gone."""
    lease, size = running.viewer(), 4 * image_array().size
    for _ in range(3):
        running.ask("POST", "/set_image", pack(image_array()[None]), lease, META)
        assert running.app.leases.find(lease).conversation.image_bytes == size


def test_a_cancelled_upload_leaves_the_queue_with_its_array(running: Running) -> None:
    lease = running.claim()
    gate = Gate(running.app.worker)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(running.ask, "POST", "/set_image", pack(image_array()[None]), lease, META)
        until(lambda: running.app.worker.waiting)
        running.ask("POST", "/api/cancel", {}, lease)
        assert reply.result(60).status == 409
        assert not running.app.worker.waiting
    gate.over.set()


def test_numbers_of_any_length(running: Running) -> None:
    lease = running.viewer()
    meta = {"X-Meta": json.dumps({"image_properties": {"spacing": [10**400, 1, 1]}})}
    point = {"coordinates": [10**400, 0, 0]}
    assert running.ask("POST", "/add_point_interaction", point, lease).status == 400
    assert running.ask("POST", "/set_image", pack(image_array()[None]), lease, meta).status == 400
    assert running.ask("GET", f"/api/image/{'1' * 5000}/x", lease=lease).status == 404


def test_cases_of_the_server_are_read_with_the_same_care(start: Start, served_model: Model, tmp_path: Path) -> None:
    """A folder of images may have been filled by somebody else."""
    secret, other = tmp_path / "secret.raw", tmp_path / "b_0000.mha"
    secret.write_bytes(b"SECRET" * 20_000)
    other.write_bytes(naming_others(tmp_path, secret)["plain.mha"])
    cases = Cases(write_cases(tmp_path / "images", ("a",)), served_model)
    cases.files = lambda case: (other,)  # type: ignore[method-assign]
    running = start(cases=cases)
    reply = running.ask("POST", "/api/open", {"case": "b"}, running.claim())
    assert reply.status == 400
    assert "names another file" in reply.json()["detail"]
    assert b"SECRET" not in reply.body


def test_prompt_files_name_no_files_either(running: Running, tmp_path: Path) -> None:
    lease = running.claim()
    running.ask("POST", "/api/upload?name=x.nii", content_of(tmp_path, ".nii"), lease)
    labels = tmp_path / "labels.nii.gz"
    labels_of(tmp_path, ".nii.gz")
    prompts = {"nnsam3d_prompts": 2, "space": "voxel", "prompts": [{"type": "mask", "path": str(labels)}]}
    reply = running.ask("POST", "/api/prompts?name=x.json", json.dumps(prompts).encode(), lease)
    assert reply.status == 400
    assert not running.change("/api/undo", {}, lease)[0]["started"]


def header_only(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1)) -> dict[str, bytes]:
    """Headers of a few hundred bytes that declare large images."""
    sizes, steps = " ".join(map(str, shape)), " ".join(map(str, spacing))
    meta = f"ObjectType = Image\nNDims = 3\nElementSpacing = {steps}\nDimSize = {sizes}\nElementType = MET_SHORT\n"
    nrrd = f"NRRD0004\ntype: short\ndimension: 3\nsizes: {sizes}\nspacings: {steps}\nendian: little\n"
    nifti = bytearray(352)
    struct.pack_into("<i", nifti, 0, 348)
    struct.pack_into("<8h", nifti, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", nifti, 70, 4, 16)
    struct.pack_into("<8f", nifti, 76, 1, *spacing, 1, 1, 1, 1)
    struct.pack_into("<f", nifti, 108, 352)
    nifti[344:348] = b"n+1\0"
    return {
        "x.mha": (meta + "ElementDataFile = LOCAL\n").encode(),
        "packed.mha": (meta + "CompressedData = True\nElementDataFile = LOCAL\n").encode() + zlib.compress(bytes(100)),
        "x.nrrd": (nrrd + "encoding: raw\n\n").encode(),
        "packed.nrrd": (nrrd + "encoding: gzip\n\n").encode() + gzip.compress(bytes(100)),
        "x.nii": bytes(nifti),
        "x.nii.gz": gzip.compress(bytes(nifti)),
    }


def test_headers_that_declare_what_the_file_cannot_contain(running: Running) -> None:
    """A6: refused by size, without an allocation of that size."""
    lease = running.claim()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in header_only((700, 700, 1000)).items():
        assert len(content) < 500
        for path in ("upload", "segmentation"):
            assert running.ask("POST", f"/api/{path}?name={name}", content, lease).status in (400, 413)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def uploaded(running: Running, spacing: object) -> Reply:
    """What ITK-SNAP is told about an image with this spacing."""
    token = running.ask("GET", "/start_session").json()["session_id"]
    reply = running.ask("POST", f"/upload_raw/{token}", form(image_array(), spacing=spacing), headers=FORM)
    running.ask("GET", f"/end_session/{token}")
    return reply


def test_implausible_spacing_takes_no_memory(running: Running, tmp_path: Path) -> None:
    """A2: one click on 48,000 voxels took 18.8 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lease = running.claim()
    array = pack(image_array()[None])
    for spacing in ([1e8, 1, 1], [1, 1e8, 1], [1e-8, 1, 1], [1e8, 1e8, 1e8], [1e300, 1, 1], [5e-324, 1, 1]):
        meta = {"X-Meta": json.dumps({"image_properties": {"spacing": spacing}})}
        assert running.ask("POST", "/set_image", array, lease, meta).status == 400, spacing
        assert uploaded(running, spacing[::-1]).status == 400, spacing
    for name, content in header_only((30, 40, 20), (1, 1, 1e8)).items():
        if "packed" not in name:
            whole = content + bytes(48_000)
            whole = gzip.compress(gzip.decompress(content) + bytes(48_000)) if name.endswith(".gz") else whole
            assert running.ask("POST", f"/api/upload?name={name}", whole, lease).status == 400, name
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


def test_spacing_of_itksnap_that_is_no_number(running: Running) -> None:
    for spacing in (["a", 1, 1], [1, 1], None, "x", [None] * 3, [True] * 3, [0, 1, 1], {"x": 1}, [[1]] * 3):
        assert uploaded(running, spacing).status == 400, spacing


def test_one_budget_for_bodies_arrays_and_images(start: Start) -> None:
    """A3: small frames that unpack to much, and many large bodies, do not take more than --memory together."""
    running = start(memory_bytes=64 * 2**20, array_bytes=64 * 2**20, sessions=30)
    bomb = pack(np.zeros((1, 40, 1000, 1000), np.uint8))
    assert len(bomb) < 2**17
    leases = [running.ask("POST", "/claim").json()["lease_token"] for _ in range(8)]
    statuses = [running.ask("POST", "/set_image", bomb, lease, META).status for lease in leases]
    assert set(statuses) == {503}, "40 MB, and 160 MB as float32"
    running.gives_memory_back()
    small = pack(image_array()[None])
    assert running.ask("POST", "/set_image", small, leases[0], META).status == 200


def test_the_window_of_a_click_is_part_of_the_budget(running: Running) -> None:
    """Refused before it is computed; the clicks are as before, and the next one finds the memory free again."""
    lease = running.viewer()
    conversation = running.app.leases.find(lease).conversation
    assert conversation.working_bytes > 4 * math.prod(PATCH)
    running.gives_memory_back()
    whole, running.app.leases.budget = running.app.leases.budget, conversation.image_bytes + conversation.working_bytes
    point = {"coordinates": [10, 20, 15]}
    running.app.leases.budget -= 1
    assert running.ask("POST", "/add_point_interaction", point, lease).status == 503
    assert not conversation.session.clicks
    running.gives_memory_back()
    running.app.leases.budget = whole
    assert running.ask("POST", "/add_point_interaction", point, lease).status == 200


OF_THE_SERVER = re.compile(r"nnsam3d_|SimpleITK|\.cxx|0x[0-9a-f]{6}")  # temporary folders, ITK's sources, addresses
FAMILIES = {"mha": "mha", "mhd": "mha", "nrrd": "nrrd", "nhdr": "nrrd", "nii": "nii", "hdr": "nii"}


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_headers(start: Start, tmp_path: Path, family: str, count: int, capsys: Any) -> None:
    """Never an internal error, and no file is read but the upload; detached headers under both of their names."""
    secret, kind = tmp_path / "secret.raw", FAMILIES[family]
    secret.write_bytes(b"SECRET" * 20_000)
    os.utime(secret, (0, 2e9))  # reading it would change the first of these times
    running = start(sessions=1, array_bytes=2**24)
    seeds = {**naming_others(tmp_path, secret), **header_only((9, 9, 9), (1, 1, 3))}
    contents = [content for name, content in seeds.items() if name.endswith(kind)]
    contents.append(content_of(tmp_path, f".{kind}", True)[:20_000])
    rng, statuses = random.Random(family), set()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with httpx.Client(base_url=running.url, timeout=60) as client:
        client.headers["X-Lease-Token"] = running.claim()
        for number in range(count):
            content = mutated(rng, rng.choice(contents))
            name = f"x.{rng.choice((family, kind))}"
            reply = client.post(f"/api/{rng.choice(('upload', 'segmentation'))}?name={name}", content=content)
            assert reply.status_code in (200, 400, 413), (number, reply.content, content[:600])
            assert "SECRET" not in reply.text, content[:600]
            assert not OF_THE_SERVER.search(reply.reason_phrase), reply.reason_phrase
            statuses.add(reply.status_code)
    assert secret.stat().st_atime == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000  # kB
    assert 400 in statuses
    assert "Traceback" not in capsys.readouterr().err


def mutated(rng: random.Random, content: bytes) -> bytes:
    """A file like this one, damaged in its first kilobyte, mostly."""
    data = bytearray(content)
    for _ in range(rng.randrange(4)):
        place = rng.randrange(min(len(data), 700))
        action = rng.randrange(5)
        if action == 0:
            data[place] = rng.randrange(256)
        elif action == 1:
            del data[place : place + rng.randrange(1, 30)]
        elif action == 2:
            data[place:place] = rng.choice(
                [b"\n", b"\r\n", b" ", b"-", b"9" * 20, b"nan", b"1e308", b"0", b"\0", b"=", b":"]
            )
        elif action == 3:
            lines = bytes(data[:2000]).split(b"\n")
            rng.shuffle(lines)
            data[:2000] = b"\n".join(lines)
        else:
            data = data[: rng.randrange(1, len(data) + 1)]
        if not data:
            break
    return bytes(data)


def test_folders_of_killed_servers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A8: uploads are patients' images. Those of a server that is running stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = (
        "import sys, time, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from nnsam3d.server.temporary import own_temporary_folder\n"
        "with own_temporary_folder() as folder:\n"
        "    (folder / 'SMITH.nii').write_bytes(b'x'); print(folder, flush=True); time.sleep(600)\n"
    )
    servers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    folders = [Path(server.stdout.readline().strip()) for server in servers if server.stdout]
    servers[0].kill()
    servers[0].wait()
    (tmp_path / "nnsam3d_serve_foreign").mkdir()
    with own_temporary_folder() as own:
        assert not folders[0].exists()
        assert (folders[1] / "SMITH.nii").exists()
        assert tempfile.mkdtemp().startswith(str(own))
        assert own.stat().st_mode & 0o77 == 0
    assert not own.exists()
    servers[1].kill()
    servers[1].wait()
