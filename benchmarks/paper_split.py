#!/usr/bin/env python3
"""Create one of the paper's tasks from an nnU-Net dataset: one label, the cases with it, train / val / test.

    python benchmarks/paper_split.py Dataset007_Pancreas Dataset707_PancreasTumour --label 2 --val 28 --test 57

Reads nnUNet_raw/SOURCE and writes nnUNet_raw/TARGET (images as links, labels with the target as 1) and
nnUNet_preprocessed/TARGET/splits_final.json with one fold (none with --val 0: nnU-Net makes its five). The paper's
split is in a repository without a licence, so this one is drawn at random, determined by the seed.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="DatasetXXX_Name in nnUNet_raw")
    parser.add_argument("target", help="DatasetYYY_Name to be made")
    parser.add_argument("--label", type=int, required=True, help="value of the target in the source's labels")
    parser.add_argument("--val", type=int, required=True, help="cases held back for validation, or 0")
    parser.add_argument("--test", type=int, required=True, help="cases put aside as imagesTs and labelsTs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    raw, preprocessed = Path(os.environ["nnUNet_raw"]), Path(os.environ["nnUNet_preprocessed"])
    source, target = raw / given.source, raw / given.target
    about = json.loads((source / "dataset.json").read_text())
    ending = about["file_ending"]
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (target / name).mkdir(parents=True)
    cases = [path.name.removesuffix(ending) for path in sorted((source / "labelsTr").glob(f"*{ending}"))]
    # read twice: all masks of a few hundred CTs do not fit into memory
    kept = [case for case in tqdm(cases, desc="look") if binary(source, case, ending, given.label) is not None]
    order = [kept[i] for i in np.random.default_rng(given.seed).permutation(len(kept))]
    test, val, train = np.split(np.array(order), [given.test, given.test + given.val])
    for case in tqdm(kept, desc="write"):
        part = "Ts" if case in test else "Tr"
        sitk.WriteImage(binary(source, case, ending, given.label), str(target / f"labels{part}" / f"{case}{ending}"))
        for image in (source / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9]{ending}"):
            (target / f"images{part}" / image.name).symlink_to(image.resolve())
    new = {"channel_names": about["channel_names"], "labels": {"background": 0, "tumour": 1}, "file_ending": ending}
    (target / "dataset.json").write_text(json.dumps(new | {"numTraining": len(train) + len(val)}, indent=1))
    if given.val:
        (preprocessed / given.target).mkdir(parents=True, exist_ok=True)
        split = [{"train": sorted(map(str, train)), "val": sorted(map(str, val))}]
        (preprocessed / given.target / "splits_final.json").write_text(json.dumps(split, indent=1))
    left_out = len(cases) - len(kept)
    print(f"{given.target}: {len(train)} train, {len(val)} validation, {len(test)} test; {left_out} omitted")


def binary(source: Path, case: str, ending: str, label: int) -> sitk.Image | None:
    """The target as 1; None where the case does not have it."""
    image = sitk.ReadImage(str(source / "labelsTr" / f"{case}{ending}"))
    mask = sitk.Cast(image == label, sitk.sitkUInt8)
    return mask if sitk.GetArrayViewFromImage(mask).any() else None


if __name__ == "__main__":
    main()
