"""The arms of the benchmark: trained nnU-Net models, and controls derived from them.

Results have the axes of nnU-Net's reader (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.evaluation.bodies import KINDS_WITH_BODY, bodies, clipped
from nnsam3d.evaluation.cost import model_cost
from nnsam3d.evaluation.names import ELLIPSOID, ORACLE, STARTER_ARM, ArmName, Protocol
from nnsam3d.evaluation.plan import Job, starter_objects
from nnsam3d.evaluation.results import ArmCost, NetworkRuns
from nnsam3d.inference.binding import Regions
from nnsam3d.inference.extent import prompted
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.predictor import Prepared, WholeImage, prepared_image
from nnsam3d.inference.start_mask import StartMask
from nnsam3d.nnunet.dataset_reader import DatasetReader
from nnsam3d.nnunet.datasets import FINAL, STARTER, folder_of
from nnsam3d.nnunet.model import TrainedModel, capability
from nnsam3d.nnunet.preprocessing import image_prompts
from nnsam3d.prompts import CasePrompts, MaskPrompt, VoxelPrompts
from nnsam3d.tables import plural

CACHE_BYTES = 2 * 10**9  # memory for the features that an arm keeps of one image


class Arm:
    """A trained model as an arm of the benchmark, or a control made of a model's answer without prompts.

    Attributes:
        model: with a single fold.
        control: "" or "oracle": reduced to the components that prompts hit, the information in the prompts without a
            model that uses it; or "clipped": without what lies outside the first prompts.
    """

    def __init__(self, model: TrainedModel, control: str = "") -> None:
        self.model = model
        self.control = control
        self._whole = 0
        self._image: PreparedImage | None = None

        def count(*_: Any) -> None:  # a bound method would be copied with the network
            self._whole += 1

        self.network.register_forward_hook(count)

    @property
    def kind(self) -> str:
        """How prompts are used.

        "sam": :mod:`nnsam3d.inference`, features kept between clicks; "clicks": nnU-Net's sliding window with prompt
        channels; "automatic": ignored; "oracle"; "clipped".
        """
        if self.control:
            return self.control
        if not self.model.prompt_types:
            return "automatic"
        return "sam" if capability(self.model.trainer, "keeps_features") else "clicks"

    @property
    def listens(self) -> bool:
        """Whether the arm uses clicks."""
        return self.kind not in ("automatic", "clipped")

    @property
    def is_prompted(self) -> bool:
        """Whether its network gets the prompts."""
        return self.kind in ("sam", "clicks")

    def refusal(self, protocol: Protocol) -> str:
        """Why the arm cannot take part in a protocol; "" if it can."""
        if self.kind == "clipped":
            return refusal_of_body(protocol)
        if not protocol.needs or not self.is_prompted:
            return ""
        # windows around clicks correct any mask, even if the network does not see it
        takes = {*self.model.codec.kinds, *([MaskPrompt.kind] if self.kind == "sam" else [])}
        return "" if protocol.needs in takes else f"does not take {plural(protocol.needs)}"

    @property
    def network(self) -> torch.nn.Module:
        return self.model.networks[0]

    def work(self) -> NetworkRuns:
        """The total so far; use differences within a case."""
        every = [] if self._image is None else self._image.every_windows
        return NetworkRuns(self._whole, sum(one.encoded for one in every), sum(one.decoded for one in every))

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Answering:
        """Prepare a case for prompts."""
        prepared = prepared_image(self.model, image_CZYX, properties, CACHE_BYTES)
        if self.control:
            return Answering(_Reduced(Answering(prepared), self.model, properties, self.control))
        self._image = prepared if isinstance(prepared, PreparedImage) else None
        return Answering(prepared)

    def cost(self) -> ArmCost:
        """See :func:`model_cost`."""
        return model_cost(self.model, self.kind)


class Ellipsoid:
    """A control without a model: the bodies of which the first prompts are the outlines (:mod:`.bodies`).

    Attributes:
        model: the dataset's labels, and how its files are read.
    """

    kind = ELLIPSOID
    listens = is_prompted = False

    def __init__(self, model: DatasetReader) -> None:
        self.model = model

    def refusal(self, protocol: Protocol) -> str:
        """See :meth:`Arm.refusal`."""
        return refusal_of_body(protocol)

    def work(self) -> NetworkRuns:
        """None."""
        return NetworkRuns()

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Answering:
        """Prepare a case for prompts."""
        return Answering(Drawn(self.model, image_CZYX.shape[1:], properties))

    def cost(self) -> ArmCost:
        """Nothing."""
        return ArmCost(self.kind)


def refusal_of_body(protocol: Protocol) -> str:
    """Why a control by geometry cannot take part in a protocol; "" if it can."""
    if protocol.needs in KINDS_WITH_BODY:
        return ""
    return f"answers only to {', '.join(plural(kind) for kind in KINDS_WITH_BODY)}"


class Answering:
    """A case ready for clicks. The answer without clicks is computed once, because all click seeds start with it."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._automatic: NDArray[Any] | None = None

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """See :meth:`Prepared.answer`."""
        if prompts is not None and prompts.prompts:
            return self._prepared.answer(prompts)
        if self._automatic is None:
            self._automatic = self._prepared.answer(None)
        return self._automatic.copy()

    def starting_from(self, start_ZYX: NDArray[Any], properties: dict[str, Any]) -> Answering:
        """The same case, beginning with a mask on its grid that clicks correct."""
        return Answering(_Corrected(self._prepared, start_ZYX, properties))


@dataclass(frozen=True)
class _Corrected:
    """A mask that a model with prompts corrects; without clicks, it is the answer."""

    prepared: Prepared
    start_ZYX: NDArray[Any]
    properties: dict[str, Any]

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """See :meth:`Prepared.answer`; windows around the clicks bind them."""
        if prompts is None or not prompts.prompts:
            return self.start_ZYX.copy()
        if isinstance(self.prepared, PreparedImage):
            model = self.prepared.model
            start = StartMask(self.start_ZYX, model.labels, model.regions, self.properties["spacing"])
            return start.correct(self.prepared, prompts).label_map
        if isinstance(self.prepared, WholeImage):
            return self.prepared.answer(prompts, self.start_ZYX)
        return self.prepared.answer(prompts)


@dataclass(frozen=True)
class _Reduced:
    """The answer of a model without prompts, changed by the prompts: see :class:`Arm`."""

    automatic: Answering
    model: TrainedModel
    properties: dict[str, Any]
    control: str

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """See :meth:`Prepared.answer`."""
        label_map = self.automatic.answer(None)
        if prompts is None:
            return label_map
        placed = image_prompts(prompts, self.model.labels, label_map.shape, self.properties)
        if self.control == "clipped":
            return clipped(label_map, placed, spacing_of(self.properties), self.model.regions)
        return reduce_to_hit(label_map, placed, self.model.regions)


@dataclass(frozen=True)
class Drawn:
    """The bodies of prompts on an image (z, y, x) of this shape."""

    model: DatasetReader
    shape_ZYX: tuple[int, ...]
    properties: dict[str, Any]

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """See :meth:`Prepared.answer`."""
        z, y, x = self.shape_ZYX
        if prompts is None:
            return np.zeros((z, y, x), np.uint16)
        placed = image_prompts(prompts, self.model.labels, self.shape_ZYX, self.properties)
        return bodies(placed, (z, y, x), spacing_of(self.properties), self.model.regions)


def spacing_of(properties: dict[str, Any]) -> tuple[float, float, float]:
    """mm along z, y, x, from the properties of nnU-Net's reader."""
    z, y, x = (float(step) for step in properties["spacing"])
    return z, y, x


def load_arm(name: ArmName, job: Job, device: str, mirroring: bool = True) -> Arm | Ellipsoid:
    """The arm of a trained model, with the capabilities of its trainer, or a control.

    Raises:
        UserError: no such model, or an oracle of a model with clicks.
    """
    if not name.has_model:
        return Ellipsoid(DatasetReader(folder_of("nnUNet_raw") / job.dataset, device))
    if name.text == STARTER_ARM:
        return Arm(_Starter(DatasetReader(folder_of("nnUNet_raw") / job.dataset, device), job.dataset, mirroring))
    folder, fold = job.model_folder, job.fold
    if not (folder / f"fold_{fold}" / FINAL).is_file():
        raise UserError(f"arm {name.text}: {folder}/fold_{fold}/{FINAL} is missing: the model is not trained")
    model = TrainedModel(folder, [fold], FINAL, device, mirroring=mirroring)
    if name.oracle and model.prompt_types:
        raise UserError(f"arm {name.text}: the oracle control is for models without clicks; remove {ORACLE}")
    return Arm(model, name.control)


class _Starter(TrainedModel):
    """The starter with the labels of a dataset, each of which is an object of its own, and the dataset's reader.

    Raises:
        UserError: see :func:`starter_objects`.
    """

    def __init__(self, reader: DatasetReader, dataset: str, mirroring: bool) -> None:
        objects = starter_objects(reader.dataset_json, dataset)
        super().__init__(STARTER, device=reader.device, mirroring=mirroring, objects=objects)
        self._reader = reader
        shared = {key: reader.dataset_json[key] for key in ("labels", "file_ending")}
        self.predictor.dataset_json = {**self.dataset_json, **shared}

    def read(self, images: Sequence[str | Path]) -> tuple[NDArray[Any], dict[str, Any]]:
        """See :meth:`TrainedModel.read`."""
        return self._reader.read(images)

    def read_labels(self, path: str | Path) -> NDArray[Any]:
        """See :meth:`TrainedModel.read_labels`."""
        return self._reader.read_labels(path)


def reduce_to_hit(label_map: NDArray[Any], prompts: VoxelPrompts, regions: Regions | None = None) -> NDArray[Any]:
    """A label map without the components (26-connected) that are not hit by a positive prompt with their label.

    If none of its components is hit, a label is kept: the control must not suffer from a prompt that its model did not
    receive. With regions, components are those of all foreground, and any positive prompt keeps them, so that a click
    on the rim of a tumour keeps its core.
    """
    labels = prompts.positive_labels
    if regions is None:
        masks = [(label_map == label, [label]) for label in labels]
    else:
        masks = [(label_map > 0, labels)] if labels else []
    result = label_map.copy()
    for mask, own in masks:
        kept = prompted(mask, prompts, own)
        if kept.any():
            result[mask & ~kept] = 0
    return result
