"""A trained model folder: plans, labels and one network per fold."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.files import file_sha256
from nnsam3d.network import SAM3D
from nnsam3d.prompts import click_labels
from nnsam3d.training import trainer as trainers

FINAL = "checkpoint_final.pth"
Triple = tuple[int, int, int]


class Model:
    """A trained ``SAM3DAdapterTrainer`` (or a subclass), ready to predict.

    Attributes:
        predictor: nnU-Net's own predictor, initialised: stock sliding window and label handling.
        networks: one per fold, sharing the memory of the loaded checkpoints.
        labels: click label name -> value (:func:`nnsam3d.prompts.click_labels`).
        regions: see :func:`click_regions`.
    """

    def __init__(
        self,
        folder: str | Path,
        folds: Sequence[int | str] | None = None,
        checkpoint: str = FINAL,
        device: torch.device | str = "cpu",
        step_size: float = 0.5,
        mirroring: bool = True,
    ) -> None:
        """
        Args:
            folder: nnU-Net's model folder, `.../<trainer>__<plans>__<configuration>`.
            folds: which to ensemble; None = all that are trained.
            step_size: of the stock sliding window, as a share of the patch.
            mirroring: test-time mirroring over the axes that the training allowed.

        Raises:
            UserError: a missing folder, file or fold, or a model of another kind.
        """
        self.folder = Path(folder)
        self.folds = _find_folds(self.folder, folds, checkpoint)
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        dataset_json = load_json(str(self.folder / "dataset.json"))
        plans_manager = PlansManager(load_json(str(self.folder / "plans.json")))
        parameters = []
        for file in self.checkpoint_files:
            # nnU-Net's checkpoints hold more than tensors; they are as trustworthy as the code that was trained with
            loaded = torch.load(file, map_location="cpu", weights_only=False)
            parameters.append(loaded["network_weights"])
        configuration_manager = plans_manager.get_configuration(loaded["init_args"]["configuration"])
        trainer = _trainer_class(loaded["trainer_name"])
        channels = determine_num_input_channels(plans_manager, configuration_manager, dataset_json)
        heads = plans_manager.get_label_manager(dataset_json).num_segmentation_heads
        network = trainer.build_network_architecture(plans_manager, configuration_manager, channels, heads, False)
        if not isinstance(network, SAM3D):
            raise UserError(
                f"{self.folder}: the trainer {loaded['trainer_name']} makes networks without clicks; "
                "predict with nnUNetv2_predict."
            )
        self.networks = [_with_weights(network, weights).to(self.device) for weights in parameters]
        with contextlib.redirect_stdout(io.StringIO()):  # it talks about its settings on every device but cuda
            self.predictor = nnUNetPredictor(
                tile_step_size=step_size,
                use_mirroring=mirroring,
                device=self.device,
                perform_everything_on_device=self.device.type == "cuda",
                allow_tqdm=False,
            )
        self.predictor.manual_initialization(
            self.networks[0],
            plans_manager,
            configuration_manager,
            parameters,
            dataset_json,
            loaded["trainer_name"],
            loaded.get("inference_allowed_mirroring_axes"),
        )
        self.labels = click_labels(dataset_json)
        self.regions = click_regions(dataset_json, self.label_manager)

    @property
    def checkpoint_files(self) -> list[Path]:
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]

    @property
    def plans_manager(self) -> Any:
        return self.predictor.plans_manager

    @property
    def configuration_manager(self) -> Any:
        return self.predictor.configuration_manager

    @property
    def label_manager(self) -> Any:
        return self.predictor.label_manager

    @property
    def dataset_json(self) -> dict[str, Any]:
        return self.predictor.dataset_json  # type: ignore[return-value]

    @property
    def file_ending(self) -> str:
        return str(self.dataset_json["file_ending"])

    @property
    def patch_size(self) -> Triple:
        """(D, H, W) voxels of a window."""
        d, h, w = (int(size) for size in self.configuration_manager.patch_size)
        return d, h, w

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Spatial axes (0 = D) that test-time mirroring flips."""
        axes = self.predictor.allowed_mirroring_axes if self.predictor.use_mirroring else None
        return tuple(axes or ())

    def preprocess(
        self, image_CZYX: NDArray, properties: dict[str, Any]
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """An image as nnU-Net's reader gives it -> network input (C + 1, D, H, W) and nnU-Net's properties.

        The last channel holds the clicks of ``properties["nnsam3d_prompts"]``, if there are any.
        """
        preprocessor = self.configuration_manager.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            image_CZYX, None, properties, self.plans_manager, self.configuration_manager, self.dataset_json
        )
        return data, properties

    def everywhere(self, data_CDHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """nnU-Net's stock sliding window over a preprocessed image with its prompt channel: logits (K, D, H, W)."""
        # it loads fold after fold into the one network it was given, which shares the first fold's memory
        self.predictor.network = copy.deepcopy(self.networks[0]) if len(self.networks) > 1 else self.networks[0]
        logits = self.predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data_CDHW))
        return logits.float().numpy()

    def digests(self) -> dict[str, str]:
        """SHA-256 of the checkpoints, by fold."""
        return {
            str(fold): file_sha256(path) for fold, path in zip(self.folds, self.checkpoint_files, strict=True)
        }


def click_regions(dataset_json: dict[str, Any], label_manager: Any) -> dict[int, frozenset[int]] | None:
    """Click label -> the values of the written segmentation that lie in its region; None in a dataset without regions.

    Args:
        label_manager: nnU-Net's.
    """
    if not label_manager.has_regions:
        return None
    labels = click_labels(dataset_json)
    declared = {labels[name]: value for name, value in dataset_json["labels"].items() if labels.get(name)}
    return {label: frozenset(np.atleast_1d(value).tolist()) for label, value in declared.items()}


def _find_folds(folder: Path, folds: Sequence[int | str] | None, checkpoint: str) -> list[str]:
    missing = [name for name in ("dataset.json", "plans.json") if not (folder / name).is_file()]
    if missing:
        others = sorted(path.parent.name for path in folder.parent.glob("*__*__*/plans.json"))
        there = f" Trained models beside it: {', '.join(others)} (trainer__plans__configuration)." if others else ""
        raise UserError(
            f"{folder}: no trained model ({' and '.join(missing)} missing). Train it first (nnUNetv2_train ... -tr "
            f"SAM3DAdapterTrainer), or check -d, -c, -tr, -p or -m.{there}"
        )
    trained = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint}"))
    wanted = [str(fold) for fold in folds] if folds is not None else [fold for fold in trained if fold != "all"]
    wanted = wanted or trained
    absent = [fold for fold in wanted if fold not in trained]
    if absent or not wanted:
        have = f"folds with it: {', '.join(trained)}" if trained else "no fold has it"
        which = f"fold {', '.join(absent)}" if absent else "the model"
        raise UserError(f"{folder}: {which} has no {checkpoint}; {have}. Choose with -f and -chk.")
    return wanted


def find_trainer(name: str) -> Any | None:
    """The trainer's class, ours or one that nnU-Net finds; None if there is none (nnunetv2 2.8 raises an error)."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it tells where it looks
            return getattr(trainers, name, None) or recursive_find_trainer_class_by_name(name)
    except RuntimeError:
        return None


def _trainer_class(name: str) -> Any:
    trainer = find_trainer(name)
    if trainer is None:
        raise UserError(
            f"the model was trained by {name}, which nnU-Net does not find. Run `nnsam3d link`, or set "
            "nnUNet_extTrainer."
        )
    return trainer


def _with_weights(network: SAM3D, weights: dict[str, Any]) -> SAM3D:
    network = copy.deepcopy(network).eval()
    network.load_state_dict(weights, assign=True)  # no second copy in memory
    return network.requires_grad_(False)
