"""Every checkpointing mode is the same function with the same gradients."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from nnsam3d.network import SAM3D, SAM3DConfig, preset_config
from nnsam3d.network.config import CHECKPOINTING
from nnsam3d.training import options

from . import oracle
from .conftest import SMALL, same

OTHERS = [mode for mode in CHECKPOINTING if mode != "none"]
SIZE = (16, 24, 32)


def with_clicks(batch: int, size: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 2, *size, dtype=dtype, generator=generator)
    x[:, 1] = 0
    x[0, 1, 3, 4, 5], x[0, 1, 12, 12, 20] = 2, 1
    return x


def gradients(net: torch.nn.Module, x: Tensor) -> dict[str, Tensor]:
    net.zero_grad(set_to_none=True)
    net(x).square().mean().backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", OTHERS)
@pytest.mark.parametrize(
    ("size", "window"),  # the second: voxels, tokens and windows that do not fit
    [(SIZE, (2, 3, 4)), ((20, 13, 22), (4, 3, 4))],
)
def test_same_outputs_and_gradients(
    stirred: Callable[..., SAM3D], mode: str, size: tuple[int, int, int], window: tuple[int, int, int]
) -> None:
    x = with_clicks(3, size)
    how = {"window": window, "detail_dim": 4, "fine_click_maps": 1}
    plain, saving = stirred(**how).train(), stirred(**how, checkpointing=mode).train()
    same(saving(x), plain(x), 1e-13)
    expected, found = gradients(plain, x), gradients(saving, x)
    assert expected.keys() == found.keys()
    for name, grad in expected.items():
        if not name.endswith("k_proj.bias"):  # analytically zero
            same(found[name], grad, 1e-9)
    with torch.no_grad():
        same(saving.eval()(x), plain.eval()(x), 1e-13)
    with torch.inference_mode():
        saving(x)


@pytest.mark.parametrize("mode", OTHERS)
def test_official_gradients(mode: str) -> None:
    """Outputs and gradients against the official network's numbers."""
    data = oracle.load("tiny32")
    official = oracle.official_net("tiny32", data, torch.float64)
    net = SAM3D(dataclasses.replace(official.config, checkpointing=mode)).double()
    net.load_state_dict(official.state_dict())
    net.requires_grad_(True)
    clicks = oracle.clicks_dhw(data["points_DWH"], torch.float64)
    image = oracle.image(data["image_seed"], data["crop_DHW"], torch.float64)
    logits = net.segment(image, clicks, torch.zeros(clicks.shape[:2], dtype=torch.long))
    oracle.check(logits, data["logits"], 1e-6)
    with torch.no_grad():
        three = net.segment(image.repeat(3, 1, 1, 1, 1), clicks.repeat(3, 1, 1), torch.zeros(3, clicks.shape[1]).long())
    for item in three:
        oracle.check(item[None], data["logits"], 1e-6)
    logits.square().sum().backward()
    grads = {f"tiny32.{name}": p.grad for name, p in net.named_parameters()}
    for key, norm in zip(json.loads(str(data["grad_keys"])), data["grad_norm"], strict=True):
        if norm >= 1e-9 and "patch_embed" not in key:
            grad = grads[key]
            assert grad is not None, key
            assert abs(float(grad.norm()) - norm) <= 1e-6 * norm, key


@pytest.mark.parametrize("mode", CHECKPOINTING)
def test_under_autocast(mode: str) -> None:
    """Recomputed under the same autocast, so bit for bit what the first pass was."""
    torch.manual_seed(0)
    x = with_clicks(2, SIZE, torch.float32)
    plain = SAM3D(SAM3DConfig(**SMALL)).train()
    saving = SAM3D(SAM3DConfig(**SMALL, checkpointing=mode)).train()
    saving.load_state_dict(plain.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = saving(x), plain(x)
    same(out.float(), expected.float(), 1e-6)
    out.float().square().mean().backward()
    expected.float().square().mean().backward()
    for (name, p), q in zip(saving.named_parameters(), plain.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None and not name.endswith("k_proj.bias"):
            same(p.grad, q.grad, 1e-2)


@pytest.mark.parametrize("mode", OTHERS)
def test_under_ddp(tmp_path: Path, mode: str) -> None:
    net = SAM3D(SAM3DConfig(**SMALL, checkpointing=mode)).train()
    x = with_clicks(2, SIZE, torch.float32)
    expected = {name: grad.clone() for name, grad in gradients(net, x).items()}
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(net)
        for _ in range(2):
            found = gradients(parallel, x)
    finally:
        dist.destroy_process_group()
    for name, grad in expected.items():
        if not name.endswith("k_proj.bias"):
            same(found[f"module.{name}"], grad, 1e-4)


def test_the_modes_are_the_same_everywhere() -> None:
    assert options.CHECKPOINTING == CHECKPOINTING
    with pytest.raises(ValueError, match="'all': use one of none, cheap, blocks"):
        preset_config("tiny", checkpointing="all")
