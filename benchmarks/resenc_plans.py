"""The plans of nnU-Net's residual encoder presets for the datasets of `nnsam3d plan-table`.

    python benchmarks/resenc_plans.py

Their planners need a dataset on disk, so one without images is created from the facts in a temporary folder.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from nnsam3d.planning.facts import DatasetFacts, shipped_facts

PRESETS = ("nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for part in ("raw", "preprocessed", "results"):
            os.environ[f"nnUNet_{part}"] = str(Path(folder) / part)
        print("| dataset | ResEnc M (8 GB) | ResEnc L (24 GB) | ResEnc XL (40 GB) |\n|---|---|---|---|")
        for number, facts in enumerate(shipped_facts(), start=800):
            make_up(Path(folder), number, facts)
            plans = " | ".join(plan(number, facts, preset) for preset in PRESETS)
            print(f"| {facts.name} | {plans} |", flush=True)


def make_up(folder: Path, number: int, facts: DatasetFacts) -> None:
    name = f"Dataset{number}_Made"
    (folder / "raw" / name / "imagesTr").mkdir(parents=True)
    (folder / "raw" / name / "imagesTr" / "a_0000.nii.gz").touch()
    (folder / "preprocessed" / name).mkdir(parents=True)
    dataset = {
        "channel_names": {str(channel): "MRI" for channel in range(facts.channels)},
        "labels": {"background": 0} | {f"label {value}": value for value in range(1, facts.heads)},
        "numTraining": facts.cases,
        "file_ending": ".nii.gz",
    }
    (folder / "raw" / name / "dataset.json").write_text(json.dumps(dataset))
    fingerprint = {
        "spacings": [facts.spacing_DHW],
        "shapes_after_crop": [facts.shape_DHW],
        "foreground_intensity_properties_per_channel": {},
        "median_relative_size_after_cropping": 1.0,
    }
    (folder / "preprocessed" / name / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


def plan(number: int, facts: DatasetFacts, preset: str) -> str:
    """Patch and batch of 3d_fullres."""
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    planner = getattr(residual_encoder_unet_planners, preset)(number)
    voxels = float(facts.cases * facts.shape_DHW[0] * facts.shape_DHW[1] * facts.shape_DHW[2])
    entry = planner.get_plans_for_configuration(facts.spacing_DHW, facts.shape_DHW, "", voxels, {})
    return "x".join(str(int(size)) for size in entry["patch_size"]) + f", batch {entry['batch_size']}"


if __name__ == "__main__":
    main()
