"""nnUNetClickTrainer: nnU-Net's own U-Net with clicks as balls in extra input channels, the interactive baseline.

Data, clicks (including clicks on its own errors), preprocessing and prompt files are those of SAM3DAdapterTrainer.
Network, loss, optimiser, learning rate and augmentation are nnU-Net's. ``trainers/`` re-exports it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnsam3d.network.click_channels import ClickChannels, WithClickChannels, ball_radius
from nnsam3d.network.prompts import PromptTensors, with_prompts
from nnsam3d.nnunet.contract import ConfigurationManager, PlansManager, nnUNetTrainer
from nnsam3d.nnunet.datasets import PROMPT_TYPES_KEY
from nnsam3d.nnunet.preprocessing import use_prompted_preprocessor
from nnsam3d.prompts import PromptCodec, click_labels
from nnsam3d.training.budget import TimedTrainer
from nnsam3d.training.clicked import ClickedTrainer
from nnsam3d.training.options import PLANS_KEY, TrainingOptions, environment_overrides, resolve_options
from nnsam3d.training.plans import refuse_unsupported
from nnsam3d.training.rollout import drawn_round, next_clicks, predicted_labels, starting, truth_labels

CLICK_OPTIONS = ("max_clicks", "zero_click_share", "negative_click_share", "click_strategy")
EXTENT_OPTIONS = ("prompt_kinds", "extent_share", "corrupted_share", "start_share", "start_from")
CLICK_CHANNELS_KEY = "nnsam3d_click_channels"  # in the plans' configuration: labels and radius


def _with_channels(
    plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], options: TrainingOptions
) -> dict[str, Any]:
    """A copy of the plans that describes the input channels for prompts."""
    spacing = PlansManager(plans).get_configuration(configuration).configuration["spacing"]
    codec = PromptCodec.of(options.kinds, click_labels(dataset_json), spacing)
    plans = deepcopy(plans)
    plans["configurations"][configuration] |= {
        CLICK_CHANNELS_KEY: {"labels": codec.labels, "radius": list(ball_radius(spacing)), "maps": len(codec.maps)},
        PROMPT_TYPES_KEY: list(codec.kinds),
    }
    return plans


class nnUNetClickTrainer(ClickedTrainer):
    """nnU-Net's trainer and U-Net with one additional input channel per click label (including background).

    Options: those of :class:`nnsam3d.training.options.TrainingOptions` for length and clicks (``uses``). Everything
    else is nnU-Net's; other options are ignored, and the log lists them.

    Raises:
        OptionsError: unknown option or invalid value.
        UserError: an unsupported configuration or dataset (2D, cascade, re-orienting reader, no foreground).
    """

    uses = (
        *TimedTrainer.uses,
        *("rounds", "first_answer_weight", "validation_clicks", "weights"),
        *CLICK_OPTIONS,
        *EXTENT_OPTIONS,
    )

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
        plans = _with_channels(plans, configuration, dataset_json, options)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.use_length(options)
        self.tell_ignored({*resolved.get(PLANS_KEY, {}), *environment_overrides()})

    def _adopt(self, checkpoint: dict[str, Any], filename: str) -> None:
        """Also the kinds of prompts, on which the network depends."""
        super()._adopt(checkpoint, filename)
        plans = _with_channels(self.plans_manager.plans, self.configuration_name, self.dataset_json, self.options)
        self.plans_manager: Any = PlansManager(plans)
        self.configuration_manager = self.plans_manager.get_configuration(self.configuration_name)

    @staticmethod
    def build_network_architecture(  # type: ignore[override]
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The planned U-Net behind :class:`ClickChannels`. ``num_input_channels`` counts image channels only.

        Prediction also calls this, so it installs the prompt-aware preprocessor in ``configuration_manager``.
        """
        use_prompted_preprocessor(configuration_manager)
        entry = configuration_manager.configuration[CLICK_CHANNELS_KEY]
        channels = ClickChannels(**entry, image_channels=num_input_channels)
        network = nnUNetTrainer.build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels + channels.labels + channels.maps,
            num_output_channels,
            enable_deep_supervision,
        )
        return WithClickChannels(channels, network)

    def update(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's update, after correction rounds without gradient that add clicks on the network's errors.

        SAM3DAdapterTrainer's loss is a weighted mean over all answers of a roll-out. This network has no separate
        decoder that could answer again at low cost, so one answer is drawn, as often as it weighs there.
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
        """The batch with ``rounds`` additional clicks, each on the errors of the previous answer."""
        answer, simulation = self.answers(data_BCDHW), self._click_simulation()
        channels_BPDHW = data_BCDHW[:, -simulation.codec.num_channels :]
        first = PromptTensors.read(channels_BPDHW, self.options.click_slots)
        prompts = first.with_room(rounds)
        start = starting(self.options, self.current_epoch, self._iteration, rounds, self.label_manager, simulation)
        for slot in range(first.slots, prompts.slots):
            with self.half_precision():
                logits = answer(prompts)
            predicted_BDHW = predicted_labels(logits, self.label_manager)
            if start is not None:
                prompts = start(slot - first.slots, logits, prompts)
            prompts = prompts.with_click(slot, *next_clicks(truth_BDHW, predicted_BDHW, prompts, simulation))
        return with_prompts(data_BCDHW, prompts)

    def answers(self, data_BCDHW: torch.Tensor) -> Callable[[PromptTensors], torch.Tensor]:
        """Maps prompts to the logits at full resolution; every call is a full forward pass."""
        network = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network

        def answer(prompts: PromptTensors) -> torch.Tensor:
            logits = network(with_prompts(data_BCDHW, prompts))
            return logits[0] if isinstance(logits, list | tuple) else logits  # type: ignore[no-any-return]

        return answer
