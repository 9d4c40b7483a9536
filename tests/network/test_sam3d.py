from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from nnsam3d.network import (
    SAM3D,
    freeze_pretrained,
    parameter_counts,
    preset_config,
    read_prompt_channel,
)

from . import oracle
from .conftest import same

# ---- the official numbers ----


@pytest.mark.parametrize(
    ("name", "dtype", "absolute"),
    [("tiny32", torch.float64, 2.5e-6), ("tiny64", torch.float64, 2.5e-6), ("tiny32", torch.float32, 1e-5)],
)
def test_official_logits_and_gradients(name: str, dtype: torch.dtype, absolute: float) -> None:
    data = oracle.load(name)
    net = oracle.official_net(name, data, dtype)
    net.requires_grad_(True)
    net.image_encoder.patch_embed.requires_grad_(False)  # officially run without gradient
    clicks = oracle.clicks_dhw(data["points_DWH"], dtype)
    labels = torch.zeros(clicks.shape[:2], dtype=torch.long)
    logits = net.segment(oracle.image(data["image_seed"], data["crop_DHW"], dtype), clicks, labels)
    ours, reference = logits.detach(), data.get("logits")
    if reference is None:
        ours, reference = ours.reshape(-1)[torch.from_numpy(data["logit_idx"])], data["logits_at_idx"]
    assert np.abs(ours.double().numpy() - reference).max() <= absolute
    if dtype == torch.float64:
        oracle.check(ours, reference, 1e-6)
        oracle.check_stats(logits, data["logits_stats"])
    loss = logits.square().sum()
    loss.backward()
    tolerance = 1e-6 if dtype == torch.float64 else 2e-4
    assert abs(loss.item() - float(data["grad_loss"])) <= tolerance * float(data["grad_loss"])
    grads = {f"{name}.{key}": p.grad for key, p in net.named_parameters()}
    without = json.loads(str(data["grad_none_keys"]))
    assert sorted(key for key, grad in grads.items() if grad is None) == sorted(without)
    keys = json.loads(str(data["grad_keys"]))
    for key, norm, head in zip(keys, data["grad_norm"], data["grad_head6"], strict=True):
        grad = grads[key]
        assert grad is not None, key
        if norm < 1e-9:  # analytically zero
            assert dtype == torch.float32 or grad.abs().max() < 1e-6, key
            continue
        largest = float(grad.abs().max())
        assert abs(float(grad.double().norm()) - norm) <= tolerance * norm, key
        first = grad.flatten()[:6].double().numpy()
        assert np.abs(first - head[: len(first)]).max() <= tolerance * largest, key


def test_official_parameter_list() -> None:
    """Names, shapes and who trains, for ViT-B in paper mode; the counts are those of the paper."""
    listed = json.loads((oracle.ORACLE / "vitb_params.json").read_text())
    with torch.device("meta"):
        net = SAM3D(preset_config("vit_b", paper=True))
    freeze_pretrained(net)
    ours = {name: (list(p.shape), p.requires_grad) for name, p in net.named_parameters()}
    theirs = {
        f"{part}.{row[0]}": (row[1], row[2])
        for part in ("image_encoder", "prompt_encoder", "mask_decoder")
        for row in listed[part]
    }
    assert ours == theirs
    assert parameter_counts(net) == (114_309_004, 25_462_400)
    assert set(net.state_dict()) == set(theirs)  # no buffer is stored


def test_from_scratch_everything_but_lr_trains(small: Callable[..., SAM3D]) -> None:
    frozen = {name for name, p in small().named_parameters() if not p.requires_grad}
    assert frozen == {f"image_encoder.blocks.{i}.attn.lr" for i in range(4)}
    net = small(num_image_channels=2)
    freeze_pretrained(net)
    assert net.image_encoder.channel_map.requires_grad
    assert net.prompt_encoder.label_embed.weight.requires_grad


# ---- properties ----

SIZES = [(16, 24, 32), (13, 22, 33)]  # multiples of the stride, and not


def volume(batch: int, size: tuple[int, int, int], channels: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator)


def channel(batch: int, size: tuple[int, int, int], clicks: list[tuple[int, ...]]) -> torch.Tensor:
    prompt = torch.zeros(batch, 1, *size, dtype=torch.float64)
    for item, d, h, w, label in clicks:
        prompt[item, 0, d, h, w] = 1 + label
    return prompt


CLICKS = [(0, 3, 4, 5, 2), (0, 12, 20, 31, 0), (0, 0, 0, 0, 1), (2, 5, 21, 7, 1)]  # item 1 has none


@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_batch_equals_singles(stirred: Callable[..., SAM3D], size: tuple[int, int, int], paper: bool) -> None:
    net = stirred(paper=paper)
    x = torch.cat([volume(3, size), channel(3, size, CLICKS)], 1)
    logits = net(x)
    assert logits.shape == (3, 3, *size)
    for item in range(3):
        same(net(x[item : item + 1]), logits[item : item + 1], 1e-11)
    net.train()  # static number of slots: the same function
    same(net(x), logits, 1e-11)


def test_anisotropic_strides_and_channels(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(token_stride=(1, 3, 4), patch_size=(6, 24, 24), num_image_channels=3)
    size = (6, 24, 25)
    x = torch.cat([volume(2, size, 3), channel(2, size, [(0, 3, 4, 5, 2), (1, 5, 23, 24, 1)])], 1)
    logits = net(x)
    assert logits.shape == (2, 3, *size)
    assert not torch.allclose(net(x * torch.tensor([1.0, 2, 1, 1]).view(1, 4, 1, 1, 1)), logits)


@pytest.mark.parametrize("size", SIZES)
def test_forward_is_segment(stirred: Callable[..., SAM3D], size: tuple[int, int, int]) -> None:
    net = stirred()
    image = volume(1, size)
    clicks = torch.tensor([[[12.0, 20, 31], [3, 4, 5], [0, 0, 0]]], dtype=torch.float64)
    labels = torch.tensor([[0, 2, 1]])
    expected = net.segment(image, clicks, labels)
    x = torch.cat([image, channel(1, size, CLICKS[:3])], 1)
    same(net(x), expected.clamp(-50, 50), 1e-11)
    features = net.encode(image)
    same(net.decode(features, clicks, labels), expected, 1e-14)
    assert not torch.allclose(net.decode(features, clicks[:, :1], labels[:, :1]), expected)


def test_padding_repeats_the_border(stirred: Callable[..., SAM3D]) -> None:
    net = stirred()
    image = volume(1, (13, 22, 33))
    clicks, labels = torch.tensor([[[3.0, 4, 5]]], dtype=torch.float64), torch.tensor([[1]])
    padded = image[:, :, [*range(13), 12, 12, 12]][:, :, :, [*range(22), 21, 21]][..., [*range(33), 32, 32, 32]]
    expected = net.segment(padded, clicks, labels)[:, :, :13, :22, :33]
    same(net.segment(image, clicks, labels), expected, 1e-13)


def test_new_network_contains_the_paper_exactly(stirred: Callable[..., SAM3D], small: Callable) -> None:
    paper = stirred(paper=True)
    net = small(seed=7)
    left = net.load_state_dict(paper.state_dict(), strict=False)
    assert not left.unexpected_keys
    assert all(key.startswith("prompt_encoder.") for key in left.missing_keys)
    assert len(left.missing_keys) == 3
    x = torch.cat([volume(2, SIZES[0]), channel(2, SIZES[0], [*CLICKS[:3], (1, 1, 2, 3, 2)])], 1)
    same(net(x), paper(x).clamp(-50, 50), 1e-13)


def test_logits_are_limited_only_where_nnunet_sums_them(stirred: Callable[..., SAM3D]) -> None:
    x = torch.cat([volume(1, SIZES[0]), channel(1, SIZES[0], CLICKS[:1])], 1)
    for paper in (False, True):
        net = stirred(paper=paper)
        with torch.no_grad():
            net.mask_decoder.cls[3].weight.mul_(1e4)
        assert (net(x).abs().max() <= 50) == (not paper)
        assert net.train()(x).abs().max() > 50


def test_read_prompt_channel() -> None:
    prompt = channel(3, (16, 24, 33), CLICKS)[:, 0]
    positions, labels = read_prompt_channel(prompt, None)
    assert positions.tolist()[0] == [[0, 0, 0], [3, 4, 5], [12, 20, 31]]  # raster order
    assert labels.tolist() == [[1, 2, 0], [-1, -1, -1], [1, -1, -1]]
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        half_positions, half_labels = read_prompt_channel(prompt.to(dtype), None)
        assert half_positions.dtype == torch.float32
        assert torch.equal(half_labels, labels)
        assert torch.equal(half_positions.double(), positions)
    positions, labels = read_prompt_channel(prompt * 1.001, 2)  # interpolation left traces; static shape
    assert positions.shape == (3, 2, 3)
    assert labels.tolist() == [[1, 2], [-1, -1], [1, -1]]
    positions, labels = read_prompt_channel(torch.zeros(2, 3, 3, 3), None)
    assert positions.shape == (2, 0, 3)
    positions, labels = read_prompt_channel(torch.ones(1, 1, 1, 2), 5)  # more slots than voxels
    assert labels.tolist() == [[0, 0, -1, -1, -1]]


def test_more_clicks_than_slots_are_kept_in_eval(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(max_clicks=2)
    x = torch.cat([volume(1, SIZES[0]), channel(1, SIZES[0], CLICKS[:3])], 1)
    assert not torch.allclose(net(x), net.train()(x))
    clicks, labels = read_prompt_channel(x[:, -1], None)
    same(net.eval()(x), net.segment(x[:, :1], clicks, labels).clamp(-50, 50), 1e-13)


def test_labels_matter_unless_paper(stirred: Callable[..., SAM3D]) -> None:
    a = torch.cat([volume(1, SIZES[0]), channel(1, SIZES[0], [(0, 3, 4, 5, 0)])], 1)
    b = torch.cat([volume(1, SIZES[0]), channel(1, SIZES[0], [(0, 3, 4, 5, 2)])], 1)
    assert not torch.allclose(stirred()(a), stirred()(b))
    assert torch.equal(stirred(paper=True)(a), stirred(paper=True)(b))


def test_every_parameter_learns(small: Callable[..., SAM3D]) -> None:
    net = small().train()
    size = SIZES[0]
    net(torch.cat([volume(2, size), channel(2, size, CLICKS[:3])], 1)).square().sum().backward()
    still = {n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert all(".cross_attn_token_to_image." in name for name in still), still


def test_bfloat16_autocast(small: Callable[..., SAM3D]) -> None:
    net = small().float()
    size = SIZES[0]
    x = torch.cat([volume(2, size), channel(2, size, CLICKS[:2])], 1).float()
    expected = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = net(x)
        net.train()(x).float().square().sum().backward()
    assert (low.float() - expected).norm() < 0.05 * expected.norm()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())


def test_features_of_inference_mode_can_be_decoded(small: Callable[..., SAM3D]) -> None:
    """Predicting in between must leave nothing behind that breaks a later training step."""
    net = small()
    x = torch.cat([volume(1, SIZES[0]), channel(1, SIZES[0], CLICKS[:1])], 1)
    with torch.inference_mode():
        net(x)
    net.train()(x).sum().backward()


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, 16, 24, 32), "5-D.*4-D"), ((1, 3, 16, 24, 32), "2 channels.*got 3"), ((1, 2, 0, 24, 32), "empty")],
)
def test_wrong_volumes(small: Callable[..., SAM3D], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        small()(torch.zeros(shape, dtype=torch.float64))


def test_wrong_clicks(small: Callable[..., SAM3D]) -> None:
    net = small()
    features = net.encode(volume(1, SIZES[0]))
    clicks = torch.zeros(1, 2, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"label 3 .*0\.\.2"):
        net.decode(features, clicks, torch.tensor([[1, 3]]))
    with pytest.raises(ValueError, match="one label per click"):
        net.decode(features, clicks, torch.tensor([[1]]))
    with pytest.raises(ValueError, match=r"\(1, N, 3\)"):
        net.decode(features, clicks.expand(2, 2, 3), torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="floating point"):
        net.decode(features, clicks.long(), torch.tensor([[1, 1]]))
