"""``nnsam3d demo``: nnU-Net's commands, end to end, on phantoms in which only a click identifies the target.

It answers two questions with one network: does the click decide which of two equal lesions is segmented, and does a
"background" click remove a wrongly included lesion?
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnsam3d.demo import EPOCHS
from nnsam3d.demo.overlay import Panel, Strip, write_overlay
from nnsam3d.demo.phantom import (
    DATASET_NAME,
    SPACING_XYZ,
    PhantomCase,
    write_bridged_tests,
    write_dataset,
)
from nnsam3d.demo.tables import (
    APART,
    ENOUGH,
    GAIN,
    LEFT,
    TOO_MUCH,
    Masks,
    clicks_decide,
    correction_table,
    correction_works,
    dice_table,
    mean_dice,
    measure_correction,
)
from nnsam3d.errors import UserError
from nnsam3d.files import write_text
from nnsam3d.nnunet.run import nnunet_command, nnunet_environment
from nnsam3d.progress import tqdm
from nnsam3d.prompts import CasePrompts, next_click, simulate_clicks, write_prompts

logger = logging.getLogger(__name__)
say = logger.info

DATASET_ID = "990"
NUM_TRAINING, NUM_TEST, NUM_BRIDGED = 40, 5, 5
BRIDGED_SHARE = 0.4  # of the training phantoms
SEED = 20230613
MINUTES = "5 to 7 minutes on 2 CPU cores"
OPTIONS = (
    "num_iterations_per_epoch=20 num_val_iterations_per_epoch=2 rounds=1-3 "
    # few minutes: mostly clicks, which the demo is about; its model also takes boxes and the like
    "zero_click_share=0.2 extent_share=0.15 start_share=0.1 final_validation=0"
)
TRAINER = "SAM3DAdapterTrainer"
Clicks: TypeAlias = dict[str, list[tuple[NDArray, int]]]  # case -> positions (z, y, x) with labels


@dataclass(frozen=True)
class Scenario:
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


SCENARIOS = (
    Scenario("no_click", "no click"),
    Scenario("one_click", "1 click on the target", target=1),
    Scenario("lookalike_click", "1 click on the look-alike", lookalike=1),
    Scenario("three_clicks", "3 clicks (2 on the target, 1 'background' on the look-alike)", target=2, negative=1),
)
SPACING_ZYX = SPACING_XYZ[::-1]
SECOND_CLICK = {
    0: "+ 1 'background' click on the neighbour",
    1: "+ 1 click on the missed part",
    None: "no error, no second click",
}
BEFORE, AFTER = "bridged_one_click", "bridged_corrected"


def run_demo(output: Path, overwrite: bool, epochs: int) -> int:
    """Run the demo; 1 unless clicks had the expected effect.

    Raises:
        UserError: the output folder is not empty, or one of nnU-Net's commands failed.
    """
    started = time.monotonic()
    output = _fresh_folder(output, overwrite)
    say(f"nnsam3d demo: plan, train and predict with nnU-Net's commands; {MINUTES}. Output folder: {output}")
    environment = os.environ | nnunet_environment(output)
    logs = output / "logs"

    say(f"[1/4] {NUM_TRAINING} training, {NUM_TEST + NUM_BRIDGED} test phantoms: two lesions each, apart or touching")
    tests = write_dataset(output / "raw", NUM_TRAINING, NUM_TEST, SEED, BRIDGED_SHARE)
    bridged = write_bridged_tests(output / "raw", NUM_BRIDGED, SEED)

    say("[2/4] nnUNetv2_plan_and_preprocess -d 990 -c 3d_fullres --verify_dataset_integrity")
    _run("nnUNetv2_plan_and_preprocess", ["-d", DATASET_ID, "-c", "3d_fullres", "--verify_dataset_integrity"],
         environment, logs / "plan_and_preprocess.txt")  # fmt: skip

    options = f"num_epochs={epochs} {OPTIONS}"
    say(f'[3/4] nnsam3d_options="{options}" \\\n      nnUNetv2_train 990 3d_fullres 0 -tr {TRAINER} -device cpu')
    _train(environment | {"nnsam3d_options": options}, logs / "train.txt", epochs)

    say(f"[4/4] nnUNetv2_predict -d 990 -c 3d_fullres -f 0 -tr {TRAINER}, once for each set of clicks")
    with tqdm(total=len(SCENARIOS) + 2, desc="predict", unit="arm") as bar:
        first_table, decided, strips = _arms(output, environment, tests, bar)
        second_table, corrected, correction_strips = _correction(output, environment, bridged, bar)
    tables = f"{first_table}\n\n{second_table}"
    say("\n%s", tables)
    write_text(output / "dice.txt", tables + "\n")
    for strip in (*strips, *correction_strips):
        write_overlay(output / "overlays" / f"{strip.name}.png", [[strip]])
    write_overlay(output / "overlays" / "summary.png", [strips[:1], correction_strips[:2]])
    say(f"\nPictures: {output / 'overlays'}/*.png (filled: prediction, line: target, dashed: the other lesion)")
    say(f"Done in {(time.monotonic() - started) / 60:.1f} minutes. Prompt files: {output / 'prompts'}, logs: {logs}")
    return _verdict(decided, corrected)


def _arms(
    output: Path, environment: dict[str, str], tests: dict[str, PhantomCase], bar: tqdm
) -> tuple[str, bool, list[Strip]]:
    """All sets of clicks on separate lesions: table, whether clicks decide, pictures."""
    clicks: dict[str, Clicks] = {}
    found: dict[str, Masks] = {}
    for arm in SCENARIOS:
        clicks[arm.name] = write_arm_prompts(output, arm, tests)
        found[arm.name] = _predict(output, environment, "imagesTs", arm.name, tests)
        bar.update()
    scores = mean_dice(tests, found)
    strips = [
        Strip(name, case, [Panel(arm.title, found[arm.name][name], clicks[arm.name][name]) for arm in SCENARIOS])
        for name, case in tests.items()
    ]
    return dice_table({arm.name: arm.title for arm in SCENARIOS}, scores, len(tests)), clicks_decide(scores), strips


def _correction(
    output: Path, environment: dict[str, str], bridged: dict[str, PhantomCase], bar: tqdm
) -> tuple[str, bool, list[Strip]]:
    """One click on lesions that touch, then a click on the largest error: table, whether it works, pictures."""
    first = first_clicks(bridged)
    _write_clicks(output / "prompts" / BEFORE, first)
    before = _predict(output, environment, "imagesTs_bridged", BEFORE, bridged)
    bar.update()
    both = with_error_clicks(bridged, before, first)
    _write_clicks(output / "prompts" / AFTER, both)
    after = _predict(output, environment, "imagesTs_bridged", AFTER, bridged)
    bar.update()
    second = {name: both[name][1][1] if len(both[name]) > 1 else None for name in bridged}
    measured = measure_correction(bridged, before, after, second)
    strips = [
        Strip(f"correction_{name.removeprefix('bridged_')}", case,
            [Panel("1 click on the target", before[name], first[name]),
             Panel(SECOND_CLICK[second[name]], after[name], both[name])])
        for name, case in bridged.items()
    ]  # fmt: skip
    return correction_table(measured), correction_works(measured), strips


def _verdict(decided: bool, corrected: bool) -> int:
    """Say whether clicks had the expected effect; returns the exit status."""
    hint = f"Fewer epochs than {EPOCHS}, or a bug: please report it."
    if decided:
        say("Moving the click moved the segmentation.")
    else:
        logger.error(
            f"nnsam3d: moving the click did NOT move the segmentation as expected (Dice at least {ENOUGH} for the "
            f"clicked lesion, {APART} less for the other). {hint}"
        )
    if corrected:
        say("A second click removed most of what the first one wrongly included.")
    else:
        logger.error(
            f"nnsam3d: the second click did NOT correct as expected (the first includes at least {TOO_MUCH:.0%} of "
            f"the neighbour, the second leaves at most {LEFT:.0%} of that, and Dice rises by {GAIN} or more). {hint}"
        )
    return 0 if decided and corrected else 1


# ---------------------------------------------------------------------- prompts


def write_arm_prompts(output: Path, arm: Scenario, tests: dict[str, PhantomCase]) -> Clicks:
    """Write the prompt files of one arm; returns the clicks, for the pictures."""
    clicks = {
        name: list(_draw_clicks(case, arm, np.random.default_rng([SEED, number])))
        for number, (name, case) in enumerate(tests.items())
    }
    _write_clicks(output / "prompts" / arm.name, clicks)
    return clicks


def first_clicks(cases: dict[str, PhantomCase]) -> Clicks:
    """One click in the middle of every target."""
    rng = np.random.default_rng(SEED)  # not used by "center"
    return {
        name: [(simulate_clicks(case.target_DHW.astype(np.uint8), 1, 1, rng, "center", spacing=SPACING_ZYX)[0], 1)]
        for name, case in cases.items()
    }


def with_error_clicks(cases: dict[str, PhantomCase], predictions: Masks, clicks: Clicks) -> Clicks:
    """The clicks, with one more in the middle of each prediction's largest error, if any."""
    more: Clicks = {}
    for name, case in cases.items():
        click = next_click(
            case.target_DHW.astype(np.uint8), predictions[name].astype(np.uint8), SPACING_ZYX, labels=[1],
            clicked=[position.tolist() for position, _ in clicks[name]],
        )  # fmt: skip
        more[name] = [*clicks[name], *([(np.array(click[0]), click[1])] if click else [])]
    return more


def _write_clicks(folder: Path, clicks: Clicks) -> None:
    """Write a prompt file for every case with clicks."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, listed in clicks.items():
        if listed:
            labels = ["lesion" if label else "background" for _, label in listed]
            prompts = CasePrompts.of_array(name, [position for position, _ in listed], labels)
            write_prompts(folder / f"{name}.json", prompts)


def _draw_clicks(case: PhantomCase, arm: Scenario, rng: np.random.Generator) -> Iterator[tuple[NDArray, int]]:
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


def _run(name: str, arguments: list[str], environment: dict[str, str], log: Path) -> None:
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [nnunet_command(name), *arguments], env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    _check(name, done.returncode, log)


def _train(environment: dict[str, str], log: Path, epochs: int) -> None:
    """Train, with a progress bar instead of nnU-Net's output."""
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


def _predict(output: Path, environment: dict[str, str], images: str, arm: str, cases: dict[str, PhantomCase]) -> Masks:
    """Masks (D, H, W) predicted by nnU-Net's command with the prompt files of one arm."""
    found = output / "predictions" / arm
    _run("nnUNetv2_predict",
         ["-i", str(output / "raw" / DATASET_NAME / images), "-o", str(found),
          "-d", DATASET_ID, "-c", "3d_fullres", "-f", "0", "-tr", TRAINER, "-device", "cpu",
          "-npp", "1", "-nps", "1", "--disable_tta"],
         environment | {"nnsam3d_prompts": str(output / "prompts" / arm)},
         output / "logs" / f"predict_{arm}.txt")  # fmt: skip
    return {name: sitk.GetArrayFromImage(sitk.ReadImage(str(found / f"{name}.nii.gz"))) == 1 for name in cases}
