"""A trained model: its folder as plans, labels and networks, and nnU-Net's way from image to mask.

Letters: C image channels, P prompt channels, K logit maps, D H W voxels of the preprocessed image.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nnsam3d.errors import UserError
from nnsam3d.files import file_sha256
from nnsam3d.geometry import Triple
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.contract import (
    PlansManager,
    convert_predicted_logits_to_segmentation_with_correct_shape,
    determine_num_input_channels,
    nnUNetPredictor,
    recursive_find_python_class,
    recursive_find_trainer_class_by_name,
)
from nnsam3d.nnunet.datasets import (
    ANY_SPACING_KEY,
    COMPONENTS_KEY,
    FINAL,
    PROMPT_TYPES_KEY,
    common_ending,
    find_folds,
    num_channels,
)
from nnsam3d.nnunet.link import trainers_folder
from nnsam3d.nnunet.preprocessing import PromptedPreprocessor, codec_of
from nnsam3d.nnunet.reading import read_label_map, read_volume
from nnsam3d.prompts import PromptCodec, click_labels
from nnsam3d.prompts.labels import declared_values
from nnsam3d.prompts.targets import is_class_agnostic

M = TypeVar("M", bound="TrainedModel")


class TrainedModel:
    """A trained model folder, with its networks in memory.

    Attributes:
        predictor: nnU-Net's predictor, initialised: sliding window and label handling.
        trainer: the class that trained it; defines the capabilities of the network (see :func:`capability`).
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
        trusted: bool = False,
        objects: Sequence[str] = (),
    ) -> None:
        """
        Args:
            folder: nnU-Net's model folder, `.../<trainer>__<plans>__<configuration>`.
            folds: to ensemble; None = all trained folds.
            step_size: of the sliding window, as a fraction of the patch.
            mirroring: test-time mirroring over the axes allowed by the training.
            trusted: see :func:`open_checkpoint`.
            objects: names of labels 1, 2, …, for class-agnostic models; none: prompts may use any name.

        Raises:
            UserError: a missing folder, file or fold, an invalid checkpoint or one with more than data, a missing
                trainer, or ``objects`` for a model with labels of its own.
        """
        self.folder = Path(folder)
        self.folds, self.checkpoint = find_folds(self.folder, folds, checkpoint)
        self.device = torch.device(device)
        dataset_json = json.loads((self.folder / "dataset.json").read_text(encoding="utf-8"))
        plans_manager = PlansManager(json.loads((self.folder / "plans.json").read_text(encoding="utf-8")))
        parameters = []
        for file in self.checkpoint_files:
            loaded = open_checkpoint(file, trusted)
            parameters.append(loaded["network_weights"])
        self.configuration = str(loaded["init_args"]["configuration"])
        configuration_manager = plans_manager.get_configuration(self.configuration)
        self.trainer = _trainer_class(loaded["trainer_name"])
        network = _build(self.trainer, plans_manager, configuration_manager, dataset_json)
        self._check_network(network, loaded["trainer_name"])
        self.networks = [_with_weights(network, weights).to(self.device) for weights in parameters]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its settings on all devices but cuda
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
        self.codec: PromptCodec = codec_of(self.configuration_manager.configuration, self.labels)
        self.open_labels = self.class_agnostic and not objects
        if objects:
            self.labels = self._of_objects(objects)

    def _check_network(self, network: nn.Module, trainer_name: str) -> None:
        """Hook for subclasses: raises UserError for unsupported networks."""

    @property
    def prompt_types(self) -> tuple[str, ...]:
        """Types of prompts that the network supports, for example ("click",); () if it only segments automatically."""
        types = self.configuration_manager.configuration.get(PROMPT_TYPES_KEY, capability(self.trainer, "prompt_types"))
        return tuple(types)

    @property
    def class_agnostic(self) -> bool:
        """Whether the network segments any object that is prompted, one at a time (targets=any in training)."""
        return is_class_agnostic(self.configuration_manager.configuration)

    @property
    def any_spacing(self) -> bool:
        """Whether images may have any spacing on the network's grid, see :meth:`at_spacing`."""
        return bool(self.configuration_manager.configuration.get(ANY_SPACING_KEY, False))

    @property
    def plans_of_spacing(self) -> dict[str, Any]:
        """The plans, which say what spacing is usual; {} if any is."""
        return {} if self.any_spacing else self.plans_manager.plans

    def at_spacing(self: M, spacing_mm: float) -> M:
        """The same networks, for images on a grid of cubic voxels with edges of ``spacing_mm``."""
        other = copy.copy(self)
        other.predictor = copy.copy(self.predictor)
        plans = copy.deepcopy(self.plans_manager.plans)
        plans["configurations"][self.configuration]["spacing"] = [float(spacing_mm)] * 3
        other.predictor.plans_manager = PlansManager(plans)
        other.predictor.configuration_manager = other.plans_manager.get_configuration(self.configuration)
        # the network's labels, which are not those of the objects
        other.codec = replace(self.codec, pitch=codec_of(other.configuration_manager.configuration, self.labels).pitch)
        return other

    @property
    def file_labels(self) -> dict[str, int] | None:
        """The labels that prompt files may use; None: any."""
        return None if self.open_labels else self.labels

    def _of_objects(self, objects: Sequence[str]) -> dict[str, int]:
        if not self.class_agnostic:
            raise UserError(
                f"{self.folder}: this model was trained with the labels {', '.join(self.labels)}; only class-agnostic "
                "models (targets=any) take others"
            )
        if len({*objects, "background", ""}) != len(objects) + 2:
            raise UserError(f"labels {', '.join(objects)}: each needs a name of its own; background is always there")
        return {"background": 0, **{name: value for value, name in enumerate(objects, start=1)}}

    @property
    def components(self) -> str:
        """Which components a prediction around prompts keeps by default: "prompted", or "all" (earlier versions)."""
        return str(self.configuration_manager.configuration.get(COMPONENTS_KEY, "all"))

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

    def take_ending_of(self, images: Path) -> None:
        """For the starter, which belongs to no dataset: images and masks get the ending that most images there have."""
        endings = [*self.reader.supported_file_endings, ".nii"]  # which it reads, but does not name
        if self.any_spacing and (ending := common_ending(images, endings)):
            self.predictor.dataset_json = {**self.dataset_json, "file_ending": ending}

    @property
    def reader(self) -> Any:
        """nnU-Net's reader and writer of images and label maps."""
        return self.plans_manager.image_reader_writer_class()

    @property
    def reader_name(self) -> str:
        """nnU-Net's name of the class that reads images."""
        return str(type(self.reader).__name__)

    @property
    def num_channels(self) -> int:
        """Image channels, each in a separate file of a case."""
        return num_channels(self.dataset_json)

    @property
    def patch_size(self) -> Triple:
        """(D, H, W) voxels of a window."""
        d, h, w = (int(size) for size in self.configuration_manager.patch_size)
        return d, h, w

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm along D, H, W of the preprocessed image."""
        d, h, w = (float(length) for length in self.configuration_manager.spacing)
        return d, h, w

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Spatial axes (0 = D) that test-time mirroring flips."""
        axes = self.predictor.allowed_mirroring_axes if self.predictor.use_mirroring else None
        return tuple(axes or ())

    # ------------------------------------------------------------------ from files to the network

    def read(self, images: Sequence[str | Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """A case's images (C, z, y, x) and nnU-Net's properties; errors as in :func:`read_volume`."""
        return read_volume(self.reader, [str(path) for path in images], self.num_channels)

    def read_labels(self, path: str | Path) -> NDArray[Any]:
        """A label map (z, y, x)."""
        return read_label_map(self.reader, str(path))

    def preprocess(
        self, image_CZYX: NDArray[Any], properties: dict[str, Any]
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """An image as returned by nnU-Net's reader -> network input (C + P, D, H, W) and nnU-Net's properties.

        The prompt channels come last; networks without prompts have none.
        """
        kind: Any = PromptedPreprocessor if self.prompt_types else self.configuration_manager.preprocessor_class
        data, _, properties = kind(verbose=False).run_case_npy(
            image_CZYX, None, properties, self.plans_manager, self.configuration_manager, self.dataset_json
        )
        return data, properties

    # ------------------------------------------------------------------ from the network to a mask

    def everywhere(self, data_CDHW: NDArray[np.float32]) -> torch.Tensor:
        """nnU-Net's sliding window over a preprocessed image with prompt channels: logits (K, D, H, W).

        In half precision, like nnU-Net, so that ties are resolved in the same way.

        Raises:
            UserError: see :func:`check_logits`.
        """
        # it loads each fold into the same network, which shares the memory of the first fold
        self.predictor.network = copy.deepcopy(self.networks[0]) if len(self.networks) > 1 else self.networks[0]
        logits: torch.Tensor = self.predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data_CDHW))
        check_logits(logits, self.folder)
        return logits.cpu()

    def export(
        self, logits_KDHW: torch.Tensor | NDArray[np.float32], properties: dict[str, Any], probabilities: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """nnU-Net's export to the image's grid: label map (z, y, x) and, optionally, probabilities (K, z, y, x)."""
        result = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits_KDHW,
            self.plans_manager,
            self.configuration_manager,
            self.label_manager,
            properties,
            return_probabilities=probabilities,
        )
        return result if probabilities else (np.asarray(result), None)

    def take_weights(self, weights: dict[str, Any]) -> None:
        """Other weights of the same network, for a model of one fold."""
        self.networks[0].load_state_dict(weights)
        # on a GPU the predictor's are tensors of their own, which it loads into the network before every image
        self.predictor.list_of_parameters[:] = [weights]

    def digests(self) -> dict[str, str]:
        """SHA-256 of the checkpoints, by fold."""
        return {str(fold): file_sha256(path) for fold, path in zip(self.folds, self.checkpoint_files, strict=True)}


CAPABILITIES: Mapping[str, Any] = {"prompt_types": (), "keeps_features": False, "timed": False}
"""Capabilities that a trainer may declare as class attributes, and their defaults.

``prompt_types``: types of prompts that the network supports. ``keeps_features``: it answers further prompts without
encoding the image again (``encode`` and ``decode`` of :class:`nnsam3d.network.SAM3D`). ``timed``: it supports the
option ``max_minutes``.
"""


def capability(trainer: type | None, name: str) -> Any:
    """A capability of a trainer; see :data:`CAPABILITIES`."""
    return getattr(trainer, name, CAPABILITIES[name])


def check_logits(logits: torch.Tensor, model: Path) -> None:
    """Raises UserError if the network's output contains NaN, which must not become a mask."""
    if logits.isnan().any():
        raise UserError(
            f"{model}: the network's output is NaN, so there is no mask. Its weights may be damaged, or the "
            "image may contain values far from those of the training images: check both, or try another device"
        )


def click_regions(dataset_json: dict[str, Any], label_manager: Any) -> dict[int, frozenset[int]] | None:
    """Click label -> the values of a segmentation inside its region; None for a dataset without regions.

    Args:
        label_manager: nnU-Net's.
    """
    if not label_manager.has_regions:
        return None
    return {label: values for label, values in declared_values(dataset_json).items() if label}


def find_trainer(name: str) -> type | None:
    """The trainer's class, from nnsam3d (linked or not) or found by nnU-Net; None if there is none."""
    try:
        # nnU-Net prints the folders that it searches
        with contextlib.redirect_stdout(io.StringIO()), _keep_matplotlib_backend():
            ours: type | None = recursive_find_python_class(str(trainers_folder()), name, "nnsam3d.trainers")
            return ours or recursive_find_trainer_class_by_name(name)
    except RuntimeError:  # nnunetv2 2.8; earlier ones return None
        return None


@contextlib.contextmanager
def _keep_matplotlib_backend() -> Iterator[None]:
    """Importing a trainer selects the backend "agg", with which a notebook shows no figures."""
    before = dict.__getitem__(matplotlib.rcParams, "backend")  # without choosing one, as rcParams["backend"] would
    try:
        yield
    finally:
        if isinstance(before, str):
            matplotlib.use(before)
        else:
            dict.__setitem__(matplotlib.rcParams, "backend", before)


def _trainer_class(name: str) -> type:
    trainer = find_trainer(name)
    if trainer is None:
        raise UserError(
            f"the model was trained by {name}, which nnU-Net cannot find. Run `nnsam3d link`, or set nnUNet_extTrainer."
        )
    return trainer


def _build(trainer: Any, plans_manager: Any, configuration_manager: Any, dataset_json: dict[str, Any]) -> nn.Module:
    channels = determine_num_input_channels(plans_manager, configuration_manager, dataset_json)
    heads = plans_manager.get_label_manager(dataset_json).num_segmentation_heads
    build = trainer.build_network_architecture
    if "plans_manager" in inspect.signature(build).parameters:
        return build(plans_manager, configuration_manager, channels, heads, enable_deep_supervision=False)  # type: ignore[no-any-return]
    architecture = (  # nnunetv2 before 2.8, and trainers written for it
        configuration_manager.network_arch_class_name,
        configuration_manager.network_arch_init_kwargs,
        configuration_manager.network_arch_init_kwargs_req_import,
    )
    return build(*architecture, channels, heads, enable_deep_supervision=False)  # type: ignore[no-any-return]


def _with_weights(network: nn.Module, weights: dict[str, Any]) -> nn.Module:
    network = copy.deepcopy(network).eval()
    network.load_state_dict(weights, assign=True)  # without a second copy in memory
    return network.requires_grad_(False)
