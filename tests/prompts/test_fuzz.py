"""Damaged prompt files: always the documented error (or a valid reading), at once, and no other file is touched."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnsam3d.geometry import Points
from nnsam3d.prompts import CasePrompts, PromptError, read_prompts
from nnsam3d.prompts.kinds import KINDS, Window

from .by_hand import CLICKS, EXTENT_WRITERS, GRID, LABELS, WRITERS

QUICK, FULL = 300, 10_000
FORMATS = {**WRITERS, **EXTENT_WRITERS}

# What breaks readers: other types, huge and odd numbers, odd text, deep nesting, paths, pickles of other things.
VALUES: list[Any] = [
    None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", "lesion", "F-1", "\x00", "\ud800", "ü" * 50,
    "../../etc/passwd", "/etc/passwd", [], {}, [[]], [[1, 2, 3]], [1, 2, 3], {"position": [1, 2, 3]}, "LPS", 0.5,
]  # fmt: skip
TOKENS = [
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"NaN", b"-", b"1e999", b"\\u0000", b"\x00", b"\xff\xfe", b"\n",
    b"#", b"axis-0", b"PK\x03\x04", b"=", b"9" * 5000, b"[" * 2000, b'"tumor":', b'"markups":', b'"clicks":',
]  # fmt: skip

_opened: list[str] = []
_watching = False


@pytest.fixture(scope="module")
def at_once() -> float:
    """What reading one file may cost, in seconds of this thread's CPU: five times a list of a million small lists.

    A busy machine, or much for the garbage collector to look through, makes both slower. An attack takes thousands of
    times as long, or for ever.
    """
    start = time.thread_time()
    assert len([[str(number)] for number in range(10**6)]) == 10**6
    return 5 * (time.thread_time() - start)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in ("open", "os.listdir", "os.scandir", "socket.connect", "subprocess.Popen", "os.system"):
        _opened.append(f"{event} {arguments[0]}")


for _codec in ("utf-8-sig", "utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be", "utf-32"):
    "".encode(_codec)  # imported at first use, which would be a file that is opened
sys.addaudithook(_watch)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four random changes: bytes, tokens, pieces, or the end cut off."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(0, len(out) + 1))
        length = int(rng.integers(1, 20))
        kind = int(rng.integers(0, 6))
        if kind == 0 and place < len(out):
            out[place] = int(rng.integers(0, 256))
        elif kind == 1:
            del out[place : place + length]
        elif kind == 2:
            out[place:place] = TOKENS[int(rng.integers(0, len(TOKENS)))]
        elif kind == 3:
            out[place:place] = out[place : place + 10 * length]
        elif kind == 4:
            other = int(rng.integers(0, len(out) + 1))
            out[place : place + length] = out[other : other + length]
        elif rng.random() < 0.2:
            del out[place:]
    return bytes(out)


def mutated_json(content: Any, rng: np.random.Generator) -> Any:
    """Well-formed JSON with one value, key or length changed somewhere."""
    if rng.random() < 0.25 or not isinstance(content, (dict, list)) or not content:
        return VALUES[int(rng.integers(0, len(VALUES)))]
    if isinstance(content, list):
        out = list(content)
        place = int(rng.integers(0, len(out)))
        if rng.random() < 0.2:
            del out[place]
        elif rng.random() < 0.1:
            out *= 50
        else:
            out[place] = mutated_json(out[place], rng)
        return out
    keys = list(content)
    key = keys[int(rng.integers(0, len(keys)))]
    changed = dict(content)
    if rng.random() < 0.2:
        changed[str(VALUES[int(rng.integers(0, len(VALUES)))])[:40]] = changed.pop(key)
    else:
        changed[key] = mutated_json(content[key], rng)
    return changed


def mutations(path: Path, rng: np.random.Generator) -> Iterator[bytes]:
    """Endless variants of a file; of an npz also intact archives with damaged members."""
    data = path.read_bytes()
    content = json.loads(data) if path.suffix == ".json" else None
    members: dict[str, bytes] = {}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist() if "click" in name or "box" in name}
    while True:
        if content is not None and rng.random() < 0.5:
            yield json.dumps(mutated_json(content, rng)).encode("utf-8")
        elif members and rng.random() < 0.7:
            name = list(members)[int(rng.integers(0, len(members)))]
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for other, part in members.items():
                    archive.writestr(other, mutated(part, rng) if other == name else part)
            yield file.getvalue()
        else:
            yield mutated(data, rng)


def fuzz(folder: Path, name: str, count: int, at_once: float) -> dict[str, int]:
    """Read ``count`` mutations; how many were read, and how many refused."""
    rng = np.random.default_rng(list(FORMATS).index(name))
    original = FORMATS[name](folder, CLICKS, GRID)
    counts = {"read": 0, "refused": 0}
    path = folder / f"fuzzed{original.suffix}"
    variants = mutations(original, rng)
    space = "voxel" if name == "grand_challenge" else None
    first = read_prompts(original, GRID, LABELS, space=space)  # also loads Python's codecs
    assert len(first.clicks) == 3 if name in WRITERS else len(first.kinds) > 1 or name == "npz_boxes"
    for number in range(count):
        data = next(variants)
        path.unlink(missing_ok=True)  # some file systems flush a file that is cut short and written anew
        path.write_bytes(data)
        _opened.clear()
        start = time.thread_time()
        outcome = read_watched(path, space)
        what = f"{name}, mutation {number}: {outcome!r:.2000} from {data[:2000]!r}"
        assert time.thread_time() - start < at_once, what
        assert set(_opened) <= {f"open {path}"}, f"{_opened}, {what}"
        if isinstance(outcome, PromptError):
            counts["refused"] += 1
            assert str(outcome).startswith(str(path)), what
            assert len(str(outcome)) < 20_000, what
        else:
            counts["read"] += 1
            assert isinstance(outcome, CasePrompts), what
            check_use(outcome, what)
    return counts


def check_use(prompts: CasePrompts, what: str) -> None:
    """Whatever was read can be used on the image's array, or is refused with words."""
    for prompt in prompts.prompts[:20]:
        points = Points(prompt.points(prompts.space), prompts.space).to("array", GRID).values_N3
        if not len(points):
            continue
        try:
            shape = prompt.shape(points, 1)
        except PromptError:
            continue
        kind = KINDS[shape.kind]
        assert (kind.inside(shape.points_N3, GRID.shape_zyx) >= 0).all(), what
        for values in kind.render(shape.points_N3, Window((0, 0, 0), (5, 6, 7), (0.25, 0.25, 0.25))).values():
            assert np.abs(values).max() <= 1, what


def read_watched(path: Path, space: str | None) -> CasePrompts | BaseException:
    """What reading gives, whatever it is; files that are opened meanwhile are noted."""
    global _watching
    _watching = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_prompts(path, GRID, LABELS, space=space)
    except BaseException as error:
        return error
    finally:
        _watching = False


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(tmp_path: Path, name: str, at_once: float) -> None:
    counts = fuzz(tmp_path, name, QUICK, at_once)
    assert min(counts.values()) > 0, "mutations that are all refused, or all read, test nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_ten_thousand_damaged_files(tmp_path: Path, name: str, at_once: float) -> None:
    fuzz(tmp_path, name, FULL, at_once)


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


DTYPE = b"cnumpy\ndtype\n" + b"\x8c\x02i1" + b"\x89\x88\x87R"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n)R"
ATTACKS = {
    # one large piece of bytes, named again and again
    "bytes": b"B" + (10**5).to_bytes(4, "little") + bytes(10**5) + b"q\x00" + DTYPE + b"q\x01]q\x02"
    + (ARRAY + b"(K\x01J\xa0\x86\x01\x00\x85h\x01\x89h\x00tba") * 20_000,
    # a list of the same list of the same list: 2^60 entries
    "shared lists": b"]q\x00" + b"".join(b"]q%c(h%ch%ce" % (n + 1, n, n) for n in range(60)),
    "shared tuples as a key": b"}" + b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60)) + b"Ns",
    "a memo of four billion": b"Nr\xff\xff\xff\xff",
    "text of four gigabytes": b"X\xff\xff\xff\xff" + b"x",
    "itself": b"]q\x00h\x00a",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_pickles_made_to_hang(tmp_path: Path, name: str, at_once: float) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    path = tmp_path / "case.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clicks.npy", header.getvalue() + opcodes(ATTACKS[name]))
    start = time.thread_time()
    with pytest.raises(PromptError):
        read_prompts(path, GRID, LABELS)
    assert time.thread_time() - start < at_once


@pytest.mark.parametrize(
    "text",
    [
        '{"tumor": [' + "[]," * 10**6 + "[]]}",
        '{"nnsam3d_prompts": 1, "space": "voxel", "clicks": [' + "0," * 10**6 + "0]}",
        '{"markups": [' + '{"controlPoints":[0]},' * 10**5 + "{}]}",
        '{"tumor": [[' + "1," * 10**6 + "1]]}",
        '{"tumor": [' + "9" * 10**6 + "]}",
        "index,axis-0,axis-1,axis-2\n" + "0,1,2\n" * 10**6,
        "[" * 10**6,
    ],
    ids=["lists", "zeros", "markups", "a long position", "a long number", "rows", "brackets"],
)
def test_large_files_are_refused_at_once(tmp_path: Path, text: str, at_once: float) -> None:
    path = tmp_path / "case.txt"
    path.write_text(text)
    start = time.thread_time()
    with pytest.raises(PromptError) as caught:
        read_prompts(path, GRID, LABELS)
    assert time.thread_time() - start < at_once
    assert len(str(caught.value)) < 20_000


def test_packings_that_cannot_be_stopped_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "case.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("clicks.npy", bytes(10**7))
    with pytest.raises(PromptError, match="compressed with a method"):
        read_prompts(tmp_path / "case.npz")


def test_the_watch_sees_other_files(tmp_path: Path) -> None:
    """The check of the check."""
    global _watching
    _opened.clear()
    _watching = True
    try:
        os.listdir(tmp_path)
        open(os.devnull, "rb").close()
    finally:
        _watching = False
    assert _opened == [f"os.listdir {tmp_path}", f"open {os.devnull}"]
