"""The plain network that the bench compares with computes what ours computes, which is the paper's."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nnsam3d.network import SAM3D

from .conftest import same
from .reference import PlainSAM3D


def test_ours_is_the_plain_one(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(paper=True, patch_size=(16, 24, 32), window=(2, 3, 4))
    image = torch.randn(3, 1, 16, 24, 32, dtype=torch.float64)
    clicks = torch.tensor([[[3.0, 4, 5], [15, 0, 31]]], dtype=torch.float64).repeat(3, 1, 1)
    labels = torch.zeros(3, 2, dtype=torch.long)
    ours, plain = net.segment(image, clicks, labels), PlainSAM3D(net).segment(image, clicks)
    same(ours, plain, 1e-11)
    parameters = [p for name, p in net.named_parameters() if p.requires_grad and "patch_embed" not in name]
    factor = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * factor).sum(), parameters, allow_unused=True),
        torch.autograd.grad((plain * factor).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None and b.abs().max() > 1e-9:
            same(a, b, 1e-7)
