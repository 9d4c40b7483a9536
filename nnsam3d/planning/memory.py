"""What a training step of a candidate needs on the card: measured on shapes, plus a stated allowance.

One gigabyte is 10^9 bytes, so that a card sold as "8 GB" has a little more than that.
"""

from __future__ import annotations

from functools import cache

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnsam3d.network import SAM3DConfig
from nnsam3d.network.memory import step_memory

GIGABYTE = 10**9
# Not measured, because it lies outside the tensors: what the process itself takes on the card (the CUDA context
# and its libraries) or in memory, and a share for workspaces of kernels and gaps between tensors.
PROCESS_GB = 0.5
WORKSPACE_SHARE = 0.10


@cache
def estimate_gb(config: SAM3DConfig, batch: int, half: bool) -> float:
    """Gigabytes that training ``config`` at its patch size with ``batch`` patches needs.

    Args:
        half: mixed precision, as on a GPU, with SAM's frozen backbone; else float32, as on a CPU, from scratch.
    """
    memory = step_memory(config, batch=batch, loss=nnunet_loss(), frozen=half, half=half)
    return PROCESS_GB + (1 + WORKSPACE_SHARE) * memory.peak / GIGABYTE


def nnunet_loss() -> torch.nn.Module:
    """Dice and cross entropy, as nnU-Net's trainer builds it for plain labels."""
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)
