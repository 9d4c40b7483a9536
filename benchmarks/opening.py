"""Opening a CT: time and memory until the first click is possible, and of the first and further clicks.

    python -m benchmarks.opening [--slices 300 500 1000] [--into docs/performance.md]

For every number of slices of 512 x 512 voxels: reading the file with SimpleITK, nnU-Net's own preprocessor, and this
library's session, each in a separate process, to separate their peaks of memory. Reading and session are
medians of five runs. The network is "tiny" with weights that find nothing, so that a click takes a single
window: the measurement covers everything around the network. The far click is in another corner of the image, in a new
window.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from benchmarks.bench import memory_mb
from benchmarks.page import conditions, publish
from nnsam3d.files import write_json
from nnsam3d.inference import Session
from nnsam3d.inference.model import Model
from nnsam3d.network import SAM3D, preset_config
from nnsam3d.tables import markdown

TITLE = "Opening a CT"
PLANE, SPACING = 512, (1.0, 0.8, 0.8)  # mm along z, y, x of the file
TARGET = (1.25, 0.75, 0.75)  # mm, of the network
PATCH = (64, 64, 64)
BALL = 12  # voxels
FURTHER = 3
REPEATS = 5
TOUCHED = 3 * 2**30  # bytes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.opening", description=__doc__)
    parser.add_argument("--slices", type=int, nargs="+", default=[300, 500, 1000])
    parser.add_argument("--whole-up-to", type=int, default=500, help="largest image for nnU-Net's preprocessor")
    parser.add_argument("--into", type=Path, help=f"a Markdown file whose section '{TITLE}' is replaced")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        what, model, image = given.worker
        print(json.dumps(WORKERS[what](Path(model), image)))
        return 0
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres")
        for slices in given.slices:
            image = write_image(Path(folder) / f"ct{slices}_0000.nii.gz", slices)
            found = medians(("read", "session"), model, image)
            if slices <= given.whole_up_to:
                found["nnunet"] = run("nnunet", model, image)
            rows.append(_row(slices, found))
            print(rows[-1], flush=True)
    header = ["slices of 512²", "reading, s", "image, GB", "nnU-Net's preprocessor, s", "its peak above the image, GB",
              "set_image, s", "relative to reading", "first click, s", "further click, s", "far click, s",
              "peak above the image, GB"]  # fmt: skip
    publish(f"## {TITLE}\n\n{conditions('opening', arguments)}\n\n{markdown(header, rows)}\n", given.into)
    return 0


def _row(slices: int, found: dict[str, dict[str, float]]) -> list[str]:
    read, session, whole = found["read"], found["session"], found.get("nnunet")
    return [
        str(slices),
        f"{read['seconds']:.1f}",
        f"{read['image_gb']:.2f}",
        f"{whole['seconds']:.0f}" if whole else "–",
        f"{whole['peak_gb']:.2f}" if whole else "–",
        f"{session['seconds']:.1f}",
        f"{session['seconds'] / read['seconds']:.2f}",
        f"{session['first']:.2f}",
        f"{session['further']:.2f}",
        f"{session['far']:.2f}",
        f"{session['peak_gb']:.2f}",
    ]


def medians(names: Sequence[str], model: Path, image: Path) -> dict[str, dict[str, float]]:
    """The runs with median duration; interleaved."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(REPEATS):
        for name in names:
            runs[name].append(run(name, model, image))
    return {name: sorted(every, key=lambda one: one["seconds"])[REPEATS // 2] for name, every in runs.items()}


def run(what: str, model: Path, image: Path) -> dict[str, float]:
    """One measurement in a separate process."""
    command = [sys.executable, "-m", "benchmarks.opening", "--worker", what, str(model), str(image)]
    touch_memory()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{what}, {image.name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def touch_memory() -> None:
    """Allocates memory once, because the first use of memory on a virtual machine takes as long as reading a file."""
    np.ones(TOUCHED, np.uint8)


# ---------------------------------------------------------------------- measurements


def _read(model: Path, image: str) -> dict[str, float]:
    start = time.perf_counter()
    array = sitk.GetArrayFromImage(sitk.ReadImage(image))
    return {"seconds": time.perf_counter() - start, "image_gb": array.size * 4 / 1e9}  # float32, as in nnU-Net


def _nnunet(model: Path, image: str) -> dict[str, float]:
    loaded = Model(model, mirroring=False)
    data, properties = loaded.read([image])
    before = memory_mb("VmRSS")
    start = time.perf_counter()
    loaded.preprocess(data, properties)
    return {"seconds": time.perf_counter() - start, "peak_gb": (memory_mb("VmHWM") - before) / 1e3}


def _session(model: Path, image: str) -> dict[str, float]:
    session = Session(Model(model, mirroring=False))
    session.warm_up()
    before = memory_mb("VmRSS")
    start = time.perf_counter()
    session.set_image(image)
    opened = time.perf_counter()
    z, y, x = (length // 2 for length in session.shape)
    session.add_click((x, y, z), 1)
    session.segmentation.max()
    first = time.perf_counter()
    for number in range(FURTHER):
        session.add_click((x + number + 1, y, z), number % 2)
        session.segmentation.max()
    further = (time.perf_counter() - first) / FURTHER
    before_far = time.perf_counter()
    session.add_click((BALL, BALL, BALL), 1)
    session.segmentation.max()
    far = time.perf_counter() - before_far
    held = np.prod(session.shape, dtype=float) * 4 / 1e9
    peak = (memory_mb("VmHWM") - before) / 1e3 - held
    return {"seconds": opened - start, "first": first - opened, "further": further, "far": far, "peak_gb": peak}


WORKERS: dict[str, Any] = {"read": _read, "nnunet": _nnunet, "session": _session}

# ---------------------------------------------------------------------- image and model


def write_image(path: Path, slices: int) -> Path:
    """A noisy CT with a ball in the centre. The noise is repeated, which makes it compress like a CT."""
    rng = np.random.default_rng(0)
    noise = rng.normal(-50, 60, (32, PLANE, PLANE)).astype(np.int16)
    volume = np.concatenate([noise] * (slices // 32 + 1))[:slices]
    centre = (slices // 2, PLANE // 2, PLANE // 2)
    near = tuple(slice(c - BALL, c + BALL + 1) for c in centre)
    steps = np.arange(-BALL, BALL + 1)
    inside = steps[:, None, None] ** 2 + steps[:, None] ** 2 + steps**2 <= BALL**2
    volume[near] += (300 * inside).astype(np.int16)
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(path), True)
    return path


def write_model(folder: Path) -> Path:
    """A model folder with an untrained tiny network and plans for CT."""
    tiny = asdict(preset_config("tiny", patch_size=PATCH))
    for given in ("num_image_channels", "num_classes"):  # set by nnU-Net
        del tiny[given]
    kwargs = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration: dict[str, Any] = {
        "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": list(PATCH),
        "spacing": list(TARGET), "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
        "data_identifier": "x",
        "architecture": {
            "network_class_name": "nnsam3d.network.SAM3D", "_kw_requires_import": [],
            "arch_kwargs": tiny,
        },
    }  # fmt: skip
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        configuration[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{what}_kwargs"] = {**kwargs, "order": order, "is_seg": what == "seg"}
    ct = {"mean": 60.0, "std": 80.0, "percentile_00_5": -160.0, "percentile_99_5": 300.0}
    plans = {
        "dataset_name": "Dataset999_CT", "plans_name": "nnUNetPlans", "label_manager": "LabelManager",
        "image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": ct}, "configurations": {"3d_fullres": configuration},
    }  # fmt: skip
    labels = {"background": 0, "ball": 1}
    (folder / "fold_0").mkdir(parents=True)
    write_json(folder / "plans.json", plans)
    write_json(folder / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"})
    torch.manual_seed(0)
    network = SAM3D(preset_config("tiny", patch_size=PATCH))
    with torch.no_grad():  # otherwise the untrained network segments everything, and windows cover the whole image
        network.mask_decoder.cls[3].weight[0] = 0.1
        network.mask_decoder.cls[3].weight[1] = -0.1
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "SAM3DAdapterTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


if __name__ == "__main__":
    sys.exit(main())
