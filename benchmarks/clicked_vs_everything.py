#!/usr/bin/env python3
"""Compares `--scope clicked` with `--scope everything`: Dice, windows and seconds, on phantoms and on real images.

    benchmarks/clicked_vs_everything.py long WORK                   phantoms with lesions of up to three window lengths
    benchmarks/clicked_vs_everything.py pet RAW WORK                Dataset513_STS_PET of the folder RAW
    benchmarks/clicked_vs_everything.py table MODEL IMAGES LABELS   any trained model; one click per component

`long` and `pet` plan, train (about 6 and 10 minutes on 2 cores) and end with the table of the held-back cases.
Windows are small (32 voxels; for PET 24 x 40 x 24), so that an image has many of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.nnunet.run import nnunet_command, nnunet_environment
from nnsam3d.prompts import CasePrompts, Click, simulate_clicks, write_prompts
from nnsam3d.prompts.components import dice_of
from nnsam3d.tables import markdown

SEED = 4
SPACING_MM = 2.4
SHAPE = (128, 48, 48)  # z, y, x
LENGTHS = (10, 96)  # voxels along z, a compact lesion and one of three windows
OPTIONS = "preset=tiny learning_rate=1e-3 num_val_iterations_per_epoch=4 num_iterations_per_epoch="


def long_phantom(rng: np.random.Generator, length: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A tube of lesions' grey in an organ, and a look-alike of any length beside it: image (HU) and target."""
    z, y, x = np.indices(SHAPE)
    hu = np.where(((y - 23.5) / 22) ** 2 + ((x - 23.5) / 22) ** 2 <= 1, 110.0, -1000.0)
    side = rng.choice([-1, 1])
    target = _tube(rng, length, 23.5 + side * 9.5, (z, y, x))
    other = _tube(rng, int(rng.integers(*LENGTHS)), 23.5 - side * 9.5, (z, y, x))
    hu[target | other] = 20.0
    hu = ndimage.gaussian_filter(hu, 0.6) + rng.normal(0, 12, SHAPE)
    return hu.astype(np.float32), target


def _tube(
    rng: np.random.Generator, length: int, middle_x: float, grid: tuple[NDArray, NDArray, NDArray]
) -> NDArray[np.bool_]:
    z, y, x = grid
    middle = rng.uniform(length / 2 + 4, SHAPE[0] - length / 2 - 4)
    along = (z - middle) / (length / 2)
    radius = rng.uniform(4.5, 6) * np.clip(1 - along**8, 0, None) ** 0.5
    phase, swing = rng.uniform(0, 2 * np.pi), rng.uniform(0, 6)
    centre_y = 23.5 + swing * np.sin(z / 20 + phase)
    return np.asarray((np.abs(along) < 1) & ((y - centre_y) ** 2 + (x - middle_x) ** 2 <= radius**2))


def write_long_dataset(raw: Path) -> tuple[Path, Path]:
    """`Dataset991_LongPhantom` in nnU-Net's raw format; returns test images and labels."""
    folder = raw / "Dataset991_LongPhantom"
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    for number in range(50):
        length = LENGTHS[number % 2] if number >= 40 else int(rng.integers(LENGTHS[0], LENGTHS[1] + 1))
        part, name = ("Tr", f"long_{number:03d}") if number < 40 else ("Ts", f"test_{number - 40:03d}_{length}")
        image, target = long_phantom(rng, length)
        _write(folder / f"images{part}" / f"{name}_0000.nii.gz", image)
        _write(folder / f"labels{part}" / f"{name}.nii.gz", target.astype(np.uint8))
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}}
    dataset |= {"numTraining": 40, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder / "imagesTs", folder / "labelsTs"


def _write(path: Path, array: NDArray) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([SPACING_MM] * 3)
    sitk.WriteImage(image, str(path))


def train(work: Path, dataset: str, patch: list[int], options: str, raw: Path | None = None) -> Path:
    """Plans, makes the windows small, preprocesses, trains fold 0; returns the model folder."""
    environment = os.environ | nnunet_environment(work) | {"nnsam3d_options": options}
    if raw is not None:
        environment["nnUNet_raw"] = str(raw)
    for name in ("preprocessed", "results", "raw"):
        (work / name).mkdir(parents=True, exist_ok=True)
    number = dataset[7:10]
    _run(work, environment, "nnUNetv2_plan_and_preprocess", "-d", number, "-c", "3d_fullres")
    plans_file = work / "preprocessed" / dataset / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["patch_size"] = patch
    plans_file.write_text(json.dumps(plans, indent=2))
    _run(work, environment, "nnUNetv2_train", number, "3d_fullres", "0", "-tr", "SAM3DAdapterTrainer", "-device", "cpu")
    return work / "results" / dataset / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"


def _run(work: Path, environment: dict[str, str], name: str, *arguments: str) -> None:
    print("$", name, *arguments, flush=True)
    with (work / f"{name}.txt").open("w") as log:
        subprocess.run([nnunet_command(name), *arguments], env=environment, stdout=log, stderr=log, check=True)


def simulate_prompts(labels: Path, folder: Path, names: list[str]) -> None:
    """One click per component of every label, drawn uniformly in it and seeded by the case's place in the list."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(labels / f"{name}.nii.gz")))
        rng = np.random.default_rng([SEED, number])
        clicks = []
        for label in np.unique(truth[truth > 0]).tolist():
            components, count = ndimage.label(truth == label, np.ones((3, 3, 3)))
            for component in range(1, count + 1):
                (place,) = simulate_clicks((components == component).astype(np.uint8), 1, 1, rng)
                k, j, i = place.tolist()
                clicks.append(Click((i, j, k), label))
        write_prompts(folder / f"{name}.json", CasePrompts(name, "voxel", tuple(clicks)))


def table(model: Path, images: Path, labels: Path, work: Path, names: list[str] | None = None) -> None:
    """Predicts with both scopes, prints and writes a Markdown table."""
    chosen = work / "images"
    chosen.mkdir(parents=True, exist_ok=True)
    names = names or sorted(path.name.removesuffix(".nii.gz") for path in labels.glob("*.nii.gz"))
    for name in names:
        for path in images.glob(f"{name}_????.nii.gz"):
            (chosen / path.name).unlink(missing_ok=True)
            (chosen / path.name).symlink_to(path.resolve())
    simulate_prompts(labels, work / "prompts", names)
    results = {}
    for scope in ("clicked", "everything"):
        output = work / scope
        subprocess.run(
            [sys.executable, "-m", "nnsam3d", "predict", "-i", chosen, "-o", output, "-m", model, "-device", "cpu",
             "--disable_tta", "--prompts", work / "prompts", "--scope", scope, "--report", work / f"{scope}.json"],
            check=True,
        )  # fmt: skip
        report = json.loads((work / f"{scope}.json").read_text())
        results[scope] = {case["case"]: case for case in report["cases"]}
        for name, case in results[scope].items():
            found, truth = (
                sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz"))) for folder in (output, labels)
            )
            case["dice"] = float(np.mean([dice_of(found == k, truth == k) for k in np.unique(truth[truth > 0])]))
            case["lost"] = lost_slices(found, truth)
    pairs = {name: (results["clicked"][name], results["everything"][name]) for name in names}
    columns = {"dice": 3, "lost": 1, "windows": 1, "seconds": 1}
    rows = {name: [[case[key] for case in pair] for key in columns] for name, pair in pairs.items()}
    rows["**mean**"] = np.mean(list(rows.values()), axis=0).tolist()
    header = [
        "case",
        *(word for key in ("Dice", "lost", "windows", "seconds") for word in (f"{key} clicked", "everything")),
    ]
    cells = [
        [name, *(f"{one:.{digits}f}" for pair, digits in zip(row, columns.values(), strict=True) for one in pair)]
        for name, row in rows.items()
    ]
    text = markdown(header, cells)
    (work / "table.md").write_text(text + "\n")
    print(text)


def lost_slices(found: NDArray, truth: NDArray) -> int:
    """Slices across the target's longest axis that hold some of it, and of which nothing was found."""
    box = np.ptp(np.argwhere(truth > 0), axis=0)
    others = tuple(axis for axis in range(3) if axis != int(np.argmax(box)))
    there = (truth > 0).any(axis=others)
    return int((there & ~((found == truth) & (truth > 0)).any(axis=others)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    long = what.add_parser("long")
    pet = what.add_parser("pet")
    pet.add_argument("raw", type=Path)
    for command in (long, pet):
        command.add_argument("work", type=Path)
        command.add_argument("--epochs", type=int, default=24)
    only = what.add_parser("table")
    for name in ("model", "images", "labels"):
        only.add_argument(name, type=Path)
    only.add_argument("--work", type=Path, default=Path("clicked_vs_everything"))
    only.add_argument("--cases", nargs="+", help="default: all that have a label file")
    args = parser.parse_args()
    if args.what == "table":
        table(args.model, args.images, args.labels, args.work, args.cases)
        return
    if args.what == "long":
        images, labels = write_long_dataset(args.work / "raw")
        options = OPTIONS + f"20 num_epochs={args.epochs} max_clicks=4 zero_click_share=0.1"
        model = train(args.work, "Dataset991_LongPhantom", [32, 32, 32], options)
        names = None
    else:
        dataset = "Dataset513_STS_PET"
        options = OPTIONS + f"40 num_epochs={args.epochs}"
        model = train(args.work, dataset, [24, 40, 24], options, args.raw)
        images, labels = args.raw / dataset / "imagesTr", args.raw / dataset / "labelsTr"
        names = sorted(path.stem for path in (model / "fold_0" / "validation_prompts").glob("*.json"))
    table(model, images, labels, args.work / "table", names)


if __name__ == "__main__":
    main()
