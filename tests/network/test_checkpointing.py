"""Every checkpointing mode is the same function with the same gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nnsam3d.network import SAM3D, SAM3DConfig, preset_config
from nnsam3d.network.config import CHECKPOINTING
from nnsam3d.training import options

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


def test_the_modes_are_the_same_everywhere() -> None:
    assert options.CHECKPOINTING == CHECKPOINTING
    with pytest.raises(ValueError, match="'all': use one of none, cheap, blocks"):
        preset_config("tiny", checkpointing="all")
