"""nnUNetClickTrainer: nnU-Net's own U-Net fed the same clicks, as balls in extra channels. The strongest simple rival.

Data, clicks, preprocessing and prompt files are those of SAM3DAdapterTrainer; network, loss, optimiser, learning rate
and augmentation are nnU-Net's. ``trainers/`` re-exports it.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnsam3d.network.click_channels import ClickChannels, WithClickChannels, ball_radius
from nnsam3d.preprocessing.prompted import use_prompted_preprocessor
from nnsam3d.prompts import click_labels
from nnsam3d.training.clicked import ClickedTrainer
from nnsam3d.training.options import resolve_options
from nnsam3d.training.plans import refuse_unsupported

CLICK_CHANNELS_KEY = "nnsam3d_click_channels"  # in the plans' configuration: labels and radius


class nnUNetClickTrainer(ClickedTrainer):
    """nnU-Net's trainer and U-Net with one more input channel per click label (background included).

    Options: the length and the clicks of :class:`nnsam3d.training.options.TrainingOptions`; all else is nnU-Net's.

    Raises:
        OptionsError: unknown or wrong option.
        UserError: a configuration or dataset without clicks (2D, cascade, re-orienting reader, no foreground).
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        resolved = refuse_unsupported(plans, configuration, dataset_json, type(self).__name__)
        options = resolve_options(resolved, configuration)
        plans = deepcopy(plans)
        plans["configurations"][configuration][CLICK_CHANNELS_KEY] = {
            "labels": max(click_labels(dataset_json).values()) + 1,
            "radius": list(ball_radius(resolved["spacing"])),
        }
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.use_length(options)

    @staticmethod
    def build_network_architecture(  # type: ignore[override]
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The planned U-Net behind :class:`ClickChannels`; also used in prediction, which is why it makes
        ``configuration_manager`` prompt-aware. ``num_input_channels`` counts image channels only."""
        use_prompted_preprocessor(configuration_manager)
        channels = ClickChannels(**configuration_manager.configuration[CLICK_CHANNELS_KEY])
        network = nnUNetTrainer.build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels + channels.labels,
            num_output_channels,
            enable_deep_supervision,
        )
        return WithClickChannels(channels, network)
