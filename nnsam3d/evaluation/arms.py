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
from nnsam3d.evaluation.plan import ORACLE, ArmName
from nnsam3d.inference.binding import Regions
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.predictor import Predictor, Prepared, Trained
from nnsam3d.nnunet.datasets import FINAL
from nnsam3d.nnunet.model import TrainedModel, capability
from nnsam3d.nnunet.preprocessing import image_prompts
from nnsam3d.prompts import CasePrompts, VoxelClick
from nnsam3d.prompts.components import hit

CACHE_BYTES = 2 * 10**9  # memory for the features that an arm keeps of one image


@dataclass(frozen=True)
class Work:
    """Windows processed by the network: as a whole, or by the halves of SAM3D (without and with clicks)."""

    whole: int = 0
    encoded: int = 0
    decoded: int = 0

    def __sub__(self, earlier: Work) -> Work:
        return Work(self.whole - earlier.whole, self.encoded - earlier.encoded, self.decoded - earlier.decoded)


class Arm:
    """A trained model as an arm of the benchmark.

    Attributes:
        model: with a single fold.
        oracle: a model without clicks, reduced to the components that clicks hit: the information in the clicks without
            a model that uses it.
    """

    def __init__(self, model: TrainedModel, oracle: bool = False) -> None:
        self.model = model
        self.oracle = oracle
        trained = Trained(model, CACHE_BYTES)
        self.predictor: Predictor = Oracle(trained) if oracle else trained
        self._whole = 0
        self._image: PreparedImage | None = None
        self.network.register_forward_hook(lambda *_: self._count())  # bound methods would be copied

    def _count(self) -> None:
        self._whole += 1

    @property
    def kind(self) -> str:
        """How clicks are used.

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
        """Whether the arm uses clicks."""
        return self.kind != "automatic"

    @property
    def network(self) -> torch.nn.Module:
        return self.model.networks[0]

    def work(self) -> Work:
        """The total so far; use differences within a case."""
        windows = None if self._image is None else self._image.windows
        return Work(self._whole, windows.encoded if windows else 0, windows.decoded if windows else 0)

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Answering:
        """Prepare a case for clicks."""
        prepared = self.predictor.prepare(image_CZYX, properties)
        self._image = prepared if isinstance(prepared, PreparedImage) else None
        return Answering(prepared)


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


@dataclass(frozen=True)
class Oracle:
    """A control: the answer of a model without clicks, reduced to the components that clicks hit."""

    trained: Trained

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Hit:
        """See :meth:`Predictor.prepare`."""
        return Hit(self.trained.prepare(image_CZYX, properties), self.trained.model, properties)


@dataclass(frozen=True)
class Hit:
    """An image of :class:`Oracle`."""

    automatic: Prepared
    model: TrainedModel
    properties: dict[str, Any]

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """See :meth:`Prepared.answer`."""
        label_map = self.automatic.answer(None)
        if prompts is None:
            return label_map
        clicked = image_prompts(prompts, self.model.labels, label_map.shape, self.properties)
        return reduce_to_hit(label_map, clicked.clicks(), self.model.regions)


def load_arm(name: ArmName, folder: Path, fold: str, device: str, mirroring: bool = True) -> Arm:
    """The arm of a trained model, with the capabilities of its trainer.

    Raises:
        UserError: no such model, or an oracle of a model with clicks.
    """
    if not (folder / f"fold_{fold}" / FINAL).is_file():
        raise UserError(f"arm {name.text}: {folder}/fold_{fold}/{FINAL} is missing: the model is not trained")
    model = TrainedModel(folder, [fold], FINAL, device, mirroring=mirroring)
    if name.oracle and model.prompt_types:
        raise UserError(f"arm {name.text}: the oracle control is for models without clicks; remove {ORACLE}")
    return Arm(model, name.oracle)


def reduce_to_hit(
    label_map: NDArray[Any], clicks: Sequence[VoxelClick], regions: Regions | None = None
) -> NDArray[Any]:
    """A label map without the components (26-connected) that are not hit by a positive click with their label.

    If none of its components is hit, a label is kept: the control must not suffer from a click that its model did not
    receive. With regions, components are those of all foreground, and any positive click keeps them, so that a click on
    the rim of a tumour keeps its core.
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
