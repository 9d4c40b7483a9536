"""Ablations: the same training without one of its parts, each repeated.

    python -m benchmarks.ablations clicks RAW WORK [--dataset 513] [--fold 3] [--updates 400] [--repeats 2] [--jobs 2]
        [--seeds 0 1] [--without VARIANT ...]
    python -m benchmarks.ablations network RAW WORK

RAW is an nnU-Net raw folder. Variants differ in training options only. `clicks` is about learning from clicks
(docs/clicks.md): everything is small there (patches of 32 x 48 x 32 voxels, tokens of 4 voxels, preset tiny), so that a
training takes minutes on a CPU. `network` takes nnU-Net's plans and the default options: the detail branch, the size of
tokens, and the parts of learning from boxes and lassos. The fold should not contain published test cases. Existing
results in WORK are reused.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnsam3d.nnunet.run import nnunet_command, nnunet_environment
from nnsam3d.tables import markdown

BEFORE = "rounds=0 prompt_learning_rate_factor=1 fine_click_maps=0 zero_click_share=0.2"
SMALL_PLANS = "nnUNetPlansSmall"


@dataclass(frozen=True)
class Study:
    """Variants (name -> nnsam3d_options), and what their networks are asked."""

    plans: str
    protocols: tuple[str, ...]
    variants: dict[str, str]


STUDIES = {
    "clicks": Study(
        SMALL_PLANS,
        ("iterative",),
        {
            "none of the parts": BEFORE,
            "all but roll-outs (zero_click_share 0.2)": "rounds=0 zero_click_share=0.2",
            "roll-outs only": "prompt_learning_rate_factor=1 fine_click_maps=0",
            "all but audibility": "prompt_learning_rate_factor=1",
            "all but fine click maps": "fine_click_maps=0",
            "everything (default)": "",
        },
    ),
    "network": Study(
        "nnUNetPlans",
        ("iterative", "box", "lasso"),
        {
            "everything (default)": "",
            "no detail branch": "detail_dim=0",
            "tokens of 4 voxels": "token_voxels=4",
            "clicks only": "prompt_kinds=click",
            "no damaged images": "corrupted_share=0",
            "no masks to start from": "start_share=0",
            "first answer as every other one": "first_answer_weight=0",
        },
    ),
}
CLICKS = {"iterative": (0, 1, 3, 5, 10), "box": (0, 5), "lasso": (0, 5)}  # after the first prompt
TRAINER = "SAM3DAdapterTrainer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("raw", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--dataset", default="513")
    parser.add_argument("--fold", default="3")
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=2, help="trainings of each variant")
    parser.add_argument("--seeds", nargs="+", default=["0", "1"], help="of the simulated prompts")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--without", nargs="*", default=[], metavar="VARIANT", help="leave these out, by name")
    args = parser.parse_args()
    study = STUDIES[args.study]
    if unknown := set(args.without) - set(study.variants):
        parser.error(f"--without {', '.join(sorted(unknown))}: the variants of {args.study} are {list(study.variants)}")
    work = args.work.absolute()
    folders = nnunet_environment(work) | {"nnUNet_raw": str(args.raw.absolute())}
    environment = os.environ | folders | {"OMP_NUM_THREADS": "1"}
    variants = [name for name in study.variants if name not in args.without]
    plan(args.dataset, work, environment)
    runs = [(variant, repeat) for repeat in range(args.repeats) for variant in variants]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda one: run(study, one[0], one[1], args, work, environment), runs))
    print(table(study, variants, work, args.repeats))


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
    plans["plans_name"] = SMALL_PLANS
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [32, 48, 32]
    configuration["nnsam3d_plan"] = {
        "budget_gb": 1.0, "estimate_gb": 1.0, "precision": "float32", "spacing_rule": "as planned by nnU-Net",
        "token_stride": [4, 4, 4], "token_grid": [8, 12, 8], "window": [8, 6, 8],
        "token_mm": [4 * mm for mm in configuration["spacing"]], "why": ["small, for ablations"],
    }  # fmt: skip
    path.with_name(f"{SMALL_PLANS}.json").write_text(json.dumps(plans))


def run(
    study: Study, variant: str, repeat: int, args: argparse.Namespace, work: Path, environment: dict[str, str]
) -> None:
    """One training and what its network answers."""
    folder = folder_of(work, study, variant, repeat)
    epochs = max(1, args.updates // 50)
    length = f"num_epochs={epochs} num_iterations_per_epoch=50 num_val_iterations_per_epoch=1 final_validation=0"
    own = environment | {
        "nnUNet_results": str(folder / "results"),
        "nnsam3d_options": f"{length} {study.variants[variant]}",
    }
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        if not list(folder.glob("results/*/*/*/checkpoint_final.pth")):
            model = [args.dataset, "3d_fullres", args.fold, "-tr", TRAINER, "-p", study.plans, "-device", "cpu"]
            subprocess.run([nnunet_command("nnUNetv2_train"), *model], env=own, stdout=log, stderr=log, check=True)
        kinds = study.protocols if "prompt_kinds=click" not in study.variants[variant] else ("iterative",)
        what = ["-d", args.dataset, "-f", args.fold, "--arms", f"{TRAINER}:{study.plans}", "--protocols", *kinds]
        how = ["--seeds", *args.seeds, "--clicks", "10", "--disable_tta", "-device", "cpu", "-o", str(folder / "bench")]
        command = [nnunet_command("nnsam3d"), "benchmark", "run", *what, *how]
        subprocess.run(command, env=own, stdout=log, stderr=log, check=True)
    print(f"done: {variant}, training {repeat + 1}", flush=True)


def folder_of(work: Path, study: Study, variant: str, repeat: int) -> Path:
    return work / f"{study.plans}_{list(study.variants).index(variant)}_{repeat}"


def scores(study: Study, folder: Path) -> list[float]:
    """Of one training: mean Dice after ``CLICKS``; of the iterative protocol also, at the end, the share of sequences
    with 0.85, and obedience."""
    units = json.loads((folder / "bench" / "results.json").read_text())["units"]
    found: list[float] = []
    for protocol in study.protocols:
        rows = []
        for steps in (unit["steps"] for unit in units if unit["protocol"] == protocol):
            dice = [
                np.mean([one["dice"] for one in steps[min(n, len(steps) - 1)]["scores"].values()])
                for n in CLICKS[protocol]
            ]
            rows.append([*dice, *((dice[-1] >= 0.85, steps[-1]["obeyed"]) if protocol == "iterative" else ())])
        width = len(CLICKS[protocol]) + 2 * (protocol == "iterative")
        # nothing to obey where no click was needed
        found += list(np.nanmean(np.array(rows, dtype=float), axis=0)) if rows else [np.nan] * width
    return found


def table(study: Study, variants: Sequence[str], work: Path, repeats: int) -> str:
    """Every variant's mean over its trainings, with half the range of two or more trainings."""
    names = []
    for protocol in study.protocols:
        word = "clicks" if protocol == "iterative" else f"{protocol}, clicks"
        names += [f"{word}: {n}" for n in CLICKS[protocol]]
        names += [">= 0.85 at the end", "obeyed"] if protocol == "iterative" else []
    rows = []
    for variant in variants:
        found = np.array([scores(study, folder_of(work, study, variant, repeat)) for repeat in range(repeats)])
        means, halves = found.mean(0), np.ptp(found, axis=0) / 2
        cells = [
            "-" if np.isnan(mean) else f"{mean:.3f} ± {half:.3f}" for mean, half in zip(means, halves, strict=True)
        ]
        rows.append([variant, *cells])
    return markdown(["", *names], rows)


if __name__ == "__main__":
    main()
