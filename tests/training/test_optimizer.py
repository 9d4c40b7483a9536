"""Schedule and optimiser: a pure function of the epoch, trainable parameters only, three separate norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnsam3d.training.optimizer import WarmupLinear, build_optimizer, clip_gradients
from nnsam3d.training.options import TrainingOptions

SUB_NETWORKS = ("image_encoder", "prompt_encoder", "mask_decoder")


class _Net(nn.Module):
    starts_at_zero = ()

    def __init__(self) -> None:
        super().__init__()
        for name in SUB_NETWORKS:
            setattr(self, name, nn.Linear(3, 3))
        self.image_encoder.weight.requires_grad_(False)


def test_frozen_parameters_are_not_in_the_optimiser() -> None:
    net = _Net()
    held = {id(p) for group in build_optimizer(net, TrainingOptions()).param_groups for p in group["params"]}
    assert held == {id(p) for p in net.parameters() if p.requires_grad}


def test_schedule_follows_the_paper_after_warm_up() -> None:
    options = TrainingOptions(num_epochs=500, learning_rate=4e-4, warmup_epochs=2)
    schedule = WarmupLinear(build_optimizer(_Net(), options), options)
    for epoch in (2, 100, 250, 500):  # docs/network.md#training: factor 1 - 0.99 e / 500
        assert schedule.learning_rate_at(epoch) == pytest.approx(4e-4 * (1 - 0.99 * epoch / 500))
    assert schedule.learning_rate_at(0) < schedule.learning_rate_at(1) < schedule.learning_rate_at(2)


def test_schedule_does_not_depend_on_how_it_got_there() -> None:
    options = TrainingOptions(num_epochs=10)
    first, second = (build_optimizer(_Net(), options) for _ in range(2))
    walked, jumped = WarmupLinear(first, options), WarmupLinear(second, options)
    for step in range(71):
        walked.step(step / 10)
    jumped.step(7.0)
    assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]


def test_short_trainings_warm_up_for_a_tenth() -> None:
    options = TrainingOptions(num_epochs=10, warmup_epochs=5)
    assert WarmupLinear(build_optimizer(_Net(), options), options).warmup == 1


def test_each_sub_network_is_clipped_on_its_own() -> None:
    net = _Net()
    for scale, name in zip((100.0, 0.001, 10.0), SUB_NETWORKS, strict=True):
        for parameter in net.get_submodule(name).parameters():
            parameter.grad = torch.full_like(parameter, scale)
    clip_gradients(net, 1.0)
    norms = [
        torch.cat([p.grad.flatten() for p in net.get_submodule(name).parameters()]).norm().item()  # type: ignore[union-attr]
        for name in SUB_NETWORKS
    ]
    assert norms[0] == pytest.approx(1.0, abs=1e-4)
    assert norms[1] == pytest.approx(0.001 * 12**0.5, abs=1e-6), "a small gradient is left alone"
    assert norms[2] == pytest.approx(1.0, abs=1e-4)
