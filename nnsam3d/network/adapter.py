"""Adapter: the paper's trainable bottleneck in front of every transformer block (docs/network.md#adapter).

Shape suffixes: B batch, H W D token grid, C channels of the token stream, R reduced channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Adapter(nn.Module):
    """x + ReLU(up(ReLU(depth-wise 3x3x3(ReLU(down(x)))))) on (B, H, W, D, C) tokens.

    Because of the last ReLU, as in the paper, the update is never negative.
    """

    def __init__(self, dim: int, reduced_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, reduced_dim)
        self.conv = nn.Conv3d(reduced_dim, reduced_dim, 3, padding=1, groups=reduced_dim)
        self.linear2 = nn.Linear(reduced_dim, dim)

    def forward(self, x_BHWDC: Tensor) -> Tensor:
        u_BHWDR = F.relu(self.linear1(x_BHWDC))
        u_BRHWD = self.conv(u_BHWDR.permute(0, 4, 1, 2, 3))  # a channels-last view, nothing is copied
        u_BHWDR = F.relu(u_BRHWD).permute(0, 2, 3, 4, 1)
        return x_BHWDC + F.relu(self.linear2(u_BHWDR))
