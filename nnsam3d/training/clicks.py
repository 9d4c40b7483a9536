"""Clicks simulated from the ground truth: a batchgenerators transform and a dataset that appends them.

Axis letters: C = channels, D, H, W = array axes of the preprocessed patch or case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from numpy.typing import NDArray

from nnsam3d.geometry import preprocessing_steps, zyx_to_xyz
from nnsam3d.prompts import (
    CasePrompts,
    Click,
    LabelledClick,
    case_rng,
    simulate_fixed,
    simulate_prompt_set,
    write_channel,
    write_prompts,
)
from nnsam3d.training.options import TrainingOptions

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class ClickSimulation:
    """How clicks are drawn from a segmentation.

    Attributes:
        labels: foreground label values that may be clicked.
        ignore_label: never clicked.
        spacing: mm along D, H, W.
        options: shares, strategy and numbers.
    """

    labels: tuple[int, ...]
    ignore_label: int | None
    spacing: tuple[float, float, float]
    options: TrainingOptions

    def training_channel(
        self, segmentation_DHW: NDArray, image_CDHW: NDArray, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Prompt channel of a training patch: none, few or many clicks, some of them on background."""
        clicks = simulate_prompt_set(
            segmentation_DHW,
            self.labels,
            self.options.max_clicks,
            rng,
            zero_share=self.options.zero_click_share,
            negative_share=self.options.negative_click_share,
            ignore_label=self.ignore_label,
            spacing=self.spacing,
            strategy=self.options.click_strategy,
            image=image_CDHW,
        )
        return _channel(segmentation_DHW.shape, clicks)

    def validation_channel(self, segmentation_DHW: NDArray, rng: np.random.Generator) -> NDArray[np.float32]:
        """Prompt channel with ``validation_clicks`` clicks on the labels present."""
        return _channel(segmentation_DHW.shape, self.validation_clicks(segmentation_DHW, rng))

    def validation_clicks(self, segmentation_DHW: NDArray, rng: np.random.Generator) -> list[LabelledClick]:
        """The clicks of :meth:`validation_channel`."""
        return simulate_fixed(
            segmentation_DHW,
            self.labels,
            self.options.validation_clicks,
            rng,
            ignore_label=self.ignore_label,
            spacing=self.spacing,
            strategy=self.options.click_strategy,
        )


def _channel(shape: Sequence[int], clicks: Sequence[LabelledClick]) -> NDArray[np.float32]:
    positions = np.array([position for position, _ in clicks], dtype=np.float64).reshape(-1, 3)
    return write_channel(tuple(shape), positions, [label for _, label in clicks])


class AppendClicks(BasicTransform):
    """Append the prompt channel to the image, drawn from the segmentation of the same patch.

    The generator belongs to the process: nnU-Net forks its workers, and a generator made before the fork would
    draw the same clicks in all of them. It is seeded from numpy's global state, which nnU-Net seeds per worker.
    """

    def __init__(self, simulation: ClickSimulation, training: bool, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        self.simulation = simulation
        self.training = training
        self._rng = rng
        self._process = os.getpid() if rng is not None else None

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        segmentation = data_dict["segmentation"][0].numpy()
        if self.training:
            image = data_dict["image"].numpy()
            return {"channel": self.simulation.training_channel(segmentation, image, self._generator())}
        return {"channel": self.simulation.validation_channel(segmentation, self._generator())}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        channel = torch.from_numpy(params["channel"])[None].to(data_dict["image"].dtype)
        data_dict["image"] = torch.cat([data_dict["image"], channel])
        return data_dict

    def _generator(self) -> np.random.Generator:
        if self._rng is None or self._process != os.getpid():
            self._rng = np.random.default_rng(np.random.randint(0, 2**31, size=4))  # noqa: NPY002
            self._process = os.getpid()
        return self._rng


def insert_clicks(transforms: ComposeTransforms, simulation: ClickSimulation, training: bool) -> ComposeTransforms:
    """Put :class:`AppendClicks` after every intensity and spatial transform, before region conversion.

    That place is right behind nnU-Net's ``RemoveLabelTansform`` (-1 -> 0).

    Raises:
        RuntimeError: the pipeline has no such transform (an nnU-Net version we do not know).
    """
    for index, transform in enumerate(transforms.transforms):
        if isinstance(transform, RemoveLabelTansform):
            transforms.transforms.insert(index + 1, AppendClicks(simulation, training))
            return transforms
    raise RuntimeError("nnU-Net's transform pipeline has no RemoveLabelTansform: where do the clicks go?")


def with_simulated_clicks(
    dataset_class: type,
    simulation: ClickSimulation,
    record: Callable[[str, list[LabelledClick], dict[str, Any], Shape], None],
) -> type:
    """``dataset_class`` whose cases carry the prompt channel, drawn from their own ground truth.

    The generator is seeded by the case's name: the same clicks in every run, on every machine. ``record`` is told
    of every case: its name, the clicks, nnU-Net's properties and the shape (D, H, W) of the preprocessed case.
    """

    class ClickedDataset(dataset_class):  # type: ignore[misc, valid-type]
        def load_case(self, identifier: str) -> tuple[NDArray, NDArray, NDArray | None, dict[str, Any]]:
            data, seg, seg_prev, properties = super().load_case(identifier)
            clicks = simulation.validation_clicks(np.asarray(seg[0]), case_rng(identifier))
            shape = tuple(seg.shape[1:])
            record(identifier, clicks, properties, shape)
            return np.concatenate([data[:], _channel(shape, clicks)[None]]), seg, seg_prev, properties

    return ClickedDataset


class PromptRecorder:
    """Writes the clicks of a validation as prompt files, so that nnUNetv2_predict can replay it.

    Args:
        folder: one ``<case>.json`` per case goes here.
        transpose_forward: of the plans.
        label_names: label value -> name in dataset.json.
    """

    def __init__(self, folder: Path, transpose_forward: Sequence[int], label_names: Mapping[int, str]) -> None:
        self.folder = folder
        self.transpose_forward = transpose_forward
        self.label_names = label_names
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, case: str, clicks: list[LabelledClick], properties: dict[str, Any], shape: Shape) -> None:
        path = self.folder / f"{case}.json"
        if not clicks:  # of an earlier validation with clicks
            path.unlink(missing_ok=True)
            return
        steps = preprocessing_steps(properties, self.transpose_forward, shape)
        index_N3 = zyx_to_xyz(steps.invert([position for position, _ in clicks]))
        listed = tuple(
            Click((float(i), float(j), float(k)), self.label_names[label])
            for (i, j, k), (_, label) in zip(index_N3, clicks, strict=True)
        )
        write_prompts(path, CasePrompts(case, "voxel", listed))
