"""Masks to start from in training, from a folder: found, resampled, cropped and augmented with their patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnsam3d.errors import UserError
from nnsam3d.network import PRESETS
from nnsam3d.network.prompts import PromptTensors
from nnsam3d.training.clicks import AppendClicks, ClickSimulation
from nnsam3d.training.options import OptionsError, TrainingOptions
from nnsam3d.training.rollout import starting
from nnsam3d.training.start_masks import found_masks
from nnsam3d.training.trainer import SAM3DAdapterTrainer

from .test_rollout import NANO

CASES = ("case_0", "case_1", "case_2")
SIZE = (24, 40, 44)  # z, y, x of the images
SPACING = (2.5, 1.0, 1.25)
RESAMPLING = {
    f"resampling_fn_{what}{more}": value
    for what, is_seg in (("data", False), ("seg", True), ("probabilities", False))
    for more, value in (
        ("", "resample_data_or_seg_to_shape"),
        ("_kwargs", {"is_seg": is_seg, "order": 1, "order_z": 0, "force_separate_z": None}),
    )
}
PLANNED = {"normalization_schemes": ["NoNormalization"], "use_mask_for_norm": [False], **RESAMPLING}


def truth_of(number: int) -> np.ndarray:
    label_map = np.zeros(SIZE, np.uint8)
    label_map[6 + number : 18, 8:24, 10:30] = 1
    label_map[8:14, 26:34, 14 : 24 + number] = 2
    return label_map


def write_map(label_map: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(label_map)
    image.SetSpacing(SPACING[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def trainer(
    plans: dict[str, Any], own_folders: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> SAM3DAdapterTrainer:
    """With three preprocessed cases, two of them for training, of which the first has a mask in ``tmp_path/starts``."""
    monkeypatch.setitem(PRESETS, "nano", NANO)
    monkeypatch.setenv(
        "nnsam3d_options", f"preset=nano weights=scratch cpu_bfloat16=0 start_share=1 start_from={tmp_path / 'starts'}"
    )
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(
        "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.infer_dataset_class", lambda folder: nnUNetDatasetBlosc2
    )
    plans["configurations"]["3d_fullres"] |= PLANNED
    plans |= {
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "image_reader_writer": "SimpleITKIO",
        "continue_training": False,
        "foreground_intensity_properties_per_channel": {"0": {}},
    }
    plans["configurations"]["3d_fullres"]["spacing"] = [1.5, 2.0, 1.0]
    labels = {"background": 0, "organ": 1, "tumour": 2}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    made = SAM3DAdapterTrainer(plans, "3d_fullres", 0, dataset, torch.device("cpu"))
    folder = Path(made.preprocessed_dataset_folder)
    folder.mkdir(parents=True)
    for number, case in enumerate(CASES):
        truth = truth_of(number).astype(np.int16)
        image = np.random.default_rng(number).normal(1, 0.1, SIZE).astype(np.float32) + truth
        image[:3] = 0  # nnU-Net crops it
        data, seg, properties = DefaultPreprocessor(verbose=False).run_case_npy(
            image[None],
            truth[None],
            {"spacing": list(SPACING)},
            made.plans_manager,
            made.configuration_manager,
            dataset,
        )
        blocks = (1, *(min(16, n) for n in seg.shape[1:]))
        nnUNetDatasetBlosc2.save_case(data, seg, properties, str(folder / case), blocks, blocks, blocks, blocks)
    save_json([{"train": list(CASES[:2]), "val": [CASES[2]]}], str(folder.parent / "splits_final.json"))
    write_map(truth_of(0), tmp_path / "starts" / "case_0.nii.gz")
    made.initialize()
    return made


def test_masks_stay_on_their_patches(trainer: SAM3DAdapterTrainer, tmp_path: Path) -> None:
    """The mask of a case is its ground truth: it is the target in every patch, however turned, scaled or mirrored."""
    started = tmp_path / "starts"
    write_map(truth_of(1), started / "case_1.nii.gz")
    np.random.seed(3)  # noqa: NPY002  nnU-Net's
    torch.manual_seed(3)
    training, validation = trainer.get_dataloaders()
    simulation = trainer._click_simulation()
    seen = 0
    for _ in range(4):
        batch = next(training)
        channels = batch["data"][:, -simulation.codec.num_channels :]
        assert batch["target"].shape[1] == 1
        assert not channels[:, :-2].any(), "the mask is the only prompt"
        for number, label in enumerate((1, 2)):
            inside = channels[:, 1 + len(simulation.codec.maps) - 2 + number]
            assert set(inside.unique().tolist()) <= {-1.0, 1.0}
            assert torch.equal(inside > 0, batch["target"][:, 0] == label)
            seen += int((inside > 0).sum())
    assert seen > 1000
    batch = next(validation)
    assert not batch["data"][:, 1 - simulation.codec.num_channels :].any(), "validation is with clicks"


def test_cases_without_a_mask_begin_as_ever(trainer: SAM3DAdapterTrainer, tmp_path: Path) -> None:
    training, _ = trainer.get_tr_and_val_datasets()
    assert [training.load_case(case)[2] is None for case in CASES[:2]] == [False, True]
    stored = sorted((Path(trainer.output_folder) / "starts").iterdir())
    assert len(stored) == 1
    # kept, until the file changes
    before = stored[0].stat().st_mtime_ns
    trainer.get_tr_and_val_datasets()
    assert stored[0].stat().st_mtime_ns == before
    write_map(truth_of(2), tmp_path / "starts" / "case_0.nii.gz")
    training, _ = trainer.get_tr_and_val_datasets()
    _, seg, mask, _ = trainer.get_tr_and_val_datasets()[0].load_case("case_0")
    assert not stored[0].exists()
    assert mask.shape == seg.shape[1:]
    assert (mask[:] != seg[0]).any()


def test_masks_are_resampled_as_the_ground_truth(trainer: SAM3DAdapterTrainer) -> None:
    training, _ = trainer.get_tr_and_val_datasets()
    _, seg, mask, _ = training.load_case("case_0")
    assert mask.shape == seg.shape[1:] != SIZE
    np.testing.assert_array_equal(mask[:], np.maximum(seg[0], 0))


def test_the_folder_of_a_model_holds_the_cases_of_its_folds(tmp_path: Path) -> None:
    for fold, case in enumerate(CASES[:2]):
        write_map(truth_of(fold), tmp_path / f"fold_{fold}" / "validation" / f"{case}.nii.gz")
    found = found_masks(tmp_path, CASES, ".nii.gz")
    assert {case: file.parts[-3] for case, file in found.items()} == {"case_0": "fold_0", "case_1": "fold_1"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (truth_of(0)[1:], r"case_0.*shape \(23, 40, 44\).*\(24, 40, 44\)"),
        (truth_of(0) * 4, r"case_0.*\[4, 8\].*no labels"),
        (None, "none of them|no label map of any"),
    ],
)
def test_what_does_not_fit_is_refused(
    trainer: SAM3DAdapterTrainer, tmp_path: Path, wrong: np.ndarray | None, said: str
) -> None:
    path = tmp_path / "starts" / "case_0.nii.gz"
    path.unlink()
    if wrong is not None:
        write_map(wrong, path)
    with pytest.raises(UserError, match=said):
        trainer.get_tr_and_val_datasets()


def test_a_file_that_is_no_image_is_refused(trainer: SAM3DAdapterTrainer, tmp_path: Path) -> None:
    (tmp_path / "starts" / "case_0.nii.gz").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"case_0"):
        trainer.get_tr_and_val_datasets()


@pytest.mark.parametrize("options", [{"prompt_kinds": "click,box"}, {"start_share": 0.0}])
def test_without_masks_in_the_training_the_folder_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match="start_from"):
        TrainingOptions(start_from="folder", **options)


def test_the_share_of_patches_is_the_one_asked_for() -> None:
    simulation = ClickSimulation.of(TrainingOptions(start_share=0.4), (1, 2), (2.0, 1.0, 1.0))
    transform = AppendClicks(simulation, training=True, rng=np.random.default_rng(0))
    both = torch.zeros(2, 4, 8, 8, dtype=torch.int16)
    both[1, 1:3, 2:6, 2:6] = 2
    found = [transform(image=torch.zeros(1, 4, 8, 8), segmentation=both) for _ in range(200)]
    assert all(len(one["segmentation"]) == 1 for one in found)
    started = [bool(one["image"][-2:].any()) for one in found]
    assert 0.3 < np.mean(started) < 0.5
    first = found[started.index(True)]["image"]
    assert torch.equal(first[-1], torch.where(both[1] == 2, 1.0, -1.0))
    assert (first[-2] == -1).all()


def test_items_that_begin_with_a_mask_keep_it(trainer: SAM3DAdapterTrainer) -> None:
    simulation, manager = trainer._click_simulation(), trainer.label_manager
    channels = torch.zeros(2, simulation.codec.num_channels, 4, 8, 8)
    channels[0, -2:] = -1
    channels[0, -1, 1:3, 2:6, 2:6] = 1
    prompts = PromptTensors.read(channels, 4)
    start = starting(trainer.options, 0, 0, 1, manager, simulation)
    assert start is not None
    after = start(0, torch.randn(2, 3, 4, 8, 8), prompts).dense_BMDHW
    assert after is not None
    assert torch.equal(after[0], channels[0, 1:])
    assert after[1, -2:].any()
