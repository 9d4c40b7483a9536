"""nnUNetClickTrainer: nnU-Net's own U-Net fed the same clicks, as balls in extra channels. The strongest simple rival.

Data, clicks, preprocessing and prompt files are those of SAM3DAdapterTrainer, clicks on its own errors included;
network, loss, optimiser, learning rate and augmentation are nnU-Net's. ``trainers/`` re-exports it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnsam3d.network.click_channels import ClickChannels, WithClickChannels, ball_radius
from nnsam3d.network.prompts import PromptTensors, with_prompts
from nnsam3d.nnunet.datasets import PROMPT_TYPES_KEY
from nnsam3d.nnunet.preprocessing import use_prompted_preprocessor
from nnsam3d.prompts import click_labels
from nnsam3d.prompts.encoding import ENCODING
from nnsam3d.training.budget import TimedTrainer
from nnsam3d.training.clicked import ClickedTrainer
from nnsam3d.training.options import PLANS_KEY, environment_overrides, resolve_options
from nnsam3d.training.plans import refuse_unsupported
from nnsam3d.training.rollout import drawn_round, next_clicks, predicted_labels, truth_labels

CLICK_OPTIONS = ("max_clicks", "zero_click_share", "negative_click_share", "click_strategy")
CLICK_CHANNELS_KEY = "nnsam3d_click_channels"  # in the plans' configuration: labels and radius


class nnUNetClickTrainer(ClickedTrainer):
    """nnU-Net's trainer and U-Net with one more input channel per click label (background included).

    Options: the length and the clicks of :class:`nnsam3d.training.options.TrainingOptions` (``uses``); all else is
    nnU-Net's, and options for it are ignored with a note.

    Raises:
        OptionsError: unknown or wrong option.
        UserError: a configuration or dataset without clicks (2D, cascade, re-orienting reader, no foreground).
    """

    uses = (*TimedTrainer.uses, "rounds", "validation_clicks", *CLICK_OPTIONS)

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),
    ) -> None:
        resolved = refuse_unsupported(plans, configuration, dataset_json, type(self).__name__)
        options = resolve_options(resolved, configuration).resolved(device.type)
        plans = deepcopy(plans)
        plans["configurations"][configuration] |= {
            CLICK_CHANNELS_KEY: {
                "labels": max(click_labels(dataset_json).values()) + 1,
                "radius": list(ball_radius(resolved["spacing"])),
            },
            PROMPT_TYPES_KEY: list(ENCODING.kinds),
        }
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.use_length(options)
        self.tell_ignored({*resolved.get(PLANS_KEY, {}), *environment_overrides()})

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

    def update(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's update, after rounds without gradient in which the network's errors are clicked.

        SAM3DAdapterTrainer's loss is the mean over all rounds of a roll-out. This network has no cheap second half, so
        one of the rounds is drawn: the same loss on average, at the cost of one backward pass.
        """
        rounds = drawn_round(self.options, self.current_epoch, self._iteration)
        data_BCDHW = batch["data"].to(self.device, non_blocking=True)
        if rounds:
            target = batch["target"]
            finest = (target[0] if isinstance(target, list) else target).to(self.device, non_blocking=True)
            data_BCDHW = self._corrected(data_BCDHW, truth_labels(finest, self.label_manager), rounds)
        return super().update({**batch, "data": data_BCDHW})

    @torch.no_grad()
    def _corrected(self, data_BCDHW: torch.Tensor, truth_BDHW: torch.Tensor, rounds: int) -> torch.Tensor:
        """The batch with clicks on the errors of so many answers."""
        answer, simulation = self.answers(data_BCDHW), self._click_simulation()
        first = PromptTensors.read(ENCODING.split(data_BCDHW, axis=1)[1], self.options.max_clicks)
        prompts = first.with_room(rounds)
        for slot in range(first.slots, prompts.slots):
            with self.half_precision():
                predicted_BDHW = predicted_labels(answer(prompts), self.label_manager)
            prompts = prompts.with_click(slot, *next_clicks(truth_BDHW, predicted_BDHW, prompts, simulation))
        return with_prompts(data_BCDHW, prompts)

    def answers(self, data_BCDHW: torch.Tensor) -> Callable[[PromptTensors], torch.Tensor]:
        """A forward pass for every set of prompts; the finest logits."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network

        def answer(prompts: PromptTensors) -> torch.Tensor:
            logits = network(with_prompts(data_BCDHW, prompts))
            return logits[0] if isinstance(logits, list | tuple) else logits  # type: ignore[no-any-return]

        return answer
