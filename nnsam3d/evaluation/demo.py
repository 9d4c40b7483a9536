"""``nnsam3d demo``: nnU-Net's own commands, end to end, on phantoms on which only a click tells what is wanted."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tqdm import tqdm

from nnsam3d.errors import UserError
from nnsam3d.evaluation.overlay import Panel, write_overlay
from nnsam3d.evaluation.phantom import DATASET_NAME, PhantomCase, write_dataset
from nnsam3d.files import write_text
from nnsam3d.geometry import zyx_to_xyz
from nnsam3d.nnunet.link import nnunet_folder, trainers_folder
from nnsam3d.prompts import CasePrompts, Click, simulate_clicks, write_prompts

DATASET_ID = "990"
NUM_TRAINING, NUM_TEST = 40, 5
SEED = 20230613
EPOCHS, ITERATIONS = 24, 20
MINUTES = "5 to 7 minutes on 2 CPU cores"
OPTIONS = (
    f"preset=tiny num_epochs={EPOCHS} num_iterations_per_epoch={ITERATIONS} num_val_iterations_per_epoch=4 "
    "learning_rate=1e-3 max_clicks=4 zero_click_share=0.1"
)
TRAINER = "SAM3DAdapterTrainer"
ENOUGH, APART = 0.80, 0.40  # Dice with the right click, and how much worse a click on the look-alike has to be
Scores: TypeAlias = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Arm:
    """One way of prompting the same model.

    Attributes:
        name: folder name. title: for table and pictures.
        target, lookalike: clicks labelled "lesion" on either lesion; negative: background clicks on the look-alike.
    """

    name: str
    title: str
    target: int = 0
    lookalike: int = 0
    negative: int = 0


ARMS = (
    Arm("no_click", "no click"),
    Arm("one_click", "1 click on the target", target=1),
    Arm("lookalike_click", "1 click on the look-alike", lookalike=1),
    Arm("three_clicks", "3 clicks (2 on the target, 1 'background' on the look-alike)", target=2, negative=1),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``nnsam3d demo``."""
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to work in (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo in that folder")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="training epochs (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Run the demo.

    Raises:
        UserError: the output folder holds something else, or one of nnU-Net's commands failed.
    """
    started = time.monotonic()
    output = _fresh_folder(args.output, args.overwrite)
    print(f"nnsam3d demo: plan, train and predict with nnU-Net's own commands; {MINUTES}. Everything goes to {output}")
    environment = os.environ | nnunet_environment(output)
    logs = output / "logs"

    print(f"[1/4] {NUM_TRAINING} training and {NUM_TEST} test phantoms: two lesions each, one of them is the label")
    tests = write_dataset(output / "raw", NUM_TRAINING, NUM_TEST, SEED)
    prompts = {arm.name: write_arm_prompts(output, arm, tests) for arm in ARMS}

    print("[2/4] nnUNetv2_plan_and_preprocess -d 990 -c 3d_fullres --verify_dataset_integrity")
    _run("nnUNetv2_plan_and_preprocess", ["-d", DATASET_ID, "-c", "3d_fullres", "--verify_dataset_integrity"],
         environment, logs / "plan_and_preprocess.txt")  # fmt: skip

    options = OPTIONS.replace(f"num_epochs={EPOCHS}", f"num_epochs={args.epochs}")
    print(f'[3/4] nnsam3d_options="{options}" \\\n      nnUNetv2_train 990 3d_fullres 0 -tr {TRAINER} -device cpu')
    _train(environment | {"nnsam3d_options": options}, logs / "train.txt", args.epochs)

    print(f"[4/4] nnUNetv2_predict -d 990 -c 3d_fullres -f 0 -tr {TRAINER}, once for each way of clicking")
    for arm in tqdm(ARMS, desc="predict", unit="arm"):
        _run("nnUNetv2_predict",
             ["-i", str(output / "raw" / DATASET_NAME / "imagesTs"), "-o", str(output / "predictions" / arm.name),
              "-d", DATASET_ID, "-c", "3d_fullres", "-f", "0", "-tr", TRAINER, "-device", "cpu",
              "-npp", "1", "-nps", "1", "--disable_tta"],
             environment | {"nnsam3d_prompts": str(output / "prompts" / arm.name)},
             logs / f"predict_{arm.name}.txt")  # fmt: skip

    predictions = {arm.name: _read_predictions(output / "predictions" / arm.name, tests) for arm in ARMS}
    scores = mean_dice(tests, predictions)
    table = dice_table(scores, len(tests))
    print("\n" + table)
    write_text(output / "dice.txt", table + "\n")
    for name, case in tests.items():
        panels = [Panel(arm.title, predictions[arm.name][name], prompts[arm.name][name]) for arm in ARMS]
        write_overlay(output / "overlays" / f"{name}.png", case, panels)
    print(f"\nPictures: {output / 'overlays'}/*.png (filled: prediction, line: target, dashed: look-alike)")
    print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes. Prompt files: {output / 'prompts'}, logs: {logs}")
    if clicks_decide(scores):
        print("Moving the click moved the segmentation.")
        return 0
    print(
        f"nnsam3d: moving the click did NOT move the segmentation as it should (Dice at least {ENOUGH} where clicked, "
        f"{APART} less elsewhere). Fewer epochs than {EPOCHS}, or a bug: please report it.",
        file=sys.stderr,
    )
    return 1


def dice(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """2 |A and B| / (|A| + |B|); 1 for two empty masks."""
    total = int(prediction.sum()) + int(truth.sum())
    return 2.0 * int((prediction & truth).sum()) / total if total else 1.0


def mean_dice(tests: dict[str, PhantomCase], predictions: dict[str, dict[str, NDArray[np.bool_]]]) -> Scores:
    """Arm -> mean Dice over the test cases against the target and against the look-alike."""
    scores: Scores = {}
    for arm, found in predictions.items():
        target = np.mean([dice(found[name], case.target_DHW) for name, case in tests.items()])
        lookalike = np.mean([dice(found[name], case.lookalike_DHW) for name, case in tests.items()])
        scores[arm] = (float(target), float(lookalike))
    return scores


def dice_table(scores: Scores, num_cases: int) -> str:
    """The scores as text, one line for each way of clicking."""
    width = max(len(arm.title) for arm in ARMS)
    lines = [
        f"Mean Dice over {num_cases} test cases",
        f"{'prompt':<{width}}  target  look-alike",
        "-" * (width + 20),
    ]
    lines += [f"{arm.title:<{width}}  {scores[arm.name][0]:6.2f}  {scores[arm.name][1]:10.2f}" for arm in ARMS]
    return "\n".join(lines)


def clicks_decide(scores: Scores) -> bool:
    """Whether moving the click moved the segmentation: good where clicked, and far worse elsewhere."""
    right, wrong = scores["one_click"][0], scores["lookalike_click"][0]
    return right >= ENOUGH and right - wrong >= APART


# ---------------------------------------------------------------------- prompts


def write_arm_prompts(output: Path, arm: Arm, tests: dict[str, PhantomCase]) -> dict[str, list[tuple[NDArray, int]]]:
    """Prompt files of one arm; returns the clicks (z, y, x) with their labels, for the pictures."""
    folder = output / "prompts" / arm.name
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, list[tuple[NDArray, int]]] = {}
    for number, (name, case) in enumerate(tests.items()):
        clicks = list(_draw_clicks(case, arm, np.random.default_rng([SEED, number])))
        drawn[name] = clicks
        if clicks:
            positions = zyx_to_xyz([position for position, _ in clicks])
            listed = tuple(
                Click((float(i), float(j), float(k)), "lesion" if label else "background")
                for (i, j, k), (_, label) in zip(positions, clicks, strict=True)
            )
            write_prompts(folder / f"{name}.json", CasePrompts(name, "voxel", listed))
    return drawn


def _draw_clicks(case: PhantomCase, arm: Arm, rng: np.random.Generator) -> Iterator[tuple[NDArray, int]]:
    for mask, count, label in (
        (case.target_DHW, arm.target, 1),
        (case.lookalike_DHW, arm.lookalike, 1),
        (case.lookalike_DHW, arm.negative, 0),
    ):
        for position in simulate_clicks(mask.astype(np.uint8), 1, count, rng):
            yield position, label


# ---------------------------------------------------------------------- nnU-Net's commands


def _fresh_folder(folder: Path, overwrite: bool) -> Path:
    folder = folder.expanduser().resolve()
    marker = folder / ".nnsam3d_demo"
    if folder.exists() and any(folder.iterdir()):
        if not (overwrite and marker.is_file()):
            hint = "use --overwrite to replace it" if marker.is_file() else "choose another --output"
            raise UserError(f"{folder} is not empty: {hint}.")
        shutil.rmtree(folder)
    for part in ("logs", "overlays", "predictions", "preprocessed", "results", "raw"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    marker.touch()
    return folder


def nnunet_environment(output: Path) -> dict[str, str]:
    """Own nnU-Net folders; the trainer through ``nnUNet_extTrainer``, so that no installation is touched.

    Raises:
        UserError: the installed nnU-Net does not know ``nnUNet_extTrainer``.
    """
    if not (nnunet_folder() / "utilities" / "find_objects.py").is_file():
        raise UserError("the demo needs nnUNet_extTrainer, which nnunetv2 knows since 2.8: pip install -U 'nnunetv2<3'")
    return {
        "nnUNet_raw": str(output / "raw"),
        "nnUNet_preprocessed": str(output / "preprocessed"),
        "nnUNet_results": str(output / "results"),
        "nnUNet_extTrainer": str(trainers_folder()),
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "2",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONUNBUFFERED": "1",
        "MPLBACKEND": "Agg",
    }


def nnunet_command(name: str) -> str:
    """nnU-Net's command of this Python, whether or not its folder is on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise UserError(f"the command {name} is not installed beside {sys.executable}. Run `nnsam3d doctor`.")
    return found


def _run(name: str, arguments: list[str], environment: dict[str, str], log: Path) -> None:
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [nnunet_command(name), *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    _check(name, done.returncode, log)


def _train(environment: dict[str, str], log: Path, epochs: int) -> None:
    """Train, with one progress bar for what nnU-Net writes in thousands of lines."""
    arguments = [nnunet_command("nnUNetv2_train"), DATASET_ID, "3d_fullres", "0", "-tr", TRAINER, "-device", "cpu"]
    with (
        log.open("w", encoding="utf-8", buffering=1) as file,
        subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
        tqdm(total=epochs, desc="train", unit="epoch") as bar,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if "Epoch time" in line:
                bar.update()
            elif found := re.search(r"Pseudo dice.*?([0-9.]+)\)?\]", line):
                bar.set_postfix_str(f"patch Dice {float(found.group(1)):.2f}")
    _check("nnUNetv2_train", process.returncode, log)


def _check(name: str, status: int, log: Path) -> None:
    if status != 0:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise UserError(f"{name} ended with status {status}; the end of {log}:\n{tail}")


def _read_predictions(folder: Path, tests: dict[str, PhantomCase]) -> dict[str, NDArray[np.bool_]]:
    return {name: sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}.nii.gz"))) == 1 for name in tests}
