"""What every preset promises: what trains and what does not, how large it is, what a checkpoint holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nnsam3d.network import PRESETS, SAM3D, SAM3DConfig, freeze_pretrained, parameter_counts, preset_config
from nnsam3d.network.prompt_encoder import CLICK_MAP_SIGMAS
from nnsam3d.training.optimizer import build_optimizer
from nnsam3d.training.options import TrainingOptions

FROZEN = (".patch_embed.", ".pos_embed", ".attn.qkv.", ".attn.proj.", "rel_pos_h", "rel_pos_w", ".attn.lr", ".mlp.")


def reduced(name: str, **overrides: Any) -> SAM3DConfig:
    """A preset's structure (depth, heads, position tables) at a size that trains in seconds."""
    sizes: dict[str, Any] = {"patch_size": (24, 32, 32), "window": (4, 4, 4)}
    if name != "tiny":
        heads = PRESETS[name]["num_heads"]
        narrow = {"neck_dim": 16, "decoder_dim": 8, "prompt_heads": 4, "prompt_mlp_dim": 32}
        sizes |= {"embed_dim": 2 * heads, **narrow}
    return preset_config(name, **{**sizes, **overrides})


def batch(config: SAM3DConfig) -> Tensor:
    x = torch.randn(2, config.num_image_channels + 1, *config.patch_size)
    x[:, -1] = 0
    x[0, -1, 3, 4, 5], x[0, -1, 12, 20, 30] = 2, 1  # labelled clicks, and a patch without any
    return x


@pytest.mark.parametrize("name", ["tiny", "vit_b"])
def test_frozen_stays_frozen_and_the_rest_moves(name: str) -> None:
    torch.manual_seed(0)
    config = reduced(name)
    net = SAM3D(config).train()
    with torch.no_grad():
        net.prompt_encoder.click_map.weight.normal_(std=0.1)  # type: ignore[operator]
    freeze_pretrained(net)
    optimizer = build_optimizer(net, TrainingOptions(preset=name, weight_decay=0.1).resolved("cuda"))
    held = {p for group in optimizer.param_groups for p in group["params"]}
    assert held == {p for p in net.parameters() if p.requires_grad}
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        net(batch(config)).square().mean().backward()
        optimizer.step()
    for key, p in net.named_parameters():
        frozen = key.startswith("image_encoder.") and any(part in key for part in FROZEN)
        assert p.requires_grad == (not frozen), key
        if frozen:
            assert torch.equal(p, before[key]), key
            assert p.grad is None, key
        elif ".cross_attn_token_to_image." not in key:  # never called, officially neither
            assert not torch.equal(p, before[key]), key


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("labels", [2, 5])
def test_what_labelled_clicks_add(name: str, labels: int) -> None:
    """An embedding per label, one for "no click", and the click maps' convolution; all of them train."""
    with torch.device("meta"):
        paper = SAM3D(preset_config(name, paper=True))
        full = SAM3D(preset_config(name, num_click_labels=labels, detail_dim=0))
    freeze_pretrained(paper)
    freeze_pretrained(full)
    neck = full.config.neck_dim
    added = neck * (labels + 1 + labels * len(CLICK_MAP_SIGMAS))
    counts, paper_counts = parameter_counts(full), parameter_counts(paper)
    assert counts == (paper_counts[0] + added, paper_counts[1] + added)
    if name == "vit_b":
        assert paper_counts == (114_309_004, 25_462_400)  # docs/network.md#parameters
        assert (labels, added) in ((2, 1792), (5, 4096))


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_counts_by_formula(name: str) -> None:
    """Per part as in docs/network.md#parameters: the larger presets follow the paper's construction as well."""
    with torch.device("meta"):
        net = SAM3D(preset_config(name, paper=True))
    freeze_pretrained(net)
    e, depth, c = net.config.embed_dim, net.config.depth, net.config.embed_dim // net.config.num_heads
    rows = (depth - 4) * 27 + 4 * 127
    adapters = depth * (e * e // 2 + e // 2 + 28 * e // 2 + e // 2 * e + e)
    necks = 4 * (e * 256 + 27 * 256 * 256 + 4 * 256)
    trainable = 17 * e + 32 * e + depth * 4 * e + rows * c + adapters + necks + 3_164_160 + 7_088_256
    frozen = 769 * e + 64 * 64 * e + depth * (4 * e * e + 4 * e + 8 * e * e + 5 * e + 1) + 2 * rows * c
    assert parameter_counts(net) == (frozen + trainable, trainable)


@pytest.mark.parametrize("name", ["tiny", "vit_b"])
def test_a_checkpoint_is_exact_and_complete(name: str) -> None:
    net = SAM3D(reduced(name))
    state = {key: value.clone() for key, value in net.state_dict().items()}
    parameters = dict(net.named_parameters())
    assert sum(v.nbytes for key, v in state.items() if key not in parameters) < 2**20
    other = SAM3D(net.config)
    other.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    x = batch(net.config)
    assert torch.equal(other.eval()(x), net.eval()(x))
    key = "prompt_encoder.no_click"
    with pytest.raises(RuntimeError, match=f"Missing.*{key}"):
        other.load_state_dict({k: v for k, v in state.items() if k != key})
    with pytest.raises(RuntimeError, match=r"Unexpected.*foreign"):
        other.load_state_dict({**state, "foreign": torch.zeros(1)})
    wider = SAM3D(reduced(name, num_click_labels=4))
    with pytest.raises(RuntimeError, match="size mismatch"):
        wider.load_state_dict(state)


@pytest.mark.parametrize("name", PRESETS)
def test_buffers_are_small(name: str) -> None:
    """No masks, no bias tables, at full size either; none of them is stored in a checkpoint."""
    with torch.device("meta"):
        net = SAM3D(preset_config(name))
    assert sum(b.nbytes for b in net.buffers()) < 2**20
    assert set(net.state_dict()) == {key for key, _ in net.named_parameters()}
