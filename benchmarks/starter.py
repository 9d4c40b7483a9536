"""Trains the starter: the model that comes with nnsam3d, on synthetic volumes only (make starter).

A dataset of a few synthetic cases is planned, so that nnU-Net has plans; training draws its own volumes. An interrupted
training is continued by the same command.

    python -m benchmarks.starter --work starter --minutes 90 --seed 0     # trains, and writes starter/model
    python -m benchmarks.starter --work starter --install                 # and puts it into the package
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

from safetensors.torch import save

from nnsam3d.checkpoints.pretrained import RECORD_KEY
from nnsam3d.files import file_sha256, replacing, write_json, write_text
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.datasets import ANY_SPACING_KEY, FINAL, LATEST, OPTIONS_KEY, STARTER, WEIGHTS
from nnsam3d.nnunet.run import nnunet_command, nnunet_environment
from nnsam3d.training.started_from import STARTER_WEIGHTS

DATASET, NUMBER, CONFIGURATION = "Dataset900_Shapes", "900", "3d_fullres"
PATCH, BATCH = [48, 48, 48], 2
OPTIONS = "preset=tiny targets=any data=synthetic final_validation=0 num_epochs=500 checkpoint_minutes=5"
CARD = """# The starter

A small class-agnostic network of nnsam3d: it segments the object that prompts point at, in images of one channel.

- Training data: synthetic volumes only (`nnsam3d synthesize`), drawn during training; no patient, no licence of others.
- Command: `make starter STARTER_ARGS="--minutes {minutes:g} --seed {seed}{more}"`; {updates:,} updates of
  {batch} patches of {patch} voxels, {minutes:g} minutes on {machine}; {day}.{begun}
- Weights: `fold_0/{file}`, {size:.1f} MB, SHA-256 `{digest}`.
- What it is not: no medical device; it knows no organ and no tumour, only that things have outlines. Without a prompt
  it segments nothing. A model trained on your own cases is better on them.
- Measured: nothing yet. docs/starter.md says how, and what the starter of the package has reached, which may be another
  one.
"""
BEGUN = """ It began with the weights of SHA-256
  `{sha256}`: `{name}` in the command is a file with them. Updates and minutes are those of this
  step alone.{starter}"""
WAS_STARTER = """ They were the starter of the package, but
  `--weights starter` means whichever is there now: take the old ones out of git (`git log -- nnsam3d/starter`)."""
FIRST = "first.safetensors"  # what a card calls the weights of a starter that has been replaced since


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("starter"), help="folder for everything (default: starter)")
    parser.add_argument("--minutes", type=float, default=90, help="of training (default: 90)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--weights", default="scratch", help="to begin with: starter, or a file (default: scratch)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps (default: cpu)")
    parser.add_argument("--checkpoint", default=FINAL, help=f"to use (default: {FINAL}; while training: {LATEST})")
    parser.add_argument("--install", action="store_true", help=f"replace the weights in the package ({STARTER})")
    args = parser.parse_args()
    work = args.work.absolute()
    options = f"{OPTIONS} seed={args.seed} max_minutes={args.minutes:g} weights={args.weights}"
    environment = os.environ | nnunet_environment(work) | {"nnsam3d_options": options}
    model = work / "results" / DATASET / f"SAM3DAdapterTrainer__nnUNetPlans__{CONFIGURATION}"
    if (model / "fold_0" / FINAL).is_file():
        print(f"{model}: trained already; choose another --work to train again")
    if not (model / "fold_0" / args.checkpoint).is_file():
        plan(work, environment)
        go_on = ["--c"] if (model / "fold_0" / LATEST).is_file() else []
        train = ("nnUNetv2_train", NUMBER, CONFIGURATION, "0", "-tr", "SAM3DAdapterTrainer", "-device", args.device)
        run([*train, *go_on], environment)
    export(model, work / "model", args)
    if args.install:
        shutil.rmtree(STARTER, ignore_errors=True)
        shutil.copytree(work / "model", STARTER)
    print(f"{STARTER if args.install else work / 'model'}: the starter")


def run(command: list[str], environment: dict[str, str]) -> None:
    """Runs a command of this Python environment; ends with its status if it fails."""
    status = subprocess.run([nnunet_command(command[0]), *command[1:]], env=environment, check=False).returncode
    if status:
        raise SystemExit(status)


def plan(work: Path, environment: dict[str, str]) -> None:
    """A dataset of a few cases, and plans with the starter's patch."""
    file = work / "preprocessed" / DATASET / "nnUNetPlans.json"
    if file.is_file():
        return
    data = ("-o", str(work / "raw" / DATASET), "-n", "10", "--size", "60", "60", "60", "--spacing", "1", "1", "1")
    run(["nnsam3d", "synthesize", *data], environment)
    run(["nnUNetv2_plan_and_preprocess", "-d", NUMBER, "-c", CONFIGURATION], environment)
    plans = json.loads(file.read_text(encoding="utf-8"))
    plans["configurations"][CONFIGURATION] |= {"patch_size": PATCH, "batch_size": BATCH, "spacing": [1.0, 1.0, 1.0]}
    write_json(file, plans)


def write_weights(checkpoint: dict[str, Any], path: Path) -> None:
    """What a prediction needs of a checkpoint, as a .safetensors file that :func:`open_checkpoint` reads."""
    known = {
        "trainer_name": checkpoint["trainer_name"],
        "init_args": {key: checkpoint["init_args"][key] for key in ("configuration", "fold")},
        "inference_allowed_mirroring_axes": checkpoint.get("inference_allowed_mirroring_axes"),
    }
    weights = {name: values.contiguous() for name, values in checkpoint["network_weights"].items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(weights, {"nnsam3d": json.dumps(known)}))


def export(model: Path, folder: Path, args: argparse.Namespace) -> None:
    """The model as it is passed on: plans for any spacing, weights without the optimiser's state, and a card."""
    checkpoint = open_checkpoint(model / "fold_0" / args.checkpoint)
    weights = folder / "fold_0" / WEIGHTS
    weights.parent.mkdir(parents=True, exist_ok=True)
    write_weights(checkpoint, weights)
    plans = json.loads((model / "plans.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"][CONFIGURATION]
    configuration[ANY_SPACING_KEY] = True
    options, begun = configuration[OPTIONS_KEY], configuration.get(RECORD_KEY, {})
    options["weights"] = begun["source"] = Path(options["weights"]).name  # not the folder where it lay
    for name in ("data", "seg", "probabilities"):  # voxels are cubic, whatever the image's are
        configuration[f"resampling_fn_{name}_kwargs"]["force_separate_z"] = False
    write_json(folder / "plans.json", {**plans, "configurations": {CONFIGURATION: configuration}})
    dataset = {
        "channel_names": {"0": "image"},
        "labels": {"background": 0, "object": 1},
        "numTraining": 0,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", dataset)
    updates = checkpoint["current_epoch"] * options["num_iterations_per_epoch"]
    write_text(folder / "CARD.md", card_of(weights, options, begun, updates, args.device))


def card_of(weights: Path, options: dict[str, Any], begun: dict[str, Any], updates: int, device: str) -> str:
    """The text that comes with the weights.

    Args:
        weights: their file.
        options: of the training.
        begun: what the plans record of the weights that it began with.
        updates: of the training.
        device: that it ran on.
    """
    first, name = "sha256" in begun, str(options["weights"])
    replaced = name == STARTER_WEIGHTS
    name = FIRST if replaced else name
    return CARD.format(
        minutes=options["max_minutes"],
        seed=options["seed"],
        more=f" --weights {name}" if first else "",
        begun=BEGUN.format(sha256=begun["sha256"], name=name, starter=WAS_STARTER * replaced) if first else "",
        updates=updates,
        batch=BATCH,
        patch=" x ".join(map(str, PATCH)),
        machine=f"{os.cpu_count()} cores ({platform.machine()})" if device == "cpu" else device,
        day=date.today().isoformat(),
        file=WEIGHTS,
        size=weights.stat().st_size / 1e6,
        digest=file_sha256(weights),
    )


if __name__ == "__main__":
    main()
