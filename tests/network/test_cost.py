"""What the network costs, against the numbers that the issue and the reference name."""

from __future__ import annotations

import pytest
import torch

from nnsam3d.network import SAM3D, SAM3DConfig, freeze_pretrained, parameter_counts, preset_config
from nnsam3d.network.cost import count_flop, measure, saved_bytes

from .conftest import SMALL

GIGA = 10**9


def test_arithmetic_of_the_paper_s_network() -> None:
    config = preset_config("vit_b")
    cost = measure(config)
    with torch.device("meta"):
        net = SAM3D(config)
    freeze_pretrained(net)
    assert cost.trainable_bytes == 4 * parameter_counts(net)[1]
    assert cost.forward_flop <= 8100 * GIGA
    assert cost.click_flop <= 165 * GIGA
    # Blocks (attention with the extended width) and necks, from their shapes: nothing large goes uncounted.
    tokens, width = 32**3, 768
    linear = 2 * tokens * width * (3 + 1 + 4 + 4 + 1) * width  # qkv, proj, MLP, adapter
    attention = sum(2 * 2 * tokens * 512 * 12 * (88 if i % 2 else 96) for i in range(12))
    necks = 4 * 2 * tokens * (width * 256 + 27 * 256 * 256)
    heads = 4 * 2 * tokens * 27 * (256 * 128 + 128 * 128)
    fusion = 2 * tokens * 27 * 512 * 128
    known = 12 * linear + attention + necks + heads + fusion
    assert known <= cost.forward_flop <= 1.03 * known


@pytest.mark.parametrize(("mode", "gigabytes"), [("none", 17.5), ("cheap", 10), ("blocks", 2)])
def test_memory_of_the_paper_s_network(mode: str, gigabytes: float) -> None:
    config = preset_config("vit_b", checkpointing=mode)
    full = measure(config).saved_bytes
    assert full <= gigabytes * GIGA
    if mode == "none":  # not half of it: the stream between the blocks stays float32
        assert measure(config, autocast=torch.bfloat16).saved_bytes < 0.95 * full


def test_values_or_not_the_figures_are_the_same() -> None:
    config = SAM3DConfig(**SMALL)
    net = SAM3D(config).train()
    image = torch.randn(2, 1, *config.patch_size)
    clicks, labels = torch.zeros(2, config.max_clicks, 3), torch.zeros(2, config.max_clicks, dtype=torch.long)
    cost = measure(config, batch=2, frozen=False)
    assert saved_bytes(net, lambda: net.segment(image, clicks, labels)) == cost.saved_bytes
    assert count_flop(lambda: net.segment(image, clicks, labels)) == cost.forward_flop
    assert cost.trainable_bytes == 4 * parameter_counts(net)[1]
