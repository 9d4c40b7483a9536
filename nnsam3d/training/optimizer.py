"""AdamW over what is trainable, a learning rate that depends on nothing but the epoch, clipping per sub-network.

What lets clicks be heard starts at zero and is added to features of unit scale: it gets a group of its own with a
larger learning rate, which the schedule keeps in proportion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nnsam3d.training.options import TrainingOptions

LONGEST_WARMUP = 0.1  # of the training
FINAL_SHARE = 0.01  # of the learning rate, at the end of training (SPEC §8)
FACTOR = "learning_rate_factor"  # key of a parameter group


def build_optimizer(network: nn.Module, options: TrainingOptions) -> torch.optim.AdamW:
    """AdamW (betas 0.9, 0.999; eps 1e-8) over the trainable parameters only (SPEC §8)."""
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    factor = options.prompt_learning_rate_factor
    prompts = [name for name in trainable if factor != 1 and _starts_at_zero(name, network)]
    others = [parameter for name, parameter in trainable.items() if name not in prompts]
    groups: list[dict[str, Any]] = [{"params": others}]
    if prompts:
        faster = {"lr": factor * options.learning_rate, FACTOR: factor}
        groups.append({"params": [trainable[name] for name in prompts], **faster})
    return torch.optim.AdamW(groups, lr=options.learning_rate, weight_decay=options.weight_decay)


def _starts_at_zero(name: str, network: nn.Module) -> bool:
    return name.removeprefix("_orig_mod.").startswith(network.starts_at_zero)  # type: ignore[arg-type]


class WarmupLinear:
    """Linear warm-up, then the paper's linear decay to 1 % of the learning rate.

    Without a time budget a pure function of the (fractional) epoch, so a resumed training has the uninterrupted
    run's learning rate. nnU-Net calls ``step(epoch)`` once per epoch; the trainer calls it with the fraction before
    every iteration.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        options: TrainingOptions,
        share_done: Callable[[float], float] | None = None,
    ) -> None:
        """
        Args:
            share_done: epoch -> share of the training that lies behind; None: of the epochs.
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
        if self.timed:  # nobody knows how many epochs a tenth of the time is
            ramp = max(ramp, min(1.0, share / LONGEST_WARMUP))
        return self.learning_rate * decay * ramp

    def step(self, epoch: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate_at(epoch) * group.get(FACTOR, 1.0)


def clip_gradients(network: nn.Module, max_norm: float) -> None:
    """Clip the L2 norm of each sub-network's gradient separately, as the paper's code does (SPEC §12 #38)."""
    for part in network.children():
        nn.utils.clip_grad_norm_(part.parameters(), max_norm)
