"""Models for this package's inference: all whose networks take prompts."""

from __future__ import annotations

import torch
from torch import nn

from nnsam3d.errors import UserError
from nnsam3d.inference.device import half_precision_of
from nnsam3d.network import PromptTensors
from nnsam3d.nnunet.model import TrainedModel, capability


class Model(TrainedModel):
    """A trained model whose network takes prompts, ready to predict.

    Between prompts, ``SAM3DAdapterTrainer`` keeps image features; others, such as ``nnUNetClickTrainer``, run the whole
    network on every window that a prompt changes.

    Raises:
        UserError: see :class:`TrainedModel`; also for networks without prompts.
    """

    def _check_network(self, network: nn.Module, trainer_name: str) -> None:
        if not capability(self.trainer, "prompt_types"):
            raise UserError(
                f"{self.folder}: the trainer {trainer_name} trains networks without prompts; predict with "
                "nnUNetv2_predict."
            )

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run every network on an empty window, with one click where it keeps features."""
        size = self.patch_size
        image = torch.zeros(1, self.num_channels, *size, device=self.device)
        point = torch.tensor([[[n // 2 for n in size]]], dtype=torch.float32, device=self.device)
        prompts = PromptTensors(point, torch.ones(1, 1, dtype=torch.long, device=self.device))
        for network in self.networks:
            with half_precision_of(self.device):
                if capability(self.trainer, "keeps_features"):
                    network.decode(network.encode(image), prompts)  # type: ignore[operator]
                else:
                    network(torch.cat([image, torch.zeros_like(image[:, :1])], 1))
