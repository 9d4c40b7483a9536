"""A dataset without a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnsam3d.nnunet.dataset_reader import DatasetReader


def test_other_files_beside_the_images_do_not_choose_the_reader(tmp_path: Path) -> None:
    labels = {"background": 0, "lesion": 1}
    declared = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(declared))
    images = tmp_path / "imagesTr"
    images.mkdir()
    for name in (".DS_Store", "._b_0000.nii.gz", "a.json"):
        (images / name).write_text("{}")
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.float32)), str(images / "b_0000.nii.gz"))
    reader = DatasetReader(tmp_path)
    assert reader.read([images / "b_0000.nii.gz"])[0].shape == (1, 4, 5, 6)
