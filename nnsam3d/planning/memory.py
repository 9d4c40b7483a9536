"""The memory of a candidate's training step: measured on shapes, plus a stated allowance.

One gigabyte is 10^9 bytes, so a card sold as "8 GB" has slightly more.
"""

from __future__ import annotations

from functools import cache

import torch

from nnsam3d.network import SAM3DConfig
from nnsam3d.network.memory import step_memory
from nnsam3d.nnunet.contract import DC_and_CE_loss, MemoryEfficientSoftDiceLoss

GIGABYTE = 10**9
# Not measured: memory of the process itself (on a card, the CUDA context and libraries), and a share for kernel
# workspaces and fragmentation.
PROCESS_GB = 0.5
WORKSPACE_SHARE = 0.10


@cache
def estimate_gb(config: SAM3DConfig, batch: int, half: bool) -> float:
    """Gigabytes for training ``config`` at its patch size with ``batch`` patches.

    Args:
        half: mixed precision, as on a GPU, with SAM's frozen backbone; else float32, as on a CPU, from scratch.
    """
    memory = step_memory(config, batch=batch, loss=nnunet_loss(), frozen=half, half=half)
    return PROCESS_GB + (1 + WORKSPACE_SHARE) * memory.peak / GIGABYTE


def nnunet_loss() -> torch.nn.Module:
    """Dice and cross entropy, like nnU-Net's trainer for plain labels."""
    dice = {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=MemoryEfficientSoftDiceLoss)
