"""Distributed training: every parameter that DDP waits for gets a gradient, compiled or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from nnsam3d.network import SAM3D, SAM3DConfig

from .conftest import SMALL


@pytest.mark.parametrize("compiled", [False, True])
def test_ddp_trains(tmp_path: Path, compiled: bool) -> None:
    config = SAM3DConfig(**SMALL)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        net: torch.nn.Module = SAM3D(config).train()
        if compiled:  # nnU-Net compiles first and wraps then, which puts a prefix before the parameters' names
            net = torch.compile(net, backend="eager")
        net = torch.nn.parallel.DistributedDataParallel(net)
        for _ in range(3):  # DDP complains in the iteration after a parameter was left out
            x_BCDHW = torch.randn(1, 2, *config.patch_size)
            x_BCDHW[:, 1] = 0
            x_BCDHW[:, 1, 2, 3, 4] = 2
            net(x_BCDHW).square().mean().backward()
    finally:
        dist.destroy_process_group()
