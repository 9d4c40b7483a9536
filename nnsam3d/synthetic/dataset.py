"""Synthetic cases as an nnU-Net dataset: imagesTr, labelsTr, dataset.json."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.files import remove_unfinished, replacing, write_json
from nnsam3d.geometry.label_files import write_image
from nnsam3d.progress import tqdm
from nnsam3d.synthetic.case import SMALLEST, SyntheticCase, draw_spacing, synthetic_case
from nnsam3d.synthetic.scene import INSIDE, OBJECTS

ENTRY, INSIDE_KEY, RECIPE_KEY = "nnsam3d", "inside", "synthesized"  # in dataset.json
ENDING = ".nii.gz"
VERSION = 1  # of the volumes: another one draws others from the same seed
JITTER = (0.8, 1.25)  # of the size
FEWEST_SLICES = 12


@dataclass(frozen=True)
class Recipe:
    """What determines the cases of a dataset.

    Attributes:
        seed: zero or positive.
        size: mean number of voxels (z, y, x); with a spacing that is drawn, in finest edges: thicker slices are fewer.
        spacing: mm (z, y, x); None: drawn for every case.

    Raises:
        UserError: a value out of range.
    """

    seed: int = 0
    size: tuple[int, int, int] = (64, 56, 56)
    spacing: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: must be zero or positive")
        if min(self.size) * JITTER[0] < SMALLEST:
            raise UserError(f"--size {_text(self.size)}: must be {SMALLEST / JITTER[0]:g} or more along each axis")
        if self.spacing is not None and not (min(self.spacing) > 0 and np.isfinite(self.spacing).all()):
            raise UserError(f"--spacing {_text(self.spacing)}: must be positive lengths in mm")

    def case(self, number: int) -> SyntheticCase:
        """Case ``number``; the same for the same recipe, whatever else is drawn."""
        rng = np.random.default_rng([self.seed, number])
        spacing = draw_spacing(rng) if self.spacing is None else self.spacing
        size = np.array(self.size) * rng.uniform(*JITTER, 3)
        if self.spacing is None:
            size = np.maximum(size * min(spacing) / spacing, FEWEST_SLICES)
        return synthetic_case(rng, [max(SMALLEST, round(n)) for n in size], spacing)


def synthesize(folder: Path, number: int, recipe: Recipe, jobs: int = 0) -> int:
    """Write the cases 0 to ``number`` - 1; complete cases of an earlier run are kept.

    Args:
        folder: the dataset, ``DatasetXXX_Name``.
        jobs: number of processes; 0: as many as there are cores.

    Returns:
        The number of cases that were written now.

    Raises:
        UserError: a name that nnU-Net does not accept, or a folder with other content: of another recipe, with more
            cases, or not made by this command.
        WriteError: the system refuses to write.
    """
    if number < 1:
        raise UserError(f"-n {number}: must be 1 or more")
    if not re.fullmatch(r"Dataset\d{3}_.+", folder.name):
        raise UserError(f"-o {folder}: nnU-Net needs a name like Dataset900_Shapes (Dataset, three digits, _, a name)")
    _check_content(folder, number, recipe)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(folder / "dataset.json", dataset_json(number, recipe))
    # labels are written last: with them, a case is complete
    missing = [n for n in range(number) if not all(file.is_file() for file in _files(folder, n))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    jobs = min(jobs or cores, max(1, len(missing)))
    with tqdm(total=number, initial=number - len(missing), desc="synthesizing", unit="case") as bar:
        if jobs == 1:
            for n in missing:
                _write_case(folder, recipe, n)
                bar.update()
            return len(missing)
        # not forked: this process may hold locks
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
            try:
                for done in as_completed([pool.submit(_write_case, folder, recipe, n) for n in missing]):
                    done.result()
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return len(missing)


def volume_name(number: int) -> str:
    """The name of a case."""
    return f"shapes_{number:05d}"


def dataset_json(number: int, recipe: Recipe) -> dict[str, Any]:
    """dataset.json of ``number`` cases. The entry "nnsam3d" says which labels lie inside of which, in every case, and
    the recipe."""
    objects = {f"object_{label}": label for label in range(1, OBJECTS + 1)}
    inside = {f"inside_{outer}": label for label, outer in INSIDE.items()}
    made = {"version": VERSION, **_plain(recipe)}
    return {
        "channel_names": {"0": "synthetic"},
        "labels": {"background": 0, **objects, **inside},
        "numTraining": number,
        "file_ending": ENDING,
        ENTRY: {INSIDE_KEY: {str(label): outer for label, outer in INSIDE.items()}, RECIPE_KEY: made},
    }


def _check_content(folder: Path, number: int, recipe: Recipe) -> None:
    file = folder / "dataset.json"
    if not file.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and contains no synthetic dataset: choose another folder")
        return
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        made = stored[ENTRY][RECIPE_KEY]
        cases = int(stored["numTraining"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is not of a dataset made by `nnsam3d synthesize`: choose another folder") from None
    wanted = {"version": VERSION, **_plain(recipe)}
    different = [f"{key} {made.get(key)}, not {wanted[key]}" for key in wanted if made.get(key) != wanted[key]]
    if different:
        raise UserError(f"{folder} was made with {'; '.join(different)}: use the same values, or choose another folder")
    if cases > number:
        raise UserError(f"{folder} has {cases} cases already: use -n {cases} or more, or choose another folder")


def _write_case(folder: Path, recipe: Recipe, number: int) -> None:
    case = recipe.case(number)
    stored = np.clip(np.rint(case.image_ZYX), -32768, 32767).astype(np.int16)
    for array, file in zip((stored, case.labels_ZYX), _files(folder, number), strict=True):
        remove_unfinished(file)
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(case.spacing_ZYX[::-1])
        # centred: a header with only defaults looks like one without geometry
        image.SetOrigin([-step * (n - 1) / 2 for n, step in zip(image.GetSize(), image.GetSpacing(), strict=True)])
        write_image(image, file)


def _files(folder: Path, number: int) -> tuple[Path, Path]:
    name = volume_name(number)
    return folder / "imagesTr" / f"{name}_0000{ENDING}", folder / "labelsTr" / f"{name}{ENDING}"


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Tuples as lists, as JSON has them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(recipe).items()}


def _text(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def write_preview(file: Path, recipe: Recipe, number: int = 12) -> None:
    """A picture sheet of the first cases: a slice of each, and the same slice with its labels.

    Raises:
        WriteError: the system refuses to write.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    columns = 4
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(2.2 * 2 * columns, 2.3 * rows), layout="constrained", facecolor="black")
    axes = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1)
    shades = colormaps["hsv"](np.random.default_rng(0).permutation(OBJECTS) / OBJECTS)[:, :3]
    colours = np.concatenate([np.zeros((1, 3)), shades, shades * 0.6 + 0.4])
    for axis in axes:
        axis.set_axis_off()
    for n in range(number):
        case = recipe.case(n)
        middle = int((case.labels_ZYX > 0).sum((1, 2)).argmax())
        image, labels = case.image_ZYX[middle], case.labels_ZYX[middle]
        low, high = np.quantile(image, [0.005, 0.995])
        grey = np.clip((image - low) / max(high - low, 1e-6), 0, 1)[..., None].repeat(3, -1)
        mixed = np.where(labels[..., None] > 0, 0.45 * grey + 0.55 * colours[labels], grey)
        aspect = case.spacing_ZYX[1] / case.spacing_ZYX[2]
        for axis, picture in zip(axes[2 * n :], (grey, mixed), strict=False):
            axis.imshow(picture, aspect=aspect, interpolation="nearest")
        axes[2 * n].set_title(f"{volume_name(n)}: {_text(case.spacing_ZYX)} mm", color="white", fontsize=7, loc="left")
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
