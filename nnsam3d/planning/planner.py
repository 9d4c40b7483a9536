"""SAM3DAdapterPlanner: nnU-Net's planner with this library's network, patch and batch; re-exported by ``planners/``.

Target spacing, transposition, normalisation, resampling and the low-resolution configuration are nnU-Net's; the
rest is decided in :mod:`nnsam3d.planning.ladder`.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.files import write_json
from nnsam3d.nnunet.contract import (
    ExperimentPlanner,
    LabelManager,
    compute_new_shape,
    maybe_convert_to_dataset_name,
    nnUNet_preprocessed,
)
from nnsam3d.nnunet.datasets import num_channels
from nnsam3d.planning.facts import DatasetFacts
from nnsam3d.planning.ladder import Choice, choose
from nnsam3d.prompts import click_labels
from nnsam3d.training.decision import DECISION_KEY, Decision
from nnsam3d.training.options import PLANS_KEY, TrainingOptions
from nnsam3d.training.plans import refuse_unsupported, rewrite_plans

PLANS_NAME = "nnUNetSAM3DPlans"
NNUNET_PLANS = "nnUNetPlans"
STANDARD = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")  # configurations that nnU-Net plans
CLICK_OPTIONS = ("rounds", "zero_click_share", "negative_click_share", "click_strategy", "validation_clicks")


class SAM3DAdapterPlanner(ExperimentPlanner):
    """Plans for SAM3DAdapterTrainer: ``nnUNetv2_plan_and_preprocess -d D -pl SAM3DAdapterPlanner``.

    Configurations: 3d_fullres, and 3d_lowres if nnU-Net would plan one; neither 2d (the network is 3D) nor
    3d_cascade_fullres (clicks provide the localisation).

    Raises:
        UserError: missing fingerprint, single slices, invalid budget, or an unsupported dataset.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = PLANS_NAME,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        name = maybe_convert_to_dataset_name(dataset_name_or_id)
        if plans_name == NNUNET_PLANS:
            raise UserError(
                f"-overwrite_plans_name {NNUNET_PLANS} would replace nnU-Net's own plans and their preprocessed data: "
                f"choose another name (the default is {PLANS_NAME})."
            )
        fingerprint = Path(nnUNet_preprocessed or ".") / name / "dataset_fingerprint.json"
        if not fingerprint.is_file():
            number = name[len("Dataset") :].split("_")[0]
            raise UserError(f"{fingerprint} is missing. Create it with: nnUNetv2_extract_fingerprint -d {int(number)}")
        spacing = overwrite_target_spacing
        if spacing is not None and (len(spacing) != 3 or not all(mm > 0 for mm in spacing)):
            raise UserError(
                f"-overwrite_target_spacing {' '.join(map(str, spacing))}: expected three positive numbers in mm, in "
                "the order of the image array (z y x)."
            )
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        seen = len(self.dataset_fingerprint["foreground_intensity_properties_per_channel"])
        named = num_channels(self.dataset_json)
        if seen != named:
            raise UserError(
                f"{fingerprint} was made from images with {seen} channel(s), but dataset.json lists {named}: correct "
                'channel_names in dataset.json, or renew the fingerprint with "nnUNetv2_extract_fingerprint --clean".'
            )

    def facts(self, spacing_DHW: Sequence[float], shape_DHW: Sequence[float], voxels: float) -> DatasetFacts:
        """The dataset at a target spacing (mm), median image in voxels; ``voxels`` of the whole dataset."""
        labels = self.dataset_json["labels"]
        regions = self.dataset_json.get("regions_class_order")
        spacing, shape = [float(mm) for mm in spacing_DHW], [round(float(size)) for size in shape_DHW]
        return DatasetFacts(
            name=self.dataset_name,
            spacing_DHW=(spacing[0], spacing[1], spacing[2]),
            shape_DHW=(shape[0], shape[1], shape[2]),
            cases=round(voxels / np.prod(shape, dtype=np.float64)),
            channels=num_channels(self.dataset_json),
            heads=LabelManager(labels, regions).num_segmentation_heads,
            click_labels=max(click_labels(self.dataset_json).values()) + 1,
        )

    def get_plans_for_configuration(
        self,
        spacing: Any,
        median_shape: Any,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict[str, Any],
    ) -> dict[str, Any]:
        """One configuration, called by nnU-Net; empty for 2D, which is discarded."""
        if len(spacing) == 2:
            return {}
        facts = self.facts(spacing, median_shape, approximate_n_voxels_dataset)
        choice = choose(facts, float(self.UNet_vram_target_GB))
        fn_data, data_kwargs, fn_seg, seg_kwargs = self.determine_resampling()
        fn_probabilities, probabilities_kwargs = self.determine_segmentation_softmax_export_fn()
        schemes, use_mask = self.determine_normalization_scheme_and_whether_mask_is_used_for_norm()
        return {
            "data_identifier": data_identifier,
            "preprocessor_name": self.preprocessor_name,
            "batch_size": choice.batch,
            "patch_size": list(choice.config.patch_size),
            "median_image_size_in_voxels": median_shape,
            "spacing": spacing,
            "normalization_schemes": schemes,
            "use_mask_for_norm": use_mask,
            "resampling_fn_data": fn_data.__name__,
            "resampling_fn_seg": fn_seg.__name__,
            "resampling_fn_data_kwargs": data_kwargs,
            "resampling_fn_seg_kwargs": seg_kwargs,
            "resampling_fn_probabilities": fn_probabilities.__name__,
            "resampling_fn_probabilities_kwargs": probabilities_kwargs,
            "architecture": {},  # see save_plans
            PLANS_KEY: planned_options(choice),
            DECISION_KEY: decision_of(choice, facts, self._spacing_rule(spacing)).as_dict(),
        }

    def _spacing_rule(self, spacing_DHW: Sequence[float]) -> str:
        forward, _ = self.determine_transpose()
        fullres = self.determine_fullres_target_spacing()[forward]
        if not np.allclose(fullres, spacing_DHW):
            return "coarser than 3d_fullres until a patch covers a quarter of the median image (nnU-Net's rule)"
        if self.overwrite_target_spacing is not None:
            return "given with -overwrite_target_spacing"
        median = np.percentile(np.vstack(self.dataset_fingerprint["spacings"]), 50, 0)[forward]
        if np.allclose(fullres, median):
            return "median of the training images (nnU-Net's rule)"
        return "median, 10th percentile along the thick slices (nnU-Net's rule)"

    def plan_experiment(self) -> dict[str, Any]:
        """Decide, write the plans and print them.

        Raises:
            UserError: see the class.
        """
        # nnU-Net only checks the first axis, and would continue with a 2d configuration alone.
        self.fullres_facts()
        # nnU-Net prints every trial of 3d_lowres and calls the network a U-Net.
        with contextlib.redirect_stdout(io.StringIO()):
            plans = super().plan_experiment()
        for name, configuration in plans["configurations"].items():
            if name in STANDARD:  # others were added by the user and are kept by nnU-Net
                print(describe(name, configuration))
        print(f"Plans: {self._plans_file}. Train with: -tr SAM3DAdapterTrainer -p {self.plans_identifier}")
        return plans

    def fullres_facts(self) -> DatasetFacts:
        """The dataset at the target spacing of 3d_fullres."""
        forward, _ = self.determine_transpose()
        target = self.determine_fullres_target_spacing()
        fingerprint = self.dataset_fingerprint
        pairs = zip(fingerprint["spacings"], fingerprint["shapes_after_crop"], strict=True)
        shape = np.median([compute_new_shape(shape, spacing, target) for spacing, shape in pairs], 0)
        voxels = np.prod(shape) * self.dataset_json["numTraining"]
        return self.facts(target[forward], shape[forward], voxels)

    @property
    def _plans_file(self) -> Path:
        return Path(nnUNet_preprocessed) / self.dataset_name / f"{self.plans_identifier}.json"

    def save_plans(self, plans: dict[str, Any]) -> None:
        """Like nnU-Net's, with 3D configurations only and this library's network."""
        configurations = plans["configurations"]
        for name in ("2d", "3d_cascade_fullres"):
            configurations.pop(name, None)
        for name, configuration in configurations.items():
            configuration.pop("next_stage", None)  # of the cascade
            refuse_unsupported(plans, name, self.dataset_json)
            options = TrainingOptions(**configuration[PLANS_KEY])
            rewritten = rewrite_plans(plans, name, self.dataset_json, options)["configurations"][name]
            configuration["architecture"] = rewritten["architecture"]
        self._forget_old_configurations(configurations)
        super().save_plans(plans)

    def _forget_old_configurations(self, planned: dict[str, Any]) -> None:
        """Remove configurations of older plans, which nnU-Net would keep (3d_lowres for another budget)."""
        if self._plans_file.is_file():
            old = json.loads(self._plans_file.read_text(encoding="utf-8"))
            for name in set(STANDARD) & set(old["configurations"]) - set(planned):
                del old["configurations"][name]
            write_json(self._plans_file, old)


def planned_options(choice: Choice) -> dict[str, Any]:
    """The training options set in the plans; others keep their defaults."""
    chosen = {"preset": choice.preset, "checkpointing": choice.config.checkpointing}
    clicks = {name: getattr(TrainingOptions, name) for name in CLICK_OPTIONS}
    return {**chosen, "max_clicks": choice.config.max_clicks, **clicks}


def decision_of(choice: Choice, facts: DatasetFacts, spacing_rule: str) -> Decision:
    """The decision as stored in the plans."""
    stride = choice.config.token_stride
    return Decision(
        budget_gb=choice.budget_gb,
        estimate_gb=choice.estimate_gb,
        precision=choice.precision,
        spacing_rule=spacing_rule,
        token_stride=stride,
        token_grid=choice.config.token_grid,
        window=choice.config.window,
        token_mm=tuple(round(step * mm, 3) for step, mm in zip(stride, facts.spacing_DHW, strict=True)),
        why=choice.why,
    )


def describe(name: str, configuration: dict[str, Any]) -> str:
    """A configuration as text."""
    decision = configuration[DECISION_KEY]
    lines = [
        f"{name}: {decision['estimate_gb']:g} of {decision['budget_gb']:g} GB, {decision['precision']}",
        f"spacing {', '.join(f'{mm:.4g}' for mm in configuration['spacing'])} mm: {decision['spacing_rule']}",
        *decision["why"],
    ]
    return "\n    ".join(lines)
