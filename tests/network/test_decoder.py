"""The seam between the image encoder and what answers prompts."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnsam3d.network import SAM3D, PromptTensors, RollOut, SAM3DConfig
from nnsam3d.network.cost import measure
from nnsam3d.training.optimizer import build_optimizer, clip_gradients
from nnsam3d.training.options import TrainingOptions

from .conftest import SMALL, same


class Kept(NamedTuple):
    deepest: Tensor
    size: tuple[int, int, int]

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.deepest,)

    def with_tensors(self, tensors: Sequence[Tensor]) -> Kept:
        return self._replace(deepest=tensors[0])


class OneConvolution:
    """A decoder that SAM3D knows nothing of: logits from the deepest level, plus the share of positive clicks."""

    starts_at_zero = ("head.bias",)

    def __init__(self, config: SAM3DConfig) -> None:
        self.head = nn.Conv3d(config.neck_dim, config.num_classes, 1)

    def parts(self) -> Mapping[str, nn.Module]:
        return {"head": self.head}

    def prepare(self, image_BCDHW: Tensor, levels: Sequence[Tensor]) -> Kept:
        d, h, w = image_BCDHW.shape[2:]
        return Kept(levels[3], (d, h, w))

    def answer(self, features: Kept, prompts: PromptTensors) -> Tensor:
        logits = self.head(features.deepest).permute(0, 1, 4, 2, 3)
        positive_B = (prompts.labels_BN > 0).to(logits.dtype).mean(1)
        return F.interpolate(logits, size=features.size) + positive_B[:, None, None, None, None]


def test_the_cost_is_that_of_the_networks_own_decoder() -> None:
    config = SAM3DConfig(**SMALL)
    net = SAM3D(config, OneConvolution(config))
    trained, of_papers = measure(net), measure(config)
    tokens = math.prod(config.token_grid)
    assert trained.click_flop == 2 * tokens * config.neck_dim * config.num_classes  # the convolution
    assert trained.forward_flop < of_papers.forward_flop
    loaded = copy.deepcopy(net).requires_grad_(False)
    assert measure(loaded) == trained
    assert measure(SAM3D(config)) == of_papers


def test_another_decoder_trains_predicts_and_is_stored() -> None:
    config = SAM3DConfig(**SMALL)
    net = SAM3D(config, OneConvolution(config)).double()
    x = torch.randn(2, config.num_image_channels + 1, *config.patch_size, dtype=torch.float64)
    x[:, -1] = 0
    x[0, -1, 1, 2, 3] = 2
    target = torch.zeros(2, *config.patch_size, dtype=torch.long)

    def surest(logits: Tensor, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
        return torch.ones_like(prompts.points_BN3[:, 0]), torch.ones_like(prompts.labels_BN[:, 0])

    task = RollOut(2, 3, lambda logits: F.cross_entropy(logits, target), surest)  # type: ignore[arg-type]
    net.train()(x, task).backward()
    assert net.image_encoder.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert net.head.weight.grad.abs().sum() > 0
    optimizer = build_optimizer(net, TrainingOptions(prompt_learning_rate_factor=5))
    assert [len(group["params"]) for group in optimizer.param_groups][1:] == [1], "the bias learns faster"
    clip_gradients(net, 1e-3)
    assert net.head.weight.grad.norm() < 1.1e-3
    names = set(net.state_dict())
    assert {"head.weight", "head.bias"} <= names
    assert not any(name.startswith(("decoder.", "prompt_encoder.", "mask_decoder.")) for name in names)
    again = SAM3D(config, OneConvolution(config)).double()
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        same(again.eval()(x), net.eval()(x), 1e-12)
        assert net(x).shape == (2, config.num_classes, *config.patch_size)


def test_the_papers_parts_keep_their_names() -> None:
    net = SAM3D(SAM3DConfig(**SMALL))
    assert {name.split(".")[0] for name in net.state_dict()} == {"image_encoder", "prompt_encoder", "mask_decoder"}
    assert net.decoder.parts()["mask_decoder"] is net.mask_decoder
