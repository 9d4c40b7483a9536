"""Small networks that the tests of the boxes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nnsam3d.network import SAM3D, SAM3DConfig

SMALL: dict[str, Any] = {
    "patch_size": (16, 24, 32),
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 3,
    "window": (2, 3, 4),
    "token_stride": (4, 4, 4),
    "neck_dim": 16,
    "decoder_dim": 8,
    "prompt_heads": 4,
    "prompt_mlp_dim": 32,
    "pos_embed_size": (8, 8),
    "num_classes": 3,
    "max_clicks": 5,
}


@pytest.fixture
def small() -> Callable[..., SAM3D]:
    """A small anisotropic network in float64 and eval mode; keyword arguments replace fields."""

    def build(seed: int = 0, **overrides: Any) -> SAM3D:
        torch.manual_seed(seed)
        return SAM3D(SAM3DConfig(**{**SMALL, **overrides})).double().eval()

    return build


@pytest.fixture
def stirred(small: Callable[..., SAM3D]) -> Callable[..., SAM3D]:
    """The same with every parameter moved away from its initial value, zero-initialised additions included."""

    def build(seed: int = 0, **overrides: Any) -> SAM3D:
        net = small(seed, **overrides)
        with torch.no_grad():
            for name, p in net.named_parameters():
                if not name.endswith(".lr"):
                    p.add_(0.1 * torch.randn_like(p))
        return net

    return build


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    assert a.shape == b.shape
    """Equal up to `tolerance` of the largest value."""
    deviation, scale = float((a - b).detach().abs().max()), float(b.detach().abs().max())
    assert deviation <= tolerance * max(scale, 1e-30), (deviation, scale)
