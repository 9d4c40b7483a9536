#!/usr/bin/env python3
"""Ablation of the components of learning from clicks (docs/clicks.md).

    benchmarks/click_ablations.py RAW WORK [--dataset 513] [--fold 3] [--updates 400] [--repeats 2] [--jobs 2]

RAW is an nnU-Net raw folder. Everything is small (patches of 32 x 48 x 32 voxels, tokens of 4 voxels, preset tiny), so
that a training takes minutes on a CPU; the arms differ in training options. The fold should not contain published test
cases. Existing results in WORK are reused.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from nnsam3d.nnunet.run import nnunet_command, nnunet_environment

BEFORE = "rounds=0 prompt_learning_rate_factor=1 fine_click_maps=0 zero_click_share=0.2"
ARMS = {
    "none of the parts": BEFORE,
    "all but roll-outs (zero_click_share 0.2)": "rounds=0 zero_click_share=0.2",
    "roll-outs only": "prompt_learning_rate_factor=1 fine_click_maps=0",
    "all but audibility": "prompt_learning_rate_factor=1",
    "all but fine click maps": "fine_click_maps=0",
    "everything (default)": "",
}
CLICKS = (0, 1, 3, 5, 10)
PLANS = "nnUNetPlansSmall"
TRAINER = "SAM3DAdapterTrainer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--dataset", default="513")
    parser.add_argument("--fold", default="3")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    work = args.work.absolute()
    folders = nnunet_environment(work) | {"nnUNet_raw": str(args.raw.absolute())}
    environment = os.environ | folders | {"OMP_NUM_THREADS": "1"}
    plan(args.dataset, work, environment)
    runs = [(arm, repeat) for repeat in range(args.repeats) for arm in ARMS]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda one: run(*one, args, work, environment), runs))
    print(table(work, args.repeats))


def plan(dataset: str, work: Path, environment: dict[str, str]) -> None:
    """nnU-Net's plans, and a copy of them with a small patch and large tokens."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "preprocessed").mkdir(exist_ok=True)
    if not list((work / "preprocessed").glob("*/nnUNetPlans_3d_fullres")):
        command = [nnunet_command("nnUNetv2_plan_and_preprocess"), "-d", dataset, "-c", "3d_fullres"]
        with (work / "plan.txt").open("w") as log:
            subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
    (path,) = (work / "preprocessed").glob("*/nnUNetPlans.json")
    plans = json.loads(path.read_text())
    plans["plans_name"] = PLANS
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [32, 48, 32]
    configuration["nnsam3d_plan"] = {
        "budget_gb": 1.0, "estimate_gb": 1.0, "precision": "float32", "spacing_rule": "as planned by nnU-Net",
        "token_stride": [4, 4, 4], "token_grid": [8, 12, 8], "window": [8, 6, 8],
        "token_mm": [4 * mm for mm in configuration["spacing"]], "why": ["small, for ablations"],
    }  # fmt: skip
    path.with_name(f"{PLANS}.json").write_text(json.dumps(plans))


def run(arm: str, repeat: int, args: argparse.Namespace, work: Path, environment: dict[str, str]) -> None:
    """One training and its clicks."""
    folder = work / f"{list(ARMS).index(arm)}_{repeat}"
    epochs = max(1, args.updates // 50)
    length = f"num_epochs={epochs} num_iterations_per_epoch=50 num_val_iterations_per_epoch=1 final_validation=0"
    own = environment | {"nnUNet_results": str(folder / "results"), "nnsam3d_options": f"{length} {ARMS[arm]}"}
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        if not list(folder.glob("results/*/*/*/checkpoint_final.pth")):
            model = [args.dataset, "3d_fullres", args.fold, "-tr", TRAINER, "-p", PLANS, "-device", "cpu"]
            subprocess.run([nnunet_command("nnUNetv2_train"), *model], env=own, stdout=log, stderr=log, check=True)
        what = ["-d", args.dataset, "-f", args.fold, "--arms", f"{TRAINER}:{PLANS}", "--protocols", "iterative"]
        how = ["--seeds", "0", "1", "--clicks", "10", "--disable_tta", "-device", "cpu", "-o", str(folder / "bench")]
        command = [nnunet_command("nnsam3d"), "benchmark", "run", *what, *how]
        subprocess.run(command, env=own, stdout=log, stderr=log, check=True)
    print(f"done: {arm}, training {repeat + 1}", flush=True)


def scores(folder: Path) -> np.ndarray:
    """Of one training: mean Dice at ``CLICKS``, share of sequences with 0.85 at the end, obedience at the end."""
    units = json.loads((folder / "bench" / "results.json").read_text())["units"]
    rows = []
    for unit in units:
        steps = unit["steps"]
        dice = [np.mean([s["dice"] for s in steps[min(n, len(steps) - 1)]["scores"].values()]) for n in CLICKS]
        rows.append([*dice, dice[-1] >= 0.85, steps[-1]["obeyed"]])
    return np.nanmean(np.array(rows, dtype=float), axis=0)  # nothing to obey where no click was needed


def table(work: Path, repeats: int) -> str:
    """Every arm's mean over its trainings, and each of them for the last number of clicks."""
    names = [*(f"{n} clicks" for n in CLICKS), "each training at 10", ">= 0.85 at 10", "obeyed at 10"]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for number, arm in enumerate(ARMS):
        found = np.array([scores(work / f"{number}_{repeat}") for repeat in range(repeats)])
        mean = found.mean(0)
        each = ", ".join(f"{value:.3f}" for value in found[:, len(CLICKS) - 1])
        cells = [f"{value:.3f}" for value in mean[: len(CLICKS)]]
        lines.append(f"| {arm} | {' | '.join(cells)} | {each} | {mean[-2]:.2f} | {mean[-1]:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
