"""The check of a folder before `nnsam3d predict` computes anything: time against that of reading the headers.

    python -m benchmarks.headers [--cases 500 1000 2000 5000] [--into docs/performance.md]

Every case has an image of 16 x 26 x 24 voxels and a prompt file with two clicks. Reading a header is SimpleITK's
``ReadImageInformation``. The check lists the folder, reads headers and prompt files, and prints its remarks; the
same for the first of 50 parts. CPU seconds, medians of interleaved runs, so that other work on the computer counts
little.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from benchmarks.opening import write_model
from benchmarks.page import conditions, publish
from nnsam3d.inference.cases import find_cases, listed_cases
from nnsam3d.inference.header_check import header_remarks
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.cases import strays
from nnsam3d.tables import markdown

TITLE = "Checking a folder"
SHAPE = (16, 26, 24)
PARTS = 50
REPEATS = 3
CLICKS = [{"position": [10, 12, 8], "label": "ball"}, {"position": [3, 4, 2], "label": 0}]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.headers", description=__doc__)
    parser.add_argument("--cases", type=int, nargs="+", default=[500, 1000, 2000, 5000])
    parser.add_argument("--into", type=Path, help=f"a Markdown file whose section '{TITLE}' is replaced")
    given = parser.parse_args(arguments)
    begun = conditions("headers", arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        trained = write_model(Path(folder) / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres")
        model = Model(trained, device=torch.device("cpu"))
        for count in given.cases:
            images = write_cases(Path(folder) / f"images{count}", count)
            rows.append(_row(count, measured(images, model)))
            print(rows[-1], flush=True)
    header = ["cases", "reading the headers, s", "check, s", "ratio", f"check of part 0 of {PARTS}, s"]
    publish(f"## {TITLE}\n\n{begun}\n\n{markdown(header, rows)}\n", given.into)
    return 0


def _row(count: int, found: dict[str, float]) -> list[str]:
    read, whole = found["read"], found["check"]
    return [f"{count:,}", f"{read:.2f}", f"{whole:.2f}", f"{whole / read:.2f}", f"{found['part']:.3f}"]


def write_cases(folder: Path, count: int) -> Path:
    """A folder of images with prompt files beside them."""
    folder.mkdir()
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
    image.SetSpacing((0.8, 0.8, 1.0))
    sitk.WriteImage(image, str(folder / "case_0_0000.nii.gz"), True)
    content = (folder / "case_0_0000.nii.gz").read_bytes()
    text = json.dumps({"nnsam3d_prompts": 1, "space": "voxel", "clicks": CLICKS})
    for number in range(count):
        (folder / f"case_{number}_0000.nii.gz").write_bytes(content)
        (folder / f"case_{number}.json").write_text(text, encoding="utf-8")
    return folder


def measured(images: Path, model: Model) -> dict[str, float]:
    """CPU seconds, medians."""
    works: dict[str, Callable[[], None]] = {
        "read": lambda: read_headers(images),
        "check": lambda: check(images, model, 1),
        "part": lambda: check(images, model, PARTS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    read_headers(images)  # the files are in the system's cache from then on
    for _ in range(REPEATS):
        for name, work in works.items():
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def read_headers(images: Path) -> None:
    """With SimpleITK alone."""
    for file in sorted(images.glob("*_0000.nii.gz")):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        reader.ReadImageInformation()


def check(images: Path, model: Model, parts: int) -> None:
    """What `nnsam3d predict -num_parts N -part_id 0` does before it computes; its output is dropped."""
    with contextlib.redirect_stdout(io.StringIO()):
        listed = listed_cases(images, model)
        own = listed[::parts]
        cases = find_cases(images, model, None, own)
        strays(images, {case.name for case in listed}, None, {case.name for case in own})
        header_remarks(cases, model)
    assert all(case.prompts for case in cases)


if __name__ == "__main__":
    sys.exit(main())
