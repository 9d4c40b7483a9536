"""nnU-Net's own trainer with the length of training taken from our options: the fair automatic baseline.

Stock nnU-Net hard-codes 1000 epochs of 250 iterations; a comparison at equal wall-clock time needs both trainers
to run, and to decay their learning rates, over a length that is chosen.
"""

from __future__ import annotations

from typing import Any

import torch

from nnsam3d.training.budget import TimedTrainer
from nnsam3d.training.options import environment_overrides, options_from_environment


class nnUNetBaselineTrainer(TimedTrainer):
    """nnUNetTrainer; ``nnsam3d_options`` sets the length (``uses``), other options are ignored with a note.

    Raises:
        OptionsError: unknown or wrong option.
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
