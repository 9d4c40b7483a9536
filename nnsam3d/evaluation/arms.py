"""The arms of the benchmark: trained nnU-Net models, and controls derived from them.

Results have the axes of nnU-Net's reader (z, y, x).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.evaluation.controls import CONTROLS, Control
from nnsam3d.evaluation.cost import model_cost
from nnsam3d.evaluation.names import ELLIPSOID, Protocol
from nnsam3d.evaluation.plan import BenchCase, Job, Setting, starter_objects
from nnsam3d.evaluation.results import ArmCost, NetworkRuns
from nnsam3d.files import known_sha256, replacing
from nnsam3d.geometry import grid_of_file
from nnsam3d.geometry.segments import ENDING, read_segments
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.predictor import Prepared, WholeImage, prepared_image
from nnsam3d.inference.start_mask import StartMask
from nnsam3d.nnunet.dataset_reader import DatasetReader
from nnsam3d.nnunet.datasets import FINAL, STARTER, folder_of
from nnsam3d.nnunet.model import TrainedModel, capability
from nnsam3d.nnunet.preprocessing import image_prompts
from nnsam3d.nnunet.reading import spacing_of
from nnsam3d.prompts import CasePrompts, MaskPrompt
from nnsam3d.tables import plural

CACHE_BYTES = 2 * 10**9  # memory for the features that an arm keeps of one image


class Arm:
    """A trained model as an arm of the benchmark, or a control made of a model's answer without prompts.

    Attributes:
        model: with a single fold.
        kind: how prompts are used. "sam": :mod:`nnsam3d.inference`, features kept between clicks; "clicks": nnU-Net's
            sliding window with prompt channels; "automatic": ignored. Of a control: its name in :data:`CONTROLS`.
        listens: whether the arm uses clicks.
        is_prompted: whether its network gets the prompts.
    """

    def __init__(self, model: TrainedModel, control: str = "") -> None:
        """
        Args:
            model: with a single fold. control: "" or its name in :data:`CONTROLS`.
        """
        self.model = model
        self._control = CONTROLS[control] if control else None
        with_prompts = "sam" if capability(model.trainer, "keeps_features") else "clicks"
        self.kind = control or (with_prompts if model.prompt_types else "automatic")
        self.is_prompted = bool(model.prompt_types) and not control
        self.listens = self._control.listens if self._control else self.is_prompted
        self._whole = 0
        self._image: PreparedImage | None = None

        def count(*_: Any) -> None:  # a bound method would be copied with the network
            self._whole += 1

        model.networks[0].register_forward_hook(count)

    def refusal(self, protocol: Protocol) -> str:
        """Why the arm cannot take part in a protocol; "" if it can."""
        if self._control:
            return self._control.refusal(protocol)
        if not protocol.needs or not self.is_prompted:
            return ""
        # windows around clicks correct any mask, even if the network does not see it
        takes = {*self.model.codec.kinds, *([MaskPrompt.kind] if self.kind == "sam" else [])}
        return "" if protocol.needs in takes else f"does not take {plural(protocol.needs)}"

    def work(self) -> NetworkRuns:
        """The total so far; use differences within a case."""
        every = [] if self._image is None else self._image.every_windows
        return NetworkRuns(self._whole, sum(one.encoded for one in every), sum(one.decoded for one in every))

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Answering:
        """Prepare a case for prompts."""
        prepared = prepared_image(self.model, image_CZYX, properties, CACHE_BYTES)
        if self._control:
            automatic = partial(Answering(prepared).answer, None)
            return Answering(_Controlled(self._control, automatic, self.model, properties))
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
    listens = CONTROLS[kind].listens
    is_prompted = False

    def __init__(self, model: DatasetReader) -> None:
        self.model = model

    def refusal(self, protocol: Protocol) -> str:
        """See :meth:`Arm.refusal`."""
        return CONTROLS[self.kind].refusal(protocol)

    def work(self) -> NetworkRuns:
        """None."""
        return NetworkRuns()

    def prepare(self, image_CZYX: NDArray[Any], properties: dict[str, Any]) -> Answering:
        """Prepare a case for prompts."""
        empty = partial(np.zeros, image_CZYX.shape[1:], np.uint16)
        return Answering(_Controlled(CONTROLS[self.kind], empty, self.model, properties))

    def cost(self) -> ArmCost:
        """Nothing."""
        return ArmCost(self.kind)


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
class _Controlled:
    """A case of which a control makes the answers."""

    control: Control
    automatic: Callable[[], NDArray[Any]]
    model: DatasetReader | TrainedModel
    properties: dict[str, Any]

    def answer(self, prompts: CasePrompts | None) -> NDArray[Any]:
        """See :meth:`Prepared.answer`."""
        label_map = self.automatic()
        if prompts is None:
            return label_map
        z, y, x = label_map.shape
        placed = image_prompts(prompts, self.model.labels, (z, y, x), self.properties)
        return self.control.answer(label_map, placed, spacing_of(self.properties), self.model.regions)


def load_arm(job: Job, device: str, mirroring: bool = True) -> Arm | Ellipsoid:
    """The arm of a job: a trained model, with the capabilities of its trainer, or a control.

    Args:
        job: its protocol does not matter. device: "cpu", "cuda", ... mirroring: test-time mirroring.

    Raises:
        UserError: no such model, or an oracle of a model with clicks.
    """
    name, raw = job.arm_name, folder_of("nnUNet_raw") / job.dataset
    if not name.has_model:
        return Ellipsoid(DatasetReader(raw, device))
    if name.trainer and not job.checkpoint.is_file():
        raise UserError(f"arm {name.text}: {job.checkpoint} is missing: the model is not trained")
    with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net's messages about trainers would disrupt the progress bar
        if name.trainer:
            model = TrainedModel(job.model_folder, [job.fold], FINAL, device, mirroring=mirroring)
        else:
            model = _Starter(DatasetReader(raw, device), job.dataset, mirroring)
    name.check_model(bool(model.prompt_types))
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


# ---------------------------------------------------------------------- masks to start from

_loaded = lru_cache(maxsize=1)(load_arm)


def start_of(setting: Setting, job: Job, case: BenchCase, arm: Arm, output: Path) -> NDArray[Any]:
    """The label map (z, y, x) with which a case begins.

    An arm's answer is computed once and kept in ``output/starts``, until the arm is trained anew.

    Raises:
        UserError: no such file, a mask of another shape, or the arm is not trained.
    """
    if not setting.start_arm:
        path = Path(setting.start) / f"{case.name}{arm.model.file_ending}"
        shape, segments = arm.model.read_labels(case.truth).shape, path.with_name(f"{case.name}{ENDING}")
        if segments.is_file() and not path.is_file():
            grid = grid_of_file(case.images[0], arm.model.reader_name)("lps")
            return read_segments(segments, grid, shape, arm.model.labels, arm.model.regions)
        if not path.is_file():
            raise UserError(f"case {case.name}: there is no mask to start from: {path} is missing (--start)")
        mask = arm.model.read_labels(path)
        if mask.shape != shape:
            raise UserError(f"{path}: has the shape {mask.shape} (z, y, x), the image {shape}")
        return mask
    own = replace(job, arm=setting.start_arm)
    if not own.checkpoint.is_file():
        raise UserError(f"--start {own.arm}: {own.checkpoint} is missing: train this arm first")
    digest = known_sha256(own.checkpoint)
    folder = output / "starts" / job.dataset / job.configuration / f"fold_{job.fold}" / own.arm_in_path
    path = folder / f"{case.name}.npz"
    if path.is_file():
        with np.load(path) as stored:
            if str(stored["checkpoint_sha256"]) == digest:
                return np.asarray(stored["label_map"])
    starting = _loaded(own, str(arm.model.device), setting.mirroring)
    label_map = starting.prepare(*starting.model.read(case.images)).answer(None)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("xb") as file:
        np.savez_compressed(file, label_map=label_map.astype(np.uint16), checkpoint_sha256=np.array(digest))
    return label_map
