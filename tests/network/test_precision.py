"""Half precision and compilation: safe, and whole."""

from __future__ import annotations

import pytest
import torch

from nnsam3d.network import SAM3D, SAM3DConfig, freeze_pretrained
from nnsam3d.network.attention import WindowAttention, merge, partition, window_layout
from nnsam3d.network.config import CHECKPOINTING

from .conftest import SMALL, same

CPU = torch.device("cpu")
GRID, WINDOW = (6, 4, 5), (4, 4, 4)  # padded and shifted: every mask is at work


def attention(dtype: torch.dtype, scale: float) -> torch.Tensor:
    torch.manual_seed(0)
    module = WindowAttention(32, 2, WINDOW, (7, 7, 7)).double()
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.2).copy_(p.half())  # exact in every precision but bfloat16
    x = scale * torch.randn(1, *GRID, 32, dtype=torch.float64).half().double()
    layout = window_layout(GRID, WINDOW, True, CPU, dtype)
    with torch.no_grad():
        return merge(module.to(dtype)(partition(x.to(dtype), layout), layout), layout).double()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 0.01), (torch.bfloat16, 0.06)])
def test_attention_in_half_precision(dtype: torch.dtype, bound: float) -> None:
    """The mask values fit and underflow, whatever the precision; errors are those of rounding."""
    exact = attention(torch.float64, 1.0)
    low = attention(dtype, 1.0)
    assert torch.isfinite(low).all()
    assert float((low - exact).norm() / exact.norm()) < bound
    assert torch.isfinite(attention(dtype, 30.0)).all()


def test_masks_hold_in_half_precision() -> None:
    """A token in another region, or in the padding, changes nothing however loud it is."""
    layout = window_layout((4, 4, 5), WINDOW, True, CPU, torch.float16)
    torch.manual_seed(0)
    module = WindowAttention(16, 2, WINDOW, (7, 7, 7)).half().eval()
    x = torch.randn(1, 4, 4, 5, 16).half()
    changed = x.clone()
    changed[:, 0, 0, 0] += 2  # shifted windows: the first token's region is the first two of every axis
    with torch.no_grad():
        outs = [merge(module(partition(v, layout), layout), layout) for v in (x, changed)]
    assert torch.equal(outs[0][:, 2:, 2:, 2:], outs[1][:, 2:, 2:, 2:])
    assert not torch.equal(outs[0], outs[1])


def batch(config: SAM3DConfig) -> torch.Tensor:
    x = torch.randn(2, 2, *config.patch_size)
    x[:, 1] = 0
    x[0, 1, 3, 4, 5] = 2
    return x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_under_autocast(dtype: torch.dtype) -> None:
    """The loss falls, and nothing overflows on the way; float16 with scaled gradients, as nnU-Net trains on GPUs."""
    torch.manual_seed(0)
    config = SAM3DConfig(**SMALL)
    net = SAM3D(config).train()
    freeze_pretrained(net)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=3e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    x = batch(config)
    target = (x[:, 0] > 0).long()
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", dtype=dtype):
            loss = torch.nn.functional.cross_entropy(net(x).float(), target)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.slow if mode != "blocks" else ()) for mode in CHECKPOINTING]
)
def test_compiles_without_graph_breaks(mode: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    config = SAM3DConfig(**SMALL, checkpointing=mode)
    net = SAM3D(config).train()
    x = batch(config)
    expected = net(x)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    same(compiled(x), expected, 1e-4)
    expected.square().mean().backward()
    grads = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    compiled(x).square().mean().backward()
    for name, p in net.named_parameters():
        if name in grads and not name.endswith("k_proj.bias"):
            same(p.grad, grads[name], 5e-3)


def test_compiled_prediction_has_no_graph_breaks() -> None:
    torch._dynamo.reset()
    net = SAM3D(SAM3DConfig(**SMALL)).eval()
    x = batch(net.config)
    with torch.no_grad():
        same(torch.compile(net, fullgraph=True, backend="eager")(x), net(x), 1e-4)
