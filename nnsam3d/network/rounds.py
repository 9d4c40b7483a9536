"""Roll-outs: several rounds of clicks on one encoded patch, inside one forward pass, at the memory of one round.

The loss of each round is propagated back to the features and the parameters immediately, and its graph is freed; the
outer backward pass then goes through the encoder once, with the sum. Thus the peak memory does not grow with the number
of rounds, the gradients are those of the plain sum of losses (up to the order of summation), and for
DistributedDataParallel there is one forward and one backward pass, in which each gradient is synchronised once.

Shape suffixes: B batch, N click slots, K logit maps, D H W voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from .prompts import PromptTensors

Logits: TypeAlias = Tensor | list[Tensor]  # a list with deep supervision, the finest first
# of every item: positions (B, 3) in (D, H, W) voxels, labels (B,), -1 = none
BatchClick: TypeAlias = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class RollOut:
    """The forward pass of a training step.

    Attributes:
        rounds: corrections after the first answer; the network answers ``rounds + 1`` times.
        slots: click slots reserved for corrections, at least ``rounds``; static for torch.compile.
        loss: logits of an answer -> scalar.
        correct: logits (B, K, D, H, W) and the prompts so far -> one more click for every item, label -1 where there is
            nothing to correct. Called without gradients.
        start: number of an answer, its logits and the prompts -> the prompts from which to go on; some items may go on
            from their answer as a mask. None: all items keep their prompts.
        first_weight: share of the first answer in the loss; 0: as every other answer.
        scale: factor for losses before their gradients are computed, equal to that of the outer gradient; avoids
            underflow in half precision.
    """

    rounds: int
    slots: int
    loss: Callable[[Logits], Tensor]
    correct: Callable[[Tensor, PromptTensors], BatchClick]
    scale: Tensor | float = 1.0
    start: Callable[[int, Tensor, PromptTensors], PromptTensors] | None = None
    first_weight: float = 0.0

    def weight(self, number: int) -> float:
        """Of an answer in the loss; the weights of all answers add up to 1."""
        if self.first_weight == 0 or self.rounds == 0:
            return 1 / (self.rounds + 1)
        return self.first_weight if number == 0 else (1 - self.first_weight) / self.rounds


def play(answer: Callable[[PromptTensors], Logits], first: PromptTensors, roll_out: RollOut) -> Iterator[Tensor]:
    """The contribution of each round to the loss, which is a mean over all rounds.

    Args:
        answer: prompts -> logits (B, K, D, H, W), or a list of them with deep supervision.
        first: prompts of the first answer; slots for corrections are added.
        roll_out: number of rounds, loss and corrections.
    """
    prompts = first.with_room(max(roll_out.rounds, roll_out.slots))
    for number in range(roll_out.rounds + 1):
        logits = answer(prompts)
        yield roll_out.loss(logits) * roll_out.weight(number)
        if number < roll_out.rounds:
            finest = (logits[0] if isinstance(logits, list) else logits).detach()
            with torch.no_grad():
                if roll_out.start is not None:
                    prompts = roll_out.start(number, finest, prompts)
                prompts = prompts.with_click(first.slots + number, *roll_out.correct(finest, prompts))
            del finest
        del logits  # frees memory before the next round


def summed(
    losses_of: Callable[[Sequence[Tensor]], Iterable[Tensor]],
    features: Sequence[Tensor],
    parameters: Iterable[nn.Parameter],
    scale: Tensor | float = 1.0,
) -> Tensor:
    """The sum of the losses that ``losses_of(features)`` yields, as a function of features and parameters.

    Args:
        losses_of: features, in the order given -> one scalar loss per round.
        features: shared by the rounds; gradients continue from here.
        parameters: all parameters used by the rounds.
        scale: see :class:`RollOut`.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not torch.is_grad_enabled():
        return torch.stack([loss.detach() for loss in losses_of(features)]).sum()
    total: Tensor = _Summed.apply(losses_of, scale, len(features), *features, *trained)
    return total


class _Summed(torch.autograd.Function):
    """Gradients are computed in the forward pass, round by round, and returned in the backward pass."""

    @staticmethod
    def forward(ctx: Any, losses_of: Any, scale: Tensor | float, split: int, *tensors: Tensor) -> Tensor:
        leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors[:split]]
        inputs = [*leaves, *tensors[split:]]
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        sums: list[Tensor | None] = [None] * len(wanted)
        total = None
        losses = iter(losses_of(leaves))
        while True:
            with torch.enable_grad():
                loss = next(losses, None)
                if loss is None:
                    break
                gradients = torch.autograd.grad(loss * scale, wanted, allow_unused=True)
            total = loss.detach() if total is None else total + loss.detach()
            del loss
            for place, gradient in enumerate(gradients):
                sums[place] = _add(sums[place], gradient)
            del gradients
        found = iter(sums)
        ctx.sums = [next(found) if tensor.requires_grad else None for tensor in inputs]
        ctx.scale = scale
        assert total is not None
        return total

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if ctx.sums is None:
            raise RuntimeError("the gradients of a roll-out can be used once: run the forward pass again")
        factor = outer / ctx.scale
        sums, ctx.sums = ctx.sums, None
        return None, None, None, *(None if one is None else one.mul_(factor.to(one.dtype)) for one in sums)


def _add(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    if more is None:
        return total
    # a gradient may be a view or expanded: the sum must be a separate tensor
    return more.clone(memory_format=torch.contiguous_format) if total is None else total.add_(more)
