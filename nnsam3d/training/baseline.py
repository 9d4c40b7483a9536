"""nnU-Net's own trainer with a configurable training length: the automatic baseline of comparisons.

nnU-Net hard-codes 1000 epochs of 250 iterations. For a comparison at equal wall-clock time, the length of training and
the learning-rate schedule must be configurable for every trainer.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsam3d.training.budget import TimedTrainer
from nnsam3d.training.options import environment_overrides, options_from_environment


class nnUNetBaselineTrainer(TimedTrainer):
    """nnUNetTrainer; ``nnsam3d_options`` sets the length (``uses``). Other options are ignored, and the log lists them.

    Raises:
        OptionsError: unknown option or invalid value.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.use_length(options_from_environment().resolved(device.type))
        self.tell_ignored(environment_overrides())
