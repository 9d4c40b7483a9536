"""Who answers the clicks: any trained nnU-Net model, and controls made of it.

Letters: C image channels, K logit maps, D H W voxels of the preprocessed image; results have the axes of nnU-Net's
reader (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.errors import UserError
from nnsam3d.evaluation.benchmark.plan import FINAL, ORACLE, ArmName
from nnsam3d.evaluation.benchmark.protocols import as_prompts
from nnsam3d.inference.binding import TOUCHING, Regions
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model, click_regions
from nnsam3d.network.click_channels import WithClickChannels
from nnsam3d.preprocessing.prompted import network_clicks, read_volume
from nnsam3d.prompts import LabelledClick, click_labels, clicks_to_labels, write_channel

CACHE_BYTES = 2 * 10**9  # click-free features that an arm may keep of one image


class Prepared(Protocol):
    """A case that is read and preprocessed, ready for any clicks."""

    def segment(self, clicks: Sequence[LabelledClick]) -> NDArray[Any]:
        """Clicks (z, y, x) -> label map (z, y, x), the network's own: the clicks are not bound yet.

        The same clicks give the same result.
        """


@dataclass(frozen=True)
class Work:
    """Windows that went through the network: as a whole, or through SAM3D's halves (click-free, and with clicks)."""

    whole: int = 0
    encoded: int = 0
    decoded: int = 0

    def __sub__(self, earlier: Work) -> Work:
        return Work(self.whole - earlier.whole, self.encoded - earlier.encoded, self.decoded - earlier.decoded)


class Arm:
    """A trained model as an arm of the benchmark.

    Attributes:
        kind: "sam" (clicks through nnsam3d's own inference), "clicks" (a network with click channels through nnU-Net's
            sliding window), "automatic" (ignores clicks) or "oracle" (automatic, reduced to what clicks hit).
        labels: click label name -> value. regions: see :func:`click_regions`.
    """

    kind = "automatic"

    def __init__(self, folder: Path, fold: str, device: str, mirroring: bool) -> None:
        self.folder = folder
        self.predictor = nnUNetPredictor(
            use_mirroring=mirroring,
            device=torch.device(device),
            perform_everything_on_device=device.startswith("cuda"),
            allow_tqdm=False,
        )
        self.predictor.initialize_from_trained_model_folder(str(folder), (fold,), FINAL)
        self._begin()

    def _begin(self) -> None:
        """What follows from ``predictor``, once that is there."""
        self.labels = click_labels(self.dataset_json)
        self.regions = click_regions(self.dataset_json, self.predictor.label_manager)
        self._whole = 0
        self.network.register_forward_hook(lambda *_: self._count())  # a copy of the network copies no bound method

    def _count(self) -> None:
        self._whole += 1

    def work(self) -> Work:
        """So far; differences within a case mean something."""
        return Work(self._whole)

    @property
    def dataset_json(self) -> dict[str, Any]:
        return self.predictor.dataset_json  # type: ignore[return-value]

    @property
    def listens(self) -> bool:
        """Whether clicks change anything."""
        return self.kind != "automatic"

    @property
    def network(self) -> torch.nn.Module:
        return self.predictor.network

    def read(self, images: Sequence[Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        return read_volume(self.predictor.plans_manager.image_reader_writer_class(), [str(path) for path in images])

    def read_truth(self, path: Path) -> NDArray[Any]:
        return np.asarray(self.predictor.plans_manager.image_reader_writer_class().read_seg(str(path))[0][0])

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Prepared:
        return _Automatic(PreparedVolume(self, image_CZYX, properties))


class ClickArm(Arm):
    """A network of click channels: the sliding window over image and prompt channel."""

    kind = "clicks"

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Prepared:
        return _Remembering(PreparedVolume(self, image_CZYX, properties))


class OracleArm(Arm):
    """The information of the clicks without a model that uses it."""

    kind = "oracle"

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Prepared:
        return _Oracle(PreparedVolume(self, image_CZYX, properties), self.regions)


class SamArm(Arm):
    """SAM3DAdapterTrainer as `nnsam3d predict` runs it: windows around the clicks, features kept between clicks."""

    kind = "sam"

    def __init__(self, folder: Path, fold: str, device: str, mirroring: bool) -> None:
        self.folder = folder
        self.model = Model(folder, [fold], FINAL, device, mirroring=mirroring)
        self.predictor = self.model.predictor
        self._begin()

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Prepared:
        image = PreparedImage(self.model, image_CZYX, properties, CACHE_BYTES)
        self._windows = image.windows
        return _Remembering(_Sam(image))

    def work(self) -> Work:
        return Work(self._whole, self._windows.encoded, self._windows.decoded)


def load_arm(name: ArmName, folder: Path, fold: str, device: str, mirroring: bool = True) -> Arm:
    """The arm of a trained model; what it is follows from the network that its trainer builds.

    Raises:
        UserError: no such model, or an oracle of a model that listens to clicks.
    """
    if not (folder / f"fold_{fold}" / FINAL).is_file():
        raise UserError(f"arm {name.text}: {folder}/fold_{fold}/{FINAL} is missing: the model is not trained")
    plans = load_json(str(folder / "plans.json"))
    configuration = folder.name.split("__")[-1]
    architecture = plans["configurations"][configuration].get("architecture", {}).get("network_class_name", "")
    if architecture.startswith("nnsam3d.network."):
        arm: Arm = SamArm(folder, fold, device, mirroring)
    else:
        arm = (OracleArm if name.oracle else Arm)(folder, fold, device, mirroring)
        if isinstance(arm.network, WithClickChannels) and not name.oracle:
            arm = ClickArm(folder, fold, device, mirroring)
    if name.oracle and (arm.kind != "oracle" or isinstance(arm.network, WithClickChannels)):
        raise UserError(f"arm {name.text}: the oracle control is for models without clicks; leave out {ORACLE}")
    return arm


class PreparedVolume:
    """A case in nnU-Net's own terms: preprocessed once, predicted with the stock sliding window."""

    def __init__(self, arm: Arm, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> None:
        self.predictor = arm.predictor
        self.labels = arm.labels
        self.shape_ZYX = tuple(int(n) for n in image_CZYX.shape[1:])
        preprocessor = self.predictor.configuration_manager.preprocessor_class(verbose=False)
        self.data_CDHW, _, self.properties = preprocessor.run_case_npy(
            image_CZYX,
            None,
            dict(properties),
            self.predictor.plans_manager,
            self.predictor.configuration_manager,
            self.predictor.dataset_json,
        )

    def segment(self, clicks: Sequence[LabelledClick]) -> NDArray[Any]:
        data = self.data_CDHW
        if clicks:
            data = data.copy()
            data[-1] = self._channel(clicks)
        logits = self.predictor.predict_logits_from_preprocessed_data(torch.from_numpy(np.ascontiguousarray(data)))
        return np.asarray(
            convert_predicted_logits_to_segmentation_with_correct_shape(
                logits.cpu(),  # in half precision, as nnU-Net has it: a tie must fall alike
                self.predictor.plans_manager,
                self.predictor.configuration_manager,
                self.predictor.label_manager,
                self.properties,
            )
        )

    def _channel(self, clicks: Sequence[LabelledClick]) -> NDArray[np.float32]:
        prompts = as_prompts("case", clicks)
        labels_N = clicks_to_labels(prompts, self.labels)
        shape = self.data_CDHW.shape[1:]
        forward = self.predictor.plans_manager.transpose_forward
        clicks_N3 = network_clicks(prompts, labels_N, self.shape_ZYX, self.properties, forward, shape)
        return write_channel(shape, clicks_N3, labels_N)


class _Automatic:
    """The same answer to everything, computed once."""

    def __init__(self, inner: Prepared) -> None:
        self._inner = inner
        self._answer: NDArray[Any] | None = None

    def segment(self, clicks: Sequence[LabelledClick]) -> NDArray[Any]:
        if self._answer is None:
            self._answer = self._inner.segment(())
        return self._answer.copy()


class _Oracle(_Automatic):
    def __init__(self, inner: Prepared, regions: Regions | None) -> None:
        super().__init__(inner)
        self._regions = regions

    def segment(self, clicks: Sequence[LabelledClick]) -> NDArray[Any]:
        return reduce_to_hit(super().segment(()), clicks, self._regions)


class _Sam:
    def __init__(self, image: PreparedImage) -> None:
        self._image = image

    def segment(self, clicks: Sequence[LabelledClick]) -> NDArray[Any]:
        return self._image.segment(as_prompts("case", clicks), bind=False).label_map


class _Remembering:
    """The answer to no click is computed once: every click seed begins with it."""

    def __init__(self, inner: Prepared) -> None:
        self._inner = inner
        self._automatic: NDArray[Any] | None = None

    def segment(self, clicks: Sequence[LabelledClick]) -> NDArray[Any]:
        if clicks:
            return self._inner.segment(clicks)
        if self._automatic is None:
            self._automatic = self._inner.segment(())
        return self._automatic.copy()


def reduce_to_hit(
    label_map: NDArray[Any], clicks: Sequence[LabelledClick], regions: Regions | None = None
) -> NDArray[Any]:
    """A label map without the components (26-connected) that no positive click of their label hits.

    A label keeps everything where none of its components is hit: the control must not lose by a click that its model
    could not know. With regions a component is one of everything that is not background, and any positive click
    that hits it keeps it: the core of a tumour must not be cut out because only its rim was clicked.
    """
    positive = [(voxel, label) for voxel, label in clicks if label > 0]
    if regions is None:
        labels = sorted({label for _, label in positive})
        masks = [(label_map == label, [voxel for voxel, clicked in positive if clicked == label]) for label in labels]
    else:
        masks = [(label_map > 0, [voxel for voxel, _ in positive])]
    result = label_map.copy()
    for mask, voxels in masks:
        components, _ = ndimage.label(mask, TOUCHING)
        hit = {int(components[voxel]) for voxel in voxels} - {0}
        if hit:
            result[(components > 0) & ~np.isin(components, list(hit))] = 0
    return result
