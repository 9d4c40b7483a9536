"""Who answers the clicks: any trained nnU-Net model, and controls made of it.

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
from nnsam3d.evaluation.plan import ORACLE, ArmName
from nnsam3d.inference.binding import Regions
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.predictor import Predictor, Prepared, Trained
from nnsam3d.nnunet.datasets import FINAL
from nnsam3d.nnunet.model import TrainedModel, capability
from nnsam3d.nnunet.preprocessing import clicked_voxels
from nnsam3d.prompts import CasePrompts, VoxelClick
from nnsam3d.prompts.components import hit

CACHE_BYTES = 2 * 10**9  # click-free features that an arm may keep of one image


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
        model: with one fold.
        oracle: a model without clicks, reduced to what clicks hit: the information of the clicks without a model that
            uses it.
    """

    def __init__(self, model: TrainedModel, oracle: bool = False) -> None:
        self.model = model
        self.oracle = oracle
        trained = Trained(model, CACHE_BYTES)
        self.predictor: Predictor = Oracle(trained) if oracle else trained
        self._whole = 0
        self._image: PreparedImage | None = None
        self.network.register_forward_hook(lambda *_: self._count())  # a copy of the network copies no bound method

    def _count(self) -> None:
        self._whole += 1

    @property
    def kind(self) -> str:
        """What becomes of clicks.

        "sam": :mod:`nnsam3d.inference`, features kept between clicks; "clicks": nnU-Net's sliding window with prompt
        channels; "automatic": ignored; "oracle".
        """
        if self.oracle:
            return "oracle"
        if not self.model.prompt_types:
            return "automatic"
        return "sam" if capability(self.model.trainer, "keeps_features") else "clicks"

    @property
    def listens(self) -> bool:
        """Whether clicks change anything."""
        return self.kind != "automatic"

    @property
    def network(self) -> torch.nn.Module:
        return self.model.networks[0]

    def work(self) -> Work:
        """So far; differences within a case mean something."""
        windows = None if self._image is None else self._image.windows
        return Work(self._whole, windows.encoded if windows else 0, windows.decoded if windows else 0)

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Answering:
        """A case that is read, ready for clicks."""
        prepared = self.predictor.prepare(image_CZYX, properties)
        self._image = prepared if isinstance(prepared, PreparedImage) else None
        return Answering(prepared)


class Answering:
    """A case, ready for clicks: the answer to none is computed once, because every click seed begins with it."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._automatic: NDArray[Any] | None = None

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """As :meth:`Prepared.answer`."""
        if prompts is not None and prompts.prompts:
            return self._prepared.answer(prompts)
        if self._automatic is None:
            self._automatic = self._prepared.answer(None)
        return self._automatic.copy()


@dataclass(frozen=True)
class Oracle:
    """A control: the answer of a model without clicks, reduced to what the clicks hit."""

    trained: Trained

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Hit:
        """As :meth:`Predictor.prepare`."""
        return Hit(self.trained.prepare(image_CZYX, properties), self.trained.model, properties)


@dataclass(frozen=True)
class Hit:
    """An image of :class:`Oracle`."""

    automatic: Prepared
    model: TrainedModel
    properties: dict[str, Any]

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """As :meth:`Prepared.answer`."""
        label_map = self.automatic.answer(None)
        if prompts is None:
            return label_map
        clicked = clicked_voxels(prompts, self.model.labels, label_map.shape, self.properties)
        return reduce_to_hit(label_map, clicked.clicks(), self.model.regions)


def load_arm(name: ArmName, folder: Path, fold: str, device: str, mirroring: bool = True) -> Arm:
    """The arm of a trained model; what it can do is what its trainer says.

    Raises:
        UserError: no such model, or an oracle of a model that listens to clicks.
    """
    if not (folder / f"fold_{fold}" / FINAL).is_file():
        raise UserError(f"arm {name.text}: {folder}/fold_{fold}/{FINAL} is missing: the model is not trained")
    model = TrainedModel(folder, [fold], FINAL, device, mirroring=mirroring)
    if name.oracle and model.prompt_types:
        raise UserError(f"arm {name.text}: the oracle control is for models without clicks; leave out {ORACLE}")
    return Arm(model, name.oracle)


def reduce_to_hit(
    label_map: NDArray[Any], clicks: Sequence[VoxelClick], regions: Regions | None = None
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
        kept = hit(mask, np.array(voxels, np.int64).reshape(-1, 3))
        if kept.any():
            result[mask & ~kept] = 0
    return result
