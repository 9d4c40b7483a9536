"""The masks that the protocol "start" begins with: an arm's answers without prompts, or files in a folder."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.evaluation.arms import Arm, Ellipsoid, load_arm
from nnsam3d.evaluation.names import parse_arm
from nnsam3d.evaluation.plan import BenchCase, Job, Setting
from nnsam3d.files import known_sha256, replacing
from nnsam3d.geometry import grid_of_file
from nnsam3d.geometry.segments import ENDING, read_segments


def start_of(setting: Setting, job: Job, case: BenchCase, arm: Arm, output: Path) -> NDArray[Any]:
    """The label map (z, y, x) with which a case begins.

    An arm's answer is computed once and kept in ``output/starts``, until the arm is trained anew.

    Raises:
        UserError: no such file, a mask of another shape, or the arm is not trained.
    """
    if not setting.start_arm:
        path = Path(setting.start) / f"{case.name}{arm.model.file_ending}"
        shape, segments = arm.model.read_labels(case.truth).shape, path.with_name(f"{case.name}{ENDING}")
        if segments.is_file() and not path.is_file():
            grid = grid_of_file(case.images[0], arm.model.reader_name)("lps")
            return read_segments(segments, grid, shape, arm.model.labels, arm.model.regions)
        if not path.is_file():
            raise UserError(f"case {case.name}: there is no mask to start from: {path} is missing (--start)")
        mask = arm.model.read_labels(path)
        if mask.shape != shape:
            raise UserError(f"{path}: has the shape {mask.shape} (z, y, x), the image {shape}")
        return mask
    own = replace(job, arm=setting.start_arm)
    if not own.checkpoint.is_file():
        raise UserError(f"--start {own.arm}: {own.checkpoint} is missing: train this arm first")
    digest = known_sha256(own.checkpoint)
    folder = output / "starts" / job.dataset / job.configuration / f"fold_{job.fold}" / own.arm_in_path
    path = folder / f"{case.name}.npz"
    if path.is_file():
        with np.load(path) as stored:
            if str(stored["checkpoint_sha256"]) == digest:
                return np.asarray(stored["label_map"])
    starting = _loaded(own, str(arm.model.device), setting.mirroring)
    label_map = starting.prepare(*starting.model.read(case.images)).answer(None)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("xb") as file:
        np.savez_compressed(file, label_map=label_map.astype(np.uint16), checkpoint_sha256=np.array(digest))
    return label_map


@lru_cache(maxsize=1)
def _loaded(job: Job, device: str, mirroring: bool) -> Arm | Ellipsoid:
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net's messages would disrupt the progress bar
        return load_arm(parse_arm(job.arm), job, device, mirroring)
