from __future__ import annotations

import torch

from nnsam3d.network import PromptTensors
from nnsam3d.network.image_encoder import ChannelNorm

from . import oracle


def test_every_stage_up_to_the_prompted_level() -> None:
    """Tokens after stem and blocks, the necks, and the prompt encoder, against the official numbers (float64)."""
    for name in ("tiny32", "tiny64"):
        data = oracle.load(name)
        net = oracle.official_net(name, data, torch.float64)
        encoder, clicks = net.image_encoder, oracle.clicks_dhw(data["points_DWH"], torch.float64)
        with torch.no_grad():
            x = encoder.stem(oracle.image(data["image_seed"], data["crop_DHW"], torch.float64))
            layouts = encoder.layouts(x)
            stages = {"stem": x}
            for i, block in enumerate(encoder.blocks):
                x = stages[f"block{i:02d}"] = block(x, layouts[i % 2])
            levels = encoder(oracle.image(data["image_seed"], data["crop_DHW"], torch.float64))
            labels = torch.zeros(clicks.shape[:2], dtype=torch.long)
            prompted = net.prompt_encoder(levels[3], PromptTensors(clicks, labels))
        for stage, tokens in stages.items():
            oracle.check(oracle.at(tokens, data["pos_hwd"], True), data[f"{stage}_at_pos"], 1e-6, stage)
            oracle.check_stats(tokens, data[f"{stage}_stats"])
        for k, level in enumerate(levels):
            oracle.check(oracle.at(level, data["pos_hwd"], False), data[f"neck{k}_at_pos"], 1e-6)
            oracle.check_stats(level, data[f"neck{k}_stats"])
        oracle.check(oracle.at(prompted, data["pos_hwd"], False), data["prompt_at_pos"], 1e-6)
        oracle.check_stats(prompted, data["prompt_stats"])


def test_channel_norm() -> None:
    norm = ChannelNorm(5, eps=1e-6).double()
    x = torch.randn(2, 5, 3, 4, 2, dtype=torch.float64)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(norm(x), expected)
