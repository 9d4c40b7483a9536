"""Roll-outs: the gradients of the plain sum of all rounds, at the memory of one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from nnsam3d.network import SAM3D, PromptTensors, RollOut, SAM3DConfig, freeze_pretrained
from nnsam3d.network.memory import step_memory
from nnsam3d.network.rounds import BatchClick, play

from .conftest import SMALL, same

SIZE = SAM3DConfig(**SMALL).patch_size


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x_BCDHW = torch.randn(2, 2, *SIZE, generator=generator, dtype=torch.float64)
    x_BCDHW[:, 1] = 0
    x_BCDHW[0, 1, 3, 4, 5] = 2  # the other patch has no click
    return x_BCDHW, torch.randint(0, 3, (2, *SIZE), generator=generator)


def surest(logits_BKDHW: Tensor, prompts: PromptTensors) -> BatchClick:
    """A click that depends on the answer: label 1 where its logit is largest, and none for the second item."""
    flat = logits_BKDHW[:, 1].flatten(1).argmax(1)
    place = torch.stack(torch.unravel_index(flat, SIZE), -1).to(prompts.points_BN3.dtype)
    return place, torch.tensor([1, -1])


def rolled(rounds: int, target: Tensor, scale: float = 1.0) -> RollOut:
    return RollOut(rounds, 4, lambda logits: F.cross_entropy(logits, target), surest, scale)  # type: ignore[arg-type]


def gradients(net: SAM3D, loss: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
    net.zero_grad()
    (loss * scale).backward()
    return {name: p.grad / scale for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("mode", "rounds", "frozen"),
    [("none", 3, False), ("cheap", 3, True), ("blocks", 3, False), ("none", 0, True), ("blocks", 0, False)],
)
def test_gradients_are_those_of_the_plain_sum(
    stirred: Callable[..., SAM3D], mode: str, rounds: int, frozen: bool
) -> None:
    x, target = batch()
    net = stirred(checkpointing=mode, fine_click_maps=2, detail_dim=4).train()
    if frozen:
        freeze_pretrained(net)
    task = rolled(rounds, target, scale=1024.0)
    loss = net(x, task)
    found = gradients(net, loss, 1024.0)
    features = net.encode(x[:, :1])
    first = PromptTensors.read(x[:, 1:], net.config.max_clicks)
    plain = torch.stack(list(play(lambda now: net.decode(features, now), first, task))).sum()
    expected = gradients(net, plain)
    same(loss, plain, 1e-12)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        if not name.endswith("k_proj.bias"):  # analytically zero
            same(gradient, expected[name], 1e-9)


def test_every_round_sees_one_more_click_and_nothing_else_changes(stirred: Callable[..., SAM3D]) -> None:
    net = stirred(fine_click_maps=2)
    x, target = batch()
    seen: list[Tensor] = []

    def record(logits: Tensor, prompts: PromptTensors) -> BatchClick:
        seen.append(prompts.labels_BN.clone())
        return surest(logits, prompts)

    task = RollOut(3, 4, lambda logits: F.cross_entropy(logits, target), record)  # type: ignore[arg-type]
    with torch.no_grad():
        loss = net(x, task)
        first = F.cross_entropy(net.double().train()(x), target)
    assert [(labels >= 0).sum(1).tolist() for labels in seen] == [[1, 0], [2, 0], [3, 0]]
    assert {labels.shape for labels in seen} == {(2, net.config.max_clicks + 4)}, "shapes are static"
    assert loss != first
    same(net(x, rolled(0, target)), first, 1e-12)


def test_memory_does_not_grow_with_the_rounds() -> None:
    config = SAM3DConfig(**{**SMALL, "patch_size": (32, 32, 32), "window": 4, "fine_click_maps": 2})

    def peak(rounds: int) -> int:
        loss = lambda logits, target: F.cross_entropy(logits, target[:, 0].long())  # noqa: E731
        return step_memory(config, batch=1, loss=loss, frozen=False, half=False, rounds=rounds).peak

    none, one, four = peak(0), peak(1), peak(4)
    assert four == pytest.approx(one, rel=0.01)
    assert one < 1.15 * none


def test_gradients_are_handed_out_once(stirred: Callable[..., SAM3D]) -> None:
    x, target = batch()
    loss = stirred()(x, rolled(1, target))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can be used once"):
        loss.backward()


def test_halves_compile_once_whatever_the_rounds(stirred: Callable[..., SAM3D]) -> None:
    x, target = batch()
    net = stirred(fine_click_maps=1).train()
    expected = gradients(net, net(x, rolled(3, target)))
    counter = CompileCounterWithBackend("eager")
    net.compile_halves(backend=counter)
    gradients(net, net(x, rolled(1, target)))
    compiled = counter.frame_count
    assert compiled >= 2
    for rounds in (2, 0, 3):
        found = gradients(net, net(x, rolled(rounds, target)))
    assert counter.frame_count == compiled, "the number of slots is static"
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        if not name.endswith("k_proj.bias"):
            same(gradient, expected[name], 1e-8)


def test_a_copy_of_a_compiled_network_computes_with_its_own_weights(stirred: Callable[..., SAM3D]) -> None:
    x, _ = batch()
    net = stirred()
    net.compile_halves(backend="eager")
    copied = copy.deepcopy(net)
    with torch.no_grad():
        same(copied(x), net(x), 1e-12)
        for parameter in copied.mask_decoder.parameters():
            parameter.mul_(1.5)
        assert (copied(x) - net(x)).abs().max() > 1e-3


def test_half_precision_needs_the_scale_inside(stirred: Callable[..., SAM3D]) -> None:
    """A loss this small has gradients that vanish in half precision, unless they are scaled as they are computed."""
    x, target = batch()
    x, net = x.float(), stirred(fine_click_maps=2).float().train()

    def tiny(scale: float) -> RollOut:
        loss = lambda logits: 1e-7 * F.cross_entropy(logits.float(), target)  # noqa: E731
        return RollOut(2, 4, loss, surest, scale)  # type: ignore[arg-type]

    expected = gradients(net, net(x, tiny(1.0)))
    found = {}
    for scale in (1.0, 2.0**20):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = net(x, tiny(scale))
        found[scale] = gradients(net, loss, scale)
    name = "mask_decoder.mlahead.head5.0.weight"
    assert F.cosine_similarity(found[2.0**20][name].flatten(), expected[name].flatten(), dim=0) > 0.97
    assert F.cosine_similarity(found[1.0][name].flatten(), expected[name].flatten(), dim=0) < 0.9
