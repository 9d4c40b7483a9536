"""Models for this package's inference, which keep image features between clicks."""

from __future__ import annotations

import torch
from torch import nn

from nnsam3d.errors import UserError
from nnsam3d.geometry import Triple
from nnsam3d.inference.device import half_precision_of
from nnsam3d.network import SAM3D, PromptTensors
from nnsam3d.nnunet.datasets import FINAL
from nnsam3d.nnunet.model import TrainedModel, capability

__all__ = ["FINAL", "Model", "Triple"]


class Model(TrainedModel):
    """A trained ``SAM3DAdapterTrainer`` (or a subclass), ready to predict.

    Raises:
        UserError: see :class:`TrainedModel`; also for models of other trainers.
    """

    networks: list[SAM3D]  # type: ignore[assignment]

    def _check_network(self, network: nn.Module, trainer_name: str) -> None:
        if not capability(self.trainer, "keeps_features"):
            clicked = capability(self.trainer, "prompt_types")
            kind = "that process the whole image for every click" if clicked else "without clicks"
            raise UserError(
                f"{self.folder}: the trainer {trainer_name} trains networks {kind}; predict with nnUNetv2_predict."
            )

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run both halves of every network on an empty window with one click."""
        size = self.patch_size
        image = torch.zeros(1, self.num_channels, *size, device=self.device)
        point = torch.tensor([[[n // 2 for n in size]]], dtype=torch.float32, device=self.device)
        prompts = PromptTensors(point, torch.ones(1, 1, dtype=torch.long, device=self.device))
        for network in self.networks:
            with half_precision_of(self.device):
                network.decode(network.encode(image), prompts)
