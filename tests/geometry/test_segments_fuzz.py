"""Damaged segmentations of 3D Slicer: an error with words, or a label map of the image's shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.geometry.segments import read_segments

from .test_segments import GRID, LABELS, SEGMENTS, SHAPE, image_like, labelled, write

COUNT = 400
TOKENS = [
    b"-1", b"0", b"1e9", b"NaN", b"9" * 5000, b"99999999", b"\xff\xfe", b"\x00", b"\n", b"\n\n", b":=", b": ", b"(",
    b"#", b"gzip", b"raw", b"Segment0_Layer:=7\n", b"Segment1_LabelValue:=x\n", b"none", b"left-posterior-superior",
]  # fmt: skip


def mutated(head: bytes, rng: np.random.Generator) -> bytes:
    """With words, bytes or lines replaced, repeated or left out."""
    lines = head.split(b"\n")
    for _ in range(int(rng.integers(1, 3))):
        place = int(rng.integers(len(lines)))
        kind = int(rng.integers(5))
        if kind == 0:
            del lines[place]
        elif kind == 1:
            lines.insert(place, lines[int(rng.integers(len(lines)))])
        else:
            line = lines[place]
            start = int(rng.integers(len(line) + 1))
            token = TOKENS[int(rng.integers(len(TOKENS)))]
            lines[place] = line[:start] + token + line[start + int(rng.integers(8)) :]
        if not lines:
            return b""
    return b"\n".join(lines)


def test_damaged_headers_are_refused_with_words(tmp_path: Path) -> None:
    data = write(image_like(labelled()), SEGMENTS, tmp_path / "case.seg.nrrd").read_bytes()
    head, voxels = data.split(b"\n\n", 1)
    rng = np.random.default_rng(0)
    refused: list[str] = []
    path = tmp_path / "fuzzed.seg.nrrd"
    for number in range(COUNT):
        body = voxels if rng.random() < 0.8 else voxels[: int(rng.integers(len(voxels)))]
        content = mutated(head, rng) + b"\n\n" + body
        path.write_bytes(content)
        try:
            found = read_segments(path, GRID if rng.random() < 0.8 else None, SHAPE, LABELS)
        except UserError as error:
            refused.append(str(error))
            continue
        except Exception as error:
            raise AssertionError(f"mutation {number}: {error!r:.300} from {content[:2000]!r:.3000}") from error
        assert found.shape == SHAPE
    assert 0 < len(refused) < COUNT
    assert [message for message in refused if str(path) not in message] == []
