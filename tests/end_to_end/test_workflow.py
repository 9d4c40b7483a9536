"""nnU-Net's own commands, from plans to an installed model, with SAM3DAdapterTrainer inside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnsam3d.nnunet.link import trainers_folder
from nnsam3d.training.optimizer import WarmupLinear
from nnsam3d.training.options import TrainingOptions

from .conftest import QUICK, Workspace

pytestmark = pytest.mark.e2e
MODEL_FLAGS = ("-d", "990", "-c", "3d_fullres", "-f", "0", "-device", "cpu", "--disable_tta")
PREDICT = (*MODEL_FLAGS, "-tr", "SAM3DAdapterTrainer")
SEQUENTIAL = ("-npp", "0", "-nps", "0")
PARALLEL = ("-npp", "1", "-nps", "1")
ROUNDED = 5e-3  # nnU-Net sums logits in half precision: another number of threads may round the last digit otherwise


def write_prompts(folder: Path, **cases: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for case, clicks in cases.items():
        content = {"nnsam3d_prompts": 1, "space": "voxel", "clicks": clicks}
        (folder / f"{case}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def click(*position: float, label: Any = "lesion") -> dict[str, Any]:
    return {"position": list(position), "label": label}


def probabilities(folder: Path, case: str) -> np.ndarray:
    with np.load(folder / f"{case}.npz") as file:
        return file["probabilities"]


def read_mask(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def outputs(folder: Path) -> list[str]:
    """Everything but nnU-Net's records of the call."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".json") if folder.is_dir() else []


def masks(folder: Path) -> list[str]:
    return [name for name in outputs(folder) if name.endswith(".nii.gz")]


def test_the_model_folder_describes_itself(trained: Workspace) -> None:
    plans = json.loads((trained.model / "plans.json").read_text())
    entry = plans["configurations"]["3d_fullres"]
    assert entry["nnsam3d"]["preset"] == "tiny"
    assert entry["nnsam3d"]["num_epochs"] == 2
    assert entry["nnsam3d_weights"] == {"source": "scratch"}
    assert entry["architecture"]["network_class_name"] == "nnsam3d.network.sam3d.SAM3D"
    (log,) = (trained.model / "fold_0").glob("training_log*.txt")
    text = log.read_text()
    for part in ("preset='tiny'", "everything, from scratch", "1 simulated click(s) per case", "Mean Validation Dice"):
        assert part in text
    summary = json.loads((trained.model / "fold_0" / "validation" / "summary.json").read_text())
    assert len(summary["metric_per_case"]) == 2


def test_continued_training_keeps_its_options_and_learning_rate(trained: Workspace) -> None:
    """--c with nothing but a longer training in the environment: the network is the checkpoint's."""
    trained.run(
        "nnUNetv2_train", "990", "3d_fullres", "0", "-tr", "SAM3DAdapterTrainer", "-device", "cpu", "--c", "--npz",
        nnsam3d_options="num_epochs=4",
    )  # fmt: skip
    checkpoint = torch.load(trained.model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["current_epoch"] == 4
    uninterrupted = WarmupLinear(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), TrainingOptions(num_epochs=4).resolved("cpu")
    )
    lrs = checkpoint["logging"]["lrs"]
    assert len(lrs) == 4, "two epochs of the first run, two of the second"
    assert lrs[2:] == [uninterrupted.learning_rate_at(epoch) for epoch in (2, 3)]


def test_validation_with_other_numbers_of_clicks(trained: Workspace) -> None:
    text = trained.run(
        "nnUNetv2_train", "990", "3d_fullres", "0", "-tr", "SAM3DAdapterTrainer", "-device", "cpu", "--val", "--npz",
        nnsam3d_options="validation_clicks=5",
    )  # fmt: skip
    assert "final validation with 5 simulated click(s)" in text
    assert "Mean Validation Dice" in text


def test_recorded_validation_prompts_repeat_the_validation(trained: Workspace, tmp_path: Path) -> None:
    """Final validation and prediction from prompt files are two ways to the same masks."""
    fold = trained.model / "fold_0"
    images = tmp_path / "images"
    images.mkdir()
    for prompts in (fold / "validation_prompts").glob("*.json"):
        name = f"{prompts.stem}_0000.nii.gz"
        (images / name).symlink_to(trained.test_images.parent / "imagesTr" / name)
    flags = [flag for flag in PREDICT if flag != "--disable_tta"]
    trained.run("nnUNetv2_predict", "-i", images, "-o", tmp_path / "out", *flags, *SEQUENTIAL,
                nnsam3d_prompts=str(fold / "validation_prompts"))  # fmt: skip
    assert len(masks(tmp_path / "out")) == 2
    for name in masks(tmp_path / "out"):
        ours, theirs = (read_mask(folder / name) for folder in (tmp_path / "out", fold / "validation"))
        assert (ours != theirs).mean() < 1e-4


@pytest.fixture(scope="module")
def automatic_folder(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predicted with a folder of prompts that has none, after the training has gone on."""
    folder, nothing = tmp_path_factory.mktemp("automatic"), tmp_path_factory.mktemp("no prompts")
    trained.run("nnUNetv2_predict", "-i", trained.test_images, "--save_probabilities", "-o", folder, *PREDICT,
                *PARALLEL, nnsam3d_prompts=str(nothing))  # fmt: skip
    return folder


def test_every_way_of_predicting_gives_the_same(trained: Workspace, automatic_folder: Path, tmp_path: Path) -> None:
    """Parallel, sequential, from the model folder, Python predictor; no prompt file means automatic."""
    prompts = write_prompts(tmp_path / "prompts", test_000=[click(20, 20, 10), click(5, 20, 10, label=0)])
    common = {"nnsam3d_prompts": str(prompts)}
    inputs = ("-i", trained.test_images, "--save_probabilities")
    text = trained.run("nnUNetv2_predict", *inputs, "-o", tmp_path / "parallel", *PREDICT, *PARALLEL, **common)
    assert text.count("segmented automatically") == 1
    trained.run("nnUNetv2_predict", *inputs, "-o", tmp_path / "sequential", *PREDICT, *SEQUENTIAL, **common)
    trained.run(
        "nnUNetv2_predict_from_modelfolder", *inputs, "-o", tmp_path / "folder", "-m", trained.model,
        "-f", "0", "-device", "cpu", "--disable_tta", *PARALLEL, **common,
    )  # fmt: skip
    for case in ("test_000", "test_001"):
        reference = probabilities(tmp_path / "parallel", case)
        for way in ("sequential", "folder"):
            np.testing.assert_allclose(probabilities(tmp_path / way, case), reference, atol=ROUNDED)
    assert not np.array_equal(
        probabilities(automatic_folder, "test_000"), probabilities(tmp_path / "parallel", "test_000")
    )
    automatic, unclicked = (probabilities(way, "test_001") for way in (automatic_folder, tmp_path / "parallel"))
    np.testing.assert_allclose(automatic, unclicked, atol=ROUNDED)
    _check_python_predictor(trained, probabilities(tmp_path / "parallel", "test_000"))


def _check_python_predictor(trained: Workspace, reference: np.ndarray) -> None:
    program = f"""
import numpy as np, torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnsam3d.prompts import CasePrompts, Click
predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"))
predictor.initialize_from_trained_model_folder({str(trained.model)!r}, (0,))
image, properties = SimpleITKIO().read_images([{str(trained.test_images / "test_000_0000.nii.gz")!r}])
properties["nnsam3d_prompts"] = CasePrompts("a", "voxel", (Click((20, 20, 10), "lesion"), Click((5, 20, 10), 0)))
_, probabilities = predictor.predict_single_npy_array(image, properties, save_or_return_probabilities=True)
np.save({str(trained.root / "python.npy")!r}, probabilities)
"""
    subprocess.run([sys.executable, "-c", program], env=trained.environment, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(trained.root / "python.npy"), reference, atol=ROUNDED)


@pytest.mark.parametrize("workers", [PARALLEL, SEQUENTIAL], ids=["parallel", "sequential"])
def test_a_bad_prompt_file_is_the_last_thing_said(trained: Workspace, tmp_path: Path, workers: tuple[str, ...]) -> None:
    """Also when it belongs to a later case: nothing is predicted before all files are good."""
    prompts = write_prompts(
        tmp_path / "prompts", test_000=[click(20, 20, 10)], test_001=[click(20, 20, 10), click(400, 20, 10)]
    )
    text = trained.run(
        "nnUNetv2_predict", "-i", trained.test_images, "-o", tmp_path / "out", *PREDICT, *workers,
        ok=False, nnsam3d_prompts=str(prompts),
    )  # fmt: skip
    end = " ".join(text.rstrip().splitlines()[-3:])
    assert "test_001.json" in end
    assert "click 2" in end
    assert outputs(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("presets=tiny", "unknown option presets. Known options: preset,"),
        ("preset=vit_b", "no SAM checkpoint for preset vit_b"),
        ("preset=tiny weights=/nowhere.pth", "no such file"),
        ("preset=tiny window=32", "window (32, 32, 32) is larger than the token grid"),
    ],
)
def test_a_training_that_cannot_work_does_not_start(workspace: Workspace, options: str, message: str) -> None:
    text = workspace.run(
        "nnUNetv2_train", "990", "3d_fullres", "1", "-tr", "SAM3DAdapterTrainer", "-device", "cpu",
        ok=False, nnsam3d_options=options, XDG_CACHE_HOME=str(workspace.root), NNSAM3D_WEIGHTS="",
        nnsam3d_weights_url="http://127.0.0.1:9", no_proxy="127.0.0.1",
    )  # fmt: skip
    assert message in " ".join(text.rstrip().splitlines()[-4:])
    left = {path.name.split("_")[0] for path in (workspace.model / "fold_1").glob("*")}
    assert left <= {"training"}, "nothing but the log"


def test_truncated_weights_and_other_networks_are_refused(trained: Workspace, tmp_path: Path) -> None:
    broken = tmp_path / "sam_vit_b_01ec64.pth"
    broken.write_bytes(b"PK\x03\x04 cut off")
    flags = ("990", "3d_fullres", "1", "-tr", "SAM3DAdapterTrainer", "-device", "cpu")
    text = trained.run("nnUNetv2_train", *flags, ok=False, nnsam3d_options=f"preset=vit_b weights={broken}")
    assert str(broken) in " ".join(text.rstrip().splitlines()[-4:])
    # fold 0 of this model folder is a tiny network: another one must not overwrite its plans
    text = trained.run("nnUNetv2_train", *flags, ok=False, nnsam3d_options=f"{QUICK} window=3")
    assert "contains another network" in text
    plans = json.loads((trained.model / "plans.json").read_text())
    assert plans["configurations"]["3d_fullres"]["nnsam3d"]["window"] == 0


def test_best_configuration_ensemble_postprocessing_export_and_install(
    trained: Workspace, automatic_folder: Path, tmp_path: Path
) -> None:
    """Both trainers; the trainer is found by the link this time."""
    unet = "nnUNetBaselineTrainer"
    trained.run(
        "nnUNetv2_train", "990", "3d_fullres", "0", "-tr", unet, "-device", "cpu", "--npz", nnsam3d_options=QUICK
    )
    trained.run(
        "nnUNetv2_find_best_configuration", "990", "-c", "3d_fullres", "-tr", "SAM3DAdapterTrainer", unet, "-f", "0"
    )
    ours, theirs = automatic_folder, tmp_path / "theirs"
    trained.run("nnUNetv2_predict", "-i", trained.test_images, "-o", theirs, "--save_probabilities", *MODEL_FLAGS,
                "-tr", unet, *SEQUENTIAL)  # fmt: skip
    trained.run("nnUNetv2_ensemble", "-i", ours, theirs, "-o", tmp_path / "ensemble", "-np", "2")
    assert masks(tmp_path / "ensemble") == ["test_000.nii.gz", "test_001.nii.gz"]

    # beside whichever of the two models and their ensemble was best
    (postprocessing,) = (trained.root / "results").rglob("postprocessing.pkl")
    trained.run(
        "nnUNetv2_apply_postprocessing", "-i", ours, "-o", tmp_path / "post", "-pp_pkl_file", postprocessing,
        "-plans_json", trained.model / "plans.json", "-dataset_json", trained.model / "dataset.json", "-np", "2",
    )  # fmt: skip
    assert masks(tmp_path / "post") == ["test_000.nii.gz", "test_001.nii.gz"]

    archive, elsewhere = tmp_path / "model.zip", tmp_path / "installed"
    trained.run("nnUNetv2_export_model_to_zip", "-d", "990", "-c", "3d_fullres", "-tr", "SAM3DAdapterTrainer",
                "-f", "0", "-o", archive)  # fmt: skip
    elsewhere.mkdir()
    installed = {"nnUNet_results": str(elsewhere), "nnUNet_raw": str(tmp_path), "nnUNet_preprocessed": str(tmp_path)}
    trained.run("nnUNetv2_install_pretrained_model_from_zip", archive, **installed)
    linked = _link(trained)
    try:
        trained.run(
            "nnUNetv2_predict", "-i", trained.test_images, "-o", tmp_path / "again", "--save_probabilities", *PREDICT,
            *PARALLEL, nnUNet_extTrainer="", **installed,
        )  # fmt: skip
    finally:
        if linked:
            trained.run("nnsam3d", "link", "--undo")
    for case in ("test_000", "test_001"):
        np.testing.assert_array_equal(probabilities(tmp_path / "again", case), probabilities(ours, case))
        mask = sitk.ReadImage(str(tmp_path / "again" / f"{case}.nii.gz"))
        image = sitk.ReadImage(str(trained.test_images / f"{case}_0000.nii.gz"))
        assert mask.GetSize() == image.GetSize()


def _link(workspace: Workspace) -> bool:
    """Link, and say whether it was this call that did it."""
    import importlib.util

    spec = importlib.util.find_spec("nnunetv2")
    assert spec is not None and spec.submodule_search_locations  # noqa: PT018
    folder = Path(spec.submodule_search_locations[0]) / "training" / "nnUNetTrainer"
    before = set(folder.glob("nnsam3d_*.py"))
    workspace.run("nnsam3d", "link")
    return set(folder.glob("nnsam3d_*.py")) != before


def test_regions_channels_ignore_label_and_two_folds(workspace: Workspace, tmp_path: Path) -> None:
    """Overlapping regions, an ignore label, two channels and another file format; two folds, mirrored."""
    target, images = workspace.root / "raw" / "Dataset991_Regions", tmp_path / "images"
    _write_region_dataset(workspace.root / "raw" / "Dataset990_PhantomCT", target, images)
    workspace.run("nnUNetv2_plan_and_preprocess", "-d", "991", "-c", "3d_fullres", "-npfp", "1", "-np", "1")
    for fold, more in (("0", ""), ("1", " final_validation=0")):
        workspace.run(
            "nnUNetv2_train", "991", "3d_fullres", fold, "-tr", "SAM3DAdapterTrainer", "-device", "cpu",
            nnsam3d_options=QUICK + more,
        )  # fmt: skip

    for channel in ("0000", "0001"):  # the same image once more, for a click with another label
        (images / f"again_{channel}.mha").symlink_to(images / f"test_000_{channel}.mha")
    clicks = {"test_000": "whole", "again": 2}
    prompts = write_prompts(
        tmp_path / "prompts",
        **{case: [click(20, 20, 10, label=label), click(5, 20, 10, label=0)] for case, label in clicks.items()},
    )
    workspace.run(
        "nnUNetv2_predict", "-i", images, "-o", tmp_path / "out", "-d", "991", "-c", "3d_fullres",
        "-f", "0", "1", "-device", "cpu", "-tr", "SAM3DAdapterTrainer", *SEQUENTIAL, "--save_probabilities",
        nnsam3d_prompts=str(prompts),
    )  # fmt: skip
    assert {"again.mha", "test_000.mha", "test_001.mha"} <= set(outputs(tmp_path / "out"))
    whole, core = (probabilities(tmp_path / "out", case) for case in clicks)
    assert whole.shape[0] == 2, "one map per region"
    assert not np.array_equal(whole, core), "the label of a click matters"


def _write_region_dataset(source: Path, target: Path, images: Path) -> None:
    for folder in (target / "imagesTr", target / "labelsTr", images):
        folder.mkdir(parents=True)
    for folder, copies in ((source / "imagesTr", target / "imagesTr"), (source / "imagesTs", images)):
        for file in folder.iterdir():
            image = sitk.ReadImage(str(file))
            name = file.name.removesuffix("_0000.nii.gz")
            sitk.WriteImage(image, str(copies / f"{name}_0000.mha"))
            sitk.WriteImage(sitk.SmoothingRecursiveGaussian(image, 3.0), str(copies / f"{name}_0001.mha"))
    for file in (source / "labelsTr").iterdir():
        stored = sitk.ReadImage(str(file))
        array = sitk.GetArrayFromImage(stored)
        array[sitk.GetArrayFromImage(sitk.BinaryErode(stored, [1, 1, 0])) == 1] = 2  # the core
        array[:2] = 3  # not annotated
        changed = sitk.GetImageFromArray(array)
        changed.CopyInformation(stored)
        sitk.WriteImage(changed, str(target / "labelsTr" / file.name.replace(".nii.gz", ".mha")))
    dataset = json.loads((source / "dataset.json").read_text())
    dataset |= {
        "channel_names": {"0": "CT", "1": "smooth"},
        "labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        "regions_class_order": [1, 2],
        "file_ending": ".mha",
    }
    (target / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")


def test_print_path_is_what_ext_trainer_needs(workspace: Workspace) -> None:
    assert Path(workspace.run("nnsam3d", "link", "--print-path").strip()) == trainers_folder()
