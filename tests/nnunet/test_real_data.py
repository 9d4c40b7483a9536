"""Clicks on real images keep their label through nnU-Net's preprocessing (transposition, crop, resampling)."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy import ndimage

from nnsam3d.nnunet.preprocessing import PromptedPreprocessor
from nnsam3d.prompts import CasePrompts, Click, case_rng, read_channel, simulate_clicks

from .plans import managers

pytestmark = pytest.mark.real_data
CASES = 4  # per set: bounded, for CI
SETS = {
    "Dataset004_Hippocampus": ([0, 1, 2], [1.0, 1.0, 1.0]),
    "Dataset512_STS_MRT1": ([0, 1, 2], [3.3, 1.0, 1.0]),
    "Dataset513_STS_PET": ([1, 0, 2], [5.5, 3.3, 5.5]),
}


@pytest.mark.parametrize("name", SETS)
def test_clicks_keep_their_label(real_data: Path, name: str) -> None:
    folder = real_data / name
    if not folder.is_dir():
        pytest.skip(f"{folder} not found")
    plans, configuration = managers(*SETS[name], normalization="ZScoreNormalization", order=3)
    dataset_json = {"labels": {"background": 0, "one": 1, "two": 2}, "channel_names": {"0": "x"}}
    for label_file in islice(sorted((folder / "labelsTr").glob("*.nii.gz")), CASES):
        case = label_file.name.removesuffix(".nii.gz")
        image, properties = SimpleITKIO().read_images([str(folder / "imagesTr" / f"{case}_0000.nii.gz")])
        seg, _ = SimpleITKIO().read_seg(str(label_file))
        # away from the label's surface, where resampling may decide either way
        inner = np.where(ndimage.minimum_filter(seg[0], 3) == ndimage.maximum_filter(seg[0], 3), seg[0], 0)
        labels = [label for label in (1, 2) if (inner == label).any()]
        clicks = [(p, label) for label in labels for p in simulate_clicks(inner, label, 5, case_rng(case))]
        assert clicks
        properties["nnsam3d_prompts"] = CasePrompts(
            case, "voxel", [Click(tuple(position[::-1]), label) for position, label in clicks]
        )
        data, seg_out, _ = PromptedPreprocessor(verbose=False).run_case_npy(
            image, seg, properties, plans, configuration, dataset_json
        )
        positions, found = read_channel(data[1])
        assert sorted(found.tolist()) == sorted(label for _, label in clicks)
        for position, label in zip(positions, found, strict=True):
            assert seg_out[0][tuple(position)] == label, f"{case}: click of {label} at {position}"
