"""What every trainer with clicks shares: clicks simulated in training, online and final validation.

Both networks of this project that listen to clicks learn from here, so that a comparison compares networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnsam3d.prompts import click_labels
from nnsam3d.training.budget import TimedTrainer
from nnsam3d.training.clicks import ClickSimulation, PromptRecorder, insert_clicks, with_simulated_clicks
from nnsam3d.training.options import ENVIRONMENT_VARIABLE


class ClickedTrainer(TimedTrainer):
    """nnU-Net's trainer whose data carry the prompt channel; ``options`` say how clicks are simulated."""

    def _click_simulation(self) -> ClickSimulation:
        spacing = self.configuration_manager.spacing
        return ClickSimulation(
            labels=tuple(value for value in click_labels(self.dataset_json).values() if value > 0),
            ignore_label=self.label_manager.ignore_label,
            spacing=(spacing[0], spacing[1], spacing[2]),
            options=self.options,
        )

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> ComposeTransforms:  # type: ignore[override]
        """nnU-Net's augmentation plus clicks simulated from the augmented segmentation."""
        transforms = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        return insert_clicks(transforms, self._click_simulation(), training=True)

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> ComposeTransforms:  # type: ignore[override]
        """nnU-Net's validation pipeline plus ``validation_clicks`` simulated clicks."""
        transforms = nnUNetTrainer.get_validation_transforms(*args, **kwargs)
        return insert_clicks(transforms, self._click_simulation(), training=False)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's final validation; every case carries clicks simulated from its ground truth, seeded by name.

        The clicks are written to ``validation_prompts/``: nnUNetv2_predict with them repeats the validation.
        """
        self.print_to_log_file(
            f"final validation with {self.options.validation_clicks} simulated click(s) per case "
            f'(change it with {ENVIRONMENT_VARIABLE}="validation_clicks=N" and --val)'
        )
        prompts = PromptRecorder(
            Path(self.output_folder) / "validation_prompts",
            self.plans_manager.transpose_forward,
            {value: name for name, value in click_labels(self.dataset_json).items()},
        )
        stock: Any = self.dataset_class
        self.dataset_class: Any = with_simulated_clicks(stock, self._click_simulation(), prompts)
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            self.dataset_class = stock
