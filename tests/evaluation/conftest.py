"""A dataset of four small cases in nnU-Net's folders, with three untrained models: with SAM, with clicks, automatic."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnsam3d.cli import main
from nnsam3d.evaluation import runner, training
from nnsam3d.evaluation.metrics import METRICS
from nnsam3d.evaluation.plan import Job
from nnsam3d.evaluation.results import Result, ScoredAnswer, Timing
from nnsam3d.jobs import local
from nnsam3d.network import SAM3D, SAM3DConfig
from nnsam3d.nnunet.datasets import PROMPT_TYPES_KEY
from nnsam3d.prompts import PromptCodec, VoxelClick, click_labels
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.training.baseline import nnUNetBaselineTrainer
from nnsam3d.training.click_unet import CLICK_CHANNELS_KEY, nnUNetClickTrainer

DATASET = "Dataset998_Benchmark"
REGIONS = "Dataset997_Regions"
CASES = ("a", "b", "c", "d")
PATCH = (16, 16, 16)
SAM: dict[str, Any] = {
    "patch_size": PATCH,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "window": (4, 4, 4),
    "token_stride": (4, 4, 4),
    "neck_dim": 16,
    "decoder_dim": 8,
    "prompt_heads": 4,
    "prompt_mlp_dim": 32,
    "pos_embed_size": (8, 8),
    "max_clicks": 4,
}


def _plans(dataset: str, architecture: dict[str, Any], **entry: Any) -> dict[str, Any]:
    configuration = {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH),
        "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": architecture,
        **entry,
    }
    kwargs = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    for what in ("data", "seg", "probabilities"):
        configuration[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{what}_kwargs"] = {**kwargs, "is_seg": what == "seg"}
    return {
        "dataset_name": dataset,
        "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {"3d_fullres": configuration},
    }


def _write_case(raw: Path, name: str, rng: np.random.Generator, core: bool) -> None:
    truth = np.zeros((12, 24, 20), np.uint8)
    z, y, x = rng.integers((3, 5, 5), (9, 19, 15))
    truth[z - 2 : z + 2, y - 4 : y + 4, x - 3 : x + 3] = 1
    if core:
        truth[z - 1 : z + 1, y - 2 : y + 2, x - 1 : x + 2] = 2
    image = rng.normal(100, 10, truth.shape) + 60 * truth
    for array, path in (
        (image.astype(np.float32), raw / "imagesTr" / f"{name}_0000.nii.gz"),
        (truth, raw / "labelsTr" / f"{name}.nii.gz"),
    ):
        written = sitk.GetImageFromArray(array)
        written.SetSpacing((1.0, 1.0, 2.0))
        sitk.WriteImage(written, str(path))


def _write_model(
    results: Path, trainer: str, network: torch.nn.Module, plans: dict[str, Any], about: dict[str, Any]
) -> None:
    folder = results / plans["dataset_name"] / f"{trainer}__{plans['plans_name']}__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    save_json(plans, str(folder / "plans.json"))
    save_json(about, str(folder / "dataset.json"))
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": trainer,
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "logging": {"epoch_start_timestamps": [0.0, 70.0], "epoch_end_timestamps": [60.0, 160.0]},
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")


def _write_dataset(root: Path, dataset: str, labels: dict[str, Any], unet: dict[str, Any]) -> None:
    """Four cases, of which fold 0 holds back c and d; two regions where a label is a list."""
    regions = any(isinstance(value, list) for value in labels.values())
    raw = root / "raw" / dataset
    for folder in (raw / "imagesTr", raw / "labelsTr", root / "preprocessed" / dataset):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for name in CASES:
        _write_case(raw, name, rng, core=regions)
    about: dict[str, Any] = {"labels": labels, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz", "numTraining": 4}
    about |= {"regions_class_order": [1, 2]} if regions else {}
    (raw / "dataset.json").write_text(json.dumps(about))
    split = [{"train": ["a", "b"], "val": ["d", "c"]}, {"train": ["c", "d"], "val": ["a", "b"]}]
    (root / "preprocessed" / dataset / "splits_final.json").write_text(json.dumps(split))
    torch.manual_seed(0)
    _write_models(root / "results", dataset, unet, about)
    _write_models(root / "results", dataset, unet, about, tuple(KINDS))


def _write_models(
    results: Path, dataset: str, unet: dict[str, Any], about: dict[str, Any], kinds: tuple[str, ...] = ()
) -> None:
    """A SAM and two U-Nets; with ``kinds``, a SAM and a U-Net that take these prompts, under nnUNetKindsPlans."""
    codec = PromptCodec.of(kinds, click_labels(about), [2.0, 1.0, 1.0])
    entry = {PROMPT_TYPES_KEY: list(codec.kinds)} if kinds else {}
    name = {"plans_name": "nnUNetKindsPlans" if kinds else "nnUNetPlans"}
    kwargs = SAM | {"num_click_labels": codec.labels, "extent_maps": len(codec.maps)}
    architecture = {"network_class_name": "nnsam3d.network.SAM3D", "arch_kwargs": kwargs, "_kw_requires_import": []}
    # two maps: background and lesion, or two regions
    sam = SAM3D(SAM3DConfig(**kwargs, num_image_channels=1, num_classes=2))
    with torch.no_grad():  # as initialised a network hardly listens to its clicks
        for parameter_name, parameter in sam.named_parameters():
            if not parameter_name.endswith(".lr"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    _write_model(results, "SAM3DAdapterTrainer", sam, _plans(dataset, architecture, **entry) | name, about)
    channels = {"labels": codec.labels, "radius": [2, 4, 4], "maps": len(codec.maps)}
    plans = _plans(dataset, unet, **entry, **{CLICK_CHANNELS_KEY: channels}) | name
    manager = PlansManager(plans)
    for trainer in (nnUNetClickTrainer,) if kinds else (nnUNetClickTrainer, nnUNetBaselineTrainer):
        configuration = manager.get_configuration("3d_fullres")
        network = trainer.build_network_architecture(manager, configuration, 1, 2, False)
        _write_model(results, trainer.__name__, network, plans, about)


@pytest.fixture(scope="session")
def bench_folders(tmp_path_factory: pytest.TempPathFactory, unet_architecture: dict[str, Any]) -> dict[str, str]:
    """nnUNet_raw, nnUNet_preprocessed and nnUNet_results."""
    root = tmp_path_factory.mktemp("bench")
    _write_dataset(root, DATASET, {"background": 0, "lesion": 1}, unet_architecture)
    return {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}


@pytest.fixture
def region_dataset(bench: str, bench_folders: dict[str, str], unet_architecture: dict[str, Any]) -> str:
    """The name of a dataset with regions, in the same folders."""
    root = Path(bench_folders["nnUNet_raw"]).parent
    if not (root / "results" / REGIONS).is_dir():
        _write_dataset(root, REGIONS, {"background": 0, "tumour": [1, 2], "core": 2}, unet_architecture)
    return REGIONS


def _in_nnunets_folders(patch: pytest.MonkeyPatch, folders: dict[str, str], checkout: Path) -> None:
    for name, value in (folders | {"nnUNet_extTrainer": str(checkout / "trainers")}).items():
        patch.setenv(name, value)


@pytest.fixture
def bench(bench_folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, checkout: Path) -> str:
    """nnU-Net's folders in the environment; gives the dataset's name."""
    _in_nnunets_folders(monkeypatch, bench_folders, checkout)
    return DATASET


class Ended:
    """A process that has run."""

    exitcode = 0

    def is_alive(self) -> bool:
        return False


def start_here(target: Any, arguments: Any) -> Ended:
    """In this process: a fresh one loads torch."""
    function, task, _ = arguments
    function(*task)
    return Ended()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run in this process."""
    monkeypatch.setattr(local, "start", start_here)
    monkeypatch.setattr(runner, "PAUSE", 0.0)


def run_here(arguments: list[str], folders: dict[str, str], checkout: Path) -> None:
    """A benchmark that nobody disturbs, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        _in_nnunets_folders(patch, folders, checkout)
        patch.setattr(local, "start", start_here)
        patch.setattr(runner, "PAUSE", 0.0)
        assert main(arguments) == 0


@pytest.fixture
def fake_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script into the place of nnUNetv2_train."""
    monkeypatch.setattr(training.time, "sleep", lambda _: None)

    def install(text: str) -> None:
        script = tmp_path / "train.py"
        script.write_text(f"#!{sys.executable}\n{text}")
        script.chmod(0o755)
        monkeypatch.setattr(training, "nnunet_command", lambda name: str(script))

    return install


def result_of(
    case: str,
    *dices: float | None,
    seed: int = 0,
    fold: str = "0",
    training: int | None = None,
    obeyed: Sequence[float] | None = None,
) -> Result:
    """Steps with these Dice; ``obeyed``: shares from the first click on, None: of an earlier version."""
    shares = [None, *(obeyed or [1.0] * len(dices))]
    clicks = [None, *[VoxelClick((0, 0, 0), 1)] * len(dices)]
    steps = tuple(
        ScoredAnswer(n, clicks[n], {"lesion": dict.fromkeys(METRICS, dice)}, shares[n], obeyed is not None)
        for n, dice in enumerate(dices)
    )
    job = Job("D", "3d_fullres", fold, "arm", "iterative", training)
    return Result(job, case, seed, "", "", steps, Timing(0.0, first=True))
