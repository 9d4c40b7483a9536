"""The plain network that the bench compares with is the paper's, and computes what ours computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from nnsam3d.network import SAM3D

from . import oracle
from .conftest import same
from .reference import PlainSAM3D


@pytest.mark.parametrize("name", ["tiny32", "tiny64"])
def test_official_logits(name: str) -> None:
    data = oracle.load(name)
    net = PlainSAM3D(oracle.official_net(name, data, torch.float64))
    clicks = oracle.clicks_dhw(data["points_DWH"], torch.float64)
    with torch.no_grad():
        logits = net.segment(oracle.image(data["image_seed"], data["crop_DHW"], torch.float64), clicks)
    if "logits" in data:
        ours, reference = logits, data["logits"]
    else:
        ours, reference = logits.reshape(-1)[torch.from_numpy(data["logit_idx"])], data["logits_at_idx"]
    oracle.check(ours, np.asarray(reference), 1e-6)


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
