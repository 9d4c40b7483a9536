from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from nnsam3d.network import SAM3D, PromptTensors, SAM3DConfig
from nnsam3d.network.prompt_encoder import CLICK_MAP_SIGMAS, PromptEncoder, click_maps

from . import oracle
from .conftest import same


def labels_of(clicks: torch.Tensor) -> torch.Tensor:
    return torch.zeros(clicks.shape[:2], dtype=torch.long)


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 5e-6)])
@pytest.mark.parametrize("name", ["prompt_small", "prompt_default_dims"])
def test_official(name: str, dtype: torch.dtype, relative: float) -> None:
    data = oracle.load(name)
    cfg = oracle.json_of(data["cfg"])
    config = SAM3DConfig(
        neck_dim=cfg["embedding_dim"],
        prompt_heads=cfg["num_heads"],
        prompt_mlp_dim=cfg["mlp_dim"],
        paper=True,
    )
    encoder = PromptEncoder(config)
    oracle.fill(encoder, data, f"{name}.")
    encoder.to(dtype)
    features = oracle.seeded(data["input_seed"], data["input_shape"], dtype)
    for case in ("n1", "n3", "n10", "oob"):
        clicks = oracle.clicks_dhw(data[f"points_DWH_{case}"], dtype)
        with torch.no_grad():
            out = encoder(features, PromptTensors(clicks, labels_of(clicks)))
        if f"out_{case}" in data:
            oracle.check(out, data[f"out_{case}"], relative, case)
        else:
            oracle.check(oracle.at(out, data["pos_hwd"], False), data[f"out_at_pos_{case}"], relative, case)
        if dtype == torch.float64:
            oracle.check_stats(out, data[f"stats_{case}"])


@pytest.fixture
def clicks() -> torch.Tensor:
    return torch.tensor([[[3.0, 4, 5], [10, 20, 30], [0, 0, 0], [15, 1, 16]]], dtype=torch.float64)


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(1, 16, 6, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("paper", [True, False])
def test_padding_is_neutral_and_order_irrelevant(
    stirred: Callable[..., SAM3D], clicks: torch.Tensor, features: torch.Tensor, paper: bool
) -> None:
    encoder = stirred(paper=paper).prompt_encoder
    labels = torch.tensor([[0, 2, 1, 2]])
    expected = encoder(features, PromptTensors(clicks, labels))
    order = [2, 0, 3, 1]
    same(encoder(features, PromptTensors(clicks[:, order], labels[:, order])), expected, 1e-12)
    padding = torch.full((1, 3, 3), 7.0, dtype=torch.float64)
    padded = torch.cat([clicks[:, :2], padding, clicks[:, 2:]], 1)
    padded_labels = torch.cat([labels[:, :2], torch.full((1, 3), -1), labels[:, 2:]], 1)
    same(encoder(features, PromptTensors(padded, padded_labels)), expected, 1e-12)


@pytest.mark.parametrize("paper", [True, False])
def test_zero_clicks(stirred: Callable[..., SAM3D], features: torch.Tensor, paper: bool) -> None:
    net = stirred(paper=paper)
    encoder = net.prompt_encoder
    nothing = PromptTensors(torch.zeros(1, 0, 3, dtype=torch.float64), torch.zeros(1, 0, dtype=torch.long))
    none = encoder(features, nothing)
    masked = encoder(features, PromptTensors(torch.zeros(1, 4, 3, dtype=torch.float64), torch.full((1, 4), -1)))
    same(masked, none, 1e-12)
    assert torch.isfinite(none).all()


def test_no_click_token_acts_only_without_clicks(
    stirred: Callable[..., SAM3D], clicks: torch.Tensor, features: torch.Tensor
) -> None:
    encoder = stirred().prompt_encoder
    labels = torch.tensor([[0, 2, 1, 2]])
    nothing = torch.full((1, 4), -1)
    before = encoder(features, PromptTensors(clicks, labels)), encoder(features, PromptTensors(clicks, nothing))
    with torch.no_grad():
        encoder.no_click.add_(1.0)
    assert torch.equal(encoder(features, PromptTensors(clicks, labels)), before[0])
    assert not torch.allclose(encoder(features, PromptTensors(clicks, nothing)), before[1])


@pytest.mark.parametrize("part", ["label_embed", "click_map"])
def test_additions(small: Callable[..., SAM3D], clicks: torch.Tensor, features: torch.Tensor, part: str) -> None:
    """New: labels are ignored. As soon as one addition is non-zero: they matter; gradients reach it at once."""
    encoder = small().prompt_encoder
    labels = torch.tensor([[0, 2, 1, 2]])
    expected = encoder(features, PromptTensors(clicks, labels))
    assert torch.equal(encoder(features, PromptTensors(clicks, labels.roll(1, 1))), expected)
    weight = getattr(encoder, part).weight
    (grad,) = torch.autograd.grad(expected.square().sum(), weight)
    assert grad.abs().max() > 0
    with torch.no_grad():
        weight.normal_()
    rolled = encoder(features, PromptTensors(clicks, labels.roll(1, 1)))
    assert not torch.allclose(rolled, encoder(features, PromptTensors(clicks, labels)))


def test_click_maps() -> None:
    places = torch.tensor([[[1.0, 2.5, 3.0], [4, 0, 0], [0, 0, 0]]])  # H, W, D in tokens
    maps = click_maps(places, torch.tensor([[1, 1, -1]]), (6, 5, 4), 3)
    assert maps.shape == (1, 3 * len(CLICK_MAP_SIGMAS), 6, 5, 4)
    assert maps[:, [0, 2, 3, 5]].abs().max() == 0  # labels without clicks; padding leaves no trace
    h, w, d = torch.meshgrid(*(torch.arange(float(n)) for n in (6, 5, 4)), indexing="ij")
    for index, sigma in ((1, CLICK_MAP_SIGMAS[0]), (4, CLICK_MAP_SIGMAS[1])):
        bumps = [
            torch.exp(-((h - a) ** 2 + (w - b) ** 2 + (d - c) ** 2) / (2 * sigma**2))
            for a, b, c in places[0, :2].tolist()
        ]
        torch.testing.assert_close(maps[0, index], torch.maximum(*bumps))
    assert click_maps(places[:, :0], torch.zeros(1, 0, dtype=torch.long), (6, 5, 4), 3).abs().max() == 0
