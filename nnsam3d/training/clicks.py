"""Clicks simulated from the ground truth: a batchgenerators transform and a dataset class that append them.

Axis letters: C = channels, D, H, W = array axes of the preprocessed patch or case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nnsam3d.geometry import preprocessing_steps
from nnsam3d.nnunet.contract import BasicTransform, ComposeTransforms, RemoveLabelTransform
from nnsam3d.prompts import (
    CasePrompts,
    PromptCodec,
    PromptSimulator,
    VoxelClick,
    VoxelPrompts,
    case_rng,
    write_prompts,
)
from nnsam3d.prompts.targets import OBJECT_VALUE, Targets
from nnsam3d.prompts.voxels import VoxelMask
from nnsam3d.training.options import TrainingOptions


@dataclass(frozen=True)
class ClickSimulation:
    """The click options for one dataset.

    Attributes:
        simulator: draws prompts from a segmentation.
        codec: of the model.
        validation_clicks: number of clicks per case or patch in validation.
        max_rounds: maximum number of corrections in a training step.
        corrupted_share, start_share: see :class:`TrainingOptions`.
        targets: draws what a patch is about; None: its labels.
    """

    simulator: PromptSimulator
    codec: PromptCodec
    validation_clicks: int
    max_rounds: int
    corrupted_share: float = 0.0
    start_share: float = 0.0
    targets: Targets | None = None

    @classmethod
    def of(
        cls,
        options: TrainingOptions,
        labels: Sequence[int],
        spacing: Sequence[float],
        ignore_label: int | None = None,
        targets: Targets | None = None,
        regions: Mapping[int, frozenset[int]] | None = None,
    ) -> ClickSimulation:
        """
        Args:
            labels: foreground label values that can be clicked.
            spacing: mm along D, H, W.
            ignore_label, targets: see the attributes; with ``targets``, the value in what these draw.
            regions: see :class:`PromptSimulator`.
        """
        simulator = PromptSimulator(
            labels=tuple(labels),
            spacing=(spacing[0], spacing[1], spacing[2]),
            ignore_label=ignore_label,
            strategy=options.click_strategy,
            max_clicks=options.max_clicks,
            zero_share=options.zero_click_share if targets is None else options.empty_share,
            negative_share=options.negative_click_share,
            kinds=options.kinds,
            extent_share=options.extent_share,
            regions=regions,
        )
        codec = PromptCodec.of(options.kinds, {"": max(labels, default=0)}, spacing)
        shares = options.corrupted_share, options.start_share
        return cls(simulator, codec, options.validation_clicks, options.rounds_range[1], *shares, targets)

    def for_validation(self, segmentation_DHW: NDArray, rng: np.random.Generator) -> list[VoxelClick]:
        """``validation_clicks`` clicks on the labels present."""
        return self.simulator.fixed(segmentation_DHW, self.validation_clicks, rng)


class AppendClicks(BasicTransform):
    """Append prompt channels, with prompts drawn from the segmentation of the same patch, to the image.

    For a class-agnostic network, the segmentation is replaced by a target that is drawn first; without a prompt in
    training, by nothing: nobody has said what to segment.

    In some of the patches with a prompt of an extent, the image is of little help, so that a network learns to heed the
    prompt. If the segmentation has a second channel, this is a mask to start from; it is removed, and some of these
    patches begin with it and no other prompt.

    A generator created before nnU-Net forks its workers would draw the same clicks in all of them. Each patch therefore
    has its own generator, seeded from numpy's global state, which nnU-Net's augmentation also uses.
    """

    def __init__(self, simulation: ClickSimulation, training: bool, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        self.simulation = simulation
        self.training = training
        self._rng = rng

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        segmentation = data_dict["segmentation"][0].numpy()
        rng = self._rng or np.random.default_rng(np.random.randint(0, 2**31, size=4))  # noqa: NPY002
        simulation, corrupted, target = self.simulation, None, None
        mask_DHW = data_dict["segmentation"][1].numpy() if len(data_dict["segmentation"]) > 1 else None
        if simulation.targets is not None:
            segmentation = target = simulation.targets.draw(segmentation, rng)
            mask_DHW = None  # of the dataset's labels, which say nothing about a target
        if mask_DHW is not None and rng.random() < simulation.start_share:
            prompts = replace(VoxelPrompts.of(), mask=VoxelMask.of(mask_DHW))
        elif self.training:
            prompts = simulation.simulator.sample_prompts(segmentation, rng, data_dict["image"].numpy())
            if prompts.shapes and rng.random() < simulation.corrupted_share:
                corrupted = corrupt(data_dict["image"], rng)
        else:
            prompts = VoxelPrompts.of(simulation.for_validation(segmentation, rng))
        if target is not None and self.training and not prompts.shapes and not len(prompts.voxels_N3):
            target[target == OBJECT_VALUE] = 0
        prompts = simulation.codec.with_clicks_of_shapes(prompts, segmentation.shape)
        channels = simulation.codec.write(segmentation.shape, prompts)
        return {"channels": channels, "image": corrupted, "target": target}

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        if params["image"] is not None:
            data_dict["image"] = params["image"]
        data_dict["segmentation"] = data_dict["segmentation"][:1]
        if params["target"] is not None:
            target = torch.from_numpy(params["target"])[None]
            data_dict["segmentation"] = target.to(data_dict["segmentation"].dtype)
        channels = torch.from_numpy(params["channels"]).to(data_dict["image"].dtype)
        data_dict["image"] = torch.cat([data_dict["image"], channels])
        return data_dict


def corrupt(image_CDHW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The image flattened, inverted or noisy, with equal probability."""
    how = int(rng.integers(3))
    if how == 0:
        return image_CDHW * float(rng.uniform(0, 0.3))
    if how == 1:
        return -image_CDHW
    noise = torch.from_numpy(rng.standard_normal(tuple(image_CDHW.shape), dtype=np.float32))
    return image_CDHW + noise.to(image_CDHW.dtype) * image_CDHW.std() * float(rng.uniform(0.5, 2))


def insert_clicks(transforms: ComposeTransforms, simulation: ClickSimulation, training: bool) -> ComposeTransforms:
    """Insert :class:`AppendClicks` after all intensity and spatial transforms, before the conversion to regions.

    That is directly after nnU-Net's ``RemoveLabelTransform`` (-1 -> 0).

    Raises:
        RuntimeError: the pipeline has no such transform (unsupported nnU-Net version).
    """
    for index, transform in enumerate(transforms.transforms):
        if isinstance(transform, RemoveLabelTransform):
            transforms.transforms.insert(index + 1, AppendClicks(simulation, training))
            return transforms
    raise RuntimeError(
        "nnU-Net's transform pipeline has no RemoveLabelTransform, after which clicks are inserted: this version of "
        "nnU-Net is not supported"
    )


def with_simulated_clicks(
    dataset_class: type,
    simulation: ClickSimulation,
    record: Callable[[str, list[VoxelClick], dict[str, Any], tuple[int, ...]], None],
) -> type:
    """A subclass of ``dataset_class`` whose cases have prompt channels with clicks simulated from their ground truth.

    The generator is seeded by the case name, so that every run on every machine uses the same clicks. ``record`` is
    called for every case with its name, the clicks, nnU-Net's properties and the shape (D, H, W) of the preprocessed
    case.
    """

    class ClickedDataset(dataset_class):  # type: ignore[misc, valid-type]
        def load_case(self, identifier: str) -> tuple[NDArray, NDArray, NDArray | None, dict[str, Any]]:
            data, seg, seg_prev, properties = super().load_case(identifier)
            clicks = simulation.for_validation(np.asarray(seg[0]), case_rng(identifier))
            shape = tuple(seg.shape[1:])
            record(identifier, clicks, properties, shape)
            channels = simulation.codec.write(shape, VoxelPrompts.of(clicks))
            return np.concatenate([data[:], channels]), seg, seg_prev, properties

    return ClickedDataset


class PromptRecorder:
    """Writes the clicks of a validation as prompt files, so that nnUNetv2_predict can reproduce it.

    Args:
        folder: destination of the files ``<case>.json``.
        transpose_forward: from the plans.
        label_names: label value -> name in dataset.json.
    """

    def __init__(self, folder: Path, transpose_forward: Sequence[int], label_names: Mapping[int, str]) -> None:
        self.folder = folder
        self.transpose_forward = transpose_forward
        self.label_names = label_names
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, case: str, clicks: list[VoxelClick], properties: dict[str, Any], shape: tuple[int, ...]) -> None:
        path = self.folder / f"{case}.json"
        if not clicks:  # remove the file of an earlier validation with clicks
            path.unlink(missing_ok=True)
            return
        steps = preprocessing_steps(properties, self.transpose_forward, shape)
        array_N3 = steps.invert([voxel for voxel, _ in clicks])
        labels = [self.label_names[label] for _, label in clicks]
        write_prompts(path, CasePrompts.of_array(case, array_N3, labels))
