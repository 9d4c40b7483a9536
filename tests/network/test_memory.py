"""The peak that shapes predict: the counting itself, and what every knob does to it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nnsam3d.network import SAM3D, RollOut, SAM3DConfig
from nnsam3d.network.config import CHECKPOINTING
from nnsam3d.network.memory import LiveStorages, StepMemory, step_memory

from .conftest import SMALL


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target[:, 0].long())


def small(**changed: Any) -> SAM3DConfig:
    return SAM3DConfig(**{**SMALL, **changed})


@functools.cache
def memory(config: SAM3DConfig, batch: int = 1, frozen: bool = False, half: bool = False) -> StepMemory:
    return step_memory(config, batch=batch, loss=cross_entropy, frozen=frozen, half=half)


def test_storages_count_once_and_as_long_as_they_live() -> None:
    with LiveStorages() as live:
        a = torch.zeros(1000)
        b = a.view(10, 100)[2:] + 0  # 800 numbers of its own
        assert live.now == 4 * 1800
        c = torch.cat([a, b.flatten()])
        del a, b
        assert live.now == 4 * 1800
        assert live.peak == 4 * 3600
        c.mul_(2)
        assert live.now == 4 * 1800
    assert c.sum() == 0


def test_values_or_not_the_peak_is_the_same() -> None:
    config = small()
    net = SAM3D(config).train()
    with LiveStorages() as live:
        for tensor in [*net.parameters(), *net.buffers()]:
            live.watch(tensor)
        data = torch.zeros(1, config.num_image_channels + 1, *config.patch_size)
        target = torch.zeros(1, 1, *config.patch_size, dtype=torch.int16)
        last = lambda logits, prompts: (prompts.points_BN3[:, 0], prompts.labels_BN[:, 0])  # noqa: E731
        net(data, RollOut(1, 6, lambda logits: cross_entropy(logits, target), last)).backward()  # type: ignore[arg-type]
        peak = live.peak
    assert peak == pytest.approx(memory(config).step, rel=0.01)


def test_parameters_gradients_and_moments() -> None:
    net = SAM3D(small())
    found = memory(small())
    assert found.parameters == sum(p.nbytes for p in net.parameters())
    assert found.peak == found.step + 2 * found.trainable
    frozen = memory(small(), frozen=True)
    assert frozen.trainable < found.trainable
    assert frozen.peak < found.peak


def test_every_knob_turns_the_right_way() -> None:
    base, cheap, blocks = (small(checkpointing=mode) for mode in CHECKPOINTING)
    assert memory(base).peak > memory(cheap).peak > memory(blocks).peak
    assert memory(base, batch=3).peak > 1.9 * memory(base).peak
    assert memory(base, half=True).peak < memory(base).peak
    assert memory(small(num_image_channels=4, num_classes=8)).peak > memory(base).peak
