"""AdamW over the trainable parameters, a learning rate that depends only on the epoch, gradient clipping per part.

The parameters through which clicks act are initialised to zero and added to features of unit scale. They form a
separate group with a larger learning rate; the schedule preserves the factor. The paper's settings are described in
docs/network.md#training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nnsam3d.training.options import TrainingOptions

LONGEST_WARMUP = 0.1  # maximum share of the training
FINAL_SHARE = 0.01  # share of the learning rate that remains at the end, as in the paper
FACTOR = "learning_rate_factor"  # key of a parameter group


def build_optimizer(network: nn.Module, options: TrainingOptions) -> torch.optim.AdamW:
    """AdamW (betas 0.9, 0.999; eps 1e-8) over the trainable parameters only."""
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    factor = options.prompt_learning_rate_factor
    first: Any = network.starts_at_zero
    prompts = [name for name in trainable if factor != 1 and name.removeprefix("_orig_mod.").startswith(first)]
    others = [parameter for name, parameter in trainable.items() if name not in prompts]
    groups: list[dict[str, Any]] = [{"params": others}]
    if prompts:
        faster = {"lr": factor * options.learning_rate, FACTOR: factor}
        groups.append({"params": [trainable[name] for name in prompts], **faster})
    return torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay)


class WarmupLinear:
    """Linear warm-up, then the paper's linear decay to 1 % of the learning rate.

    Without a time budget, it is a pure function of the (fractional) epoch, so that a resumed training has the same
    learning rate as an uninterrupted one. nnU-Net calls ``step(epoch)`` once per epoch; the trainer calls it with the
    fractional epoch before every iteration.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        options: TrainingOptions,
        share_done: Callable[[float], float] | None = None,
    ) -> None:
        """
        Args:
            share_done: maps the epoch to the completed share of the training; None: the share of the epochs.
        """
        self.optimizer = optimizer
        self.learning_rate = options.learning_rate
        self.num_epochs = options.num_epochs
        self.warmup = min(options.warmup_epochs, LONGEST_WARMUP * options.num_epochs)
        self.timed = options.max_minutes > 0
        self.share_done = share_done or (lambda epoch: min(epoch, self.num_epochs) / self.num_epochs)

    def learning_rate_at(self, epoch: float) -> float:
        """Learning rate at a fractional epoch, 0 <= epoch <= num_epochs."""
        share = self.share_done(epoch)
        decay = 1 - (1 - FINAL_SHARE) * share
        ramp = min(1.0, max(epoch, 1e-3) / self.warmup) if self.warmup > 0 else 1.0
        if self.timed:  # the number of epochs in a tenth of the time is unknown
            ramp = max(ramp, min(1.0, share / LONGEST_WARMUP))
        return self.learning_rate * decay * ramp

    def step(self, epoch: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate_at(epoch) * group.get(FACTOR, 1.0)


def clip_gradients(network: nn.Module, max_norm: float) -> None:
    """Clip the L2 norm of each sub-network's gradient separately, as the paper's code does."""
    for part in network.children():
        nn.utils.clip_grad_norm_(part.parameters(), max_norm)
