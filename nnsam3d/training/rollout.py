"""Training on the network's own errors: after every answer, a click in the middle of its largest error.

Axis letters: B batch, N click slots, K logit maps, R target channels, D H W voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nnsam3d.network.prompts import PromptTensors
from nnsam3d.network.rounds import BatchClick
from nnsam3d.training.clicks import ClickSimulation
from nnsam3d.training.error_click import error_clicks
from nnsam3d.training.options import TrainingOptions

Start: TypeAlias = Callable[[int, Tensor, PromptTensors], PromptTensors]


def drawn_rounds(options: TrainingOptions, epoch: int, iteration: int) -> int:
    """The number of corrections in an iteration: random, but the same on every GPU and in every repetition."""
    low, high = options.rounds_range
    return int(_stream(options, epoch, iteration).integers(low, high + 1))


def drawn_round(options: TrainingOptions, epoch: int, iteration: int) -> int:
    """One of the answers 0 to :func:`drawn_rounds`, as often as it weighs in the loss of a roll-out
    (:meth:`RollOut.weight`): it estimates the mean over all answers."""
    # a separate stream: otherwise the answer would depend on the number of rounds
    rng, rounds = _stream(options, epoch, iteration, 1), drawn_rounds(options, epoch, iteration)
    if rounds == 0 or options.first_answer_weight == 0:
        return int(rng.integers(rounds + 1))
    return 0 if rng.random() < options.first_answer_weight else 1 + int(rng.integers(rounds))


def _stream(options: TrainingOptions, *numbers: int) -> np.random.Generator:
    seed = [] if options.seed < 0 else [2, options.seed, len(numbers)]  # distinct from all other streams' seeds
    return np.random.default_rng([*numbers, *seed])


def starting(
    options: TrainingOptions, epoch: int, iteration: int, rounds: int, label_manager: Any, simulation: ClickSimulation
) -> Start | None:
    """See :attr:`RollOut.start`: some items forget their prompts and go on from one of their answers as a mask.

    Networks' own answers are what users start from; perturbed truths teach nothing about them. The number of the
    answer is drawn from those before the last one. Items that begin with a mask (``start_from``) keep it.
    """
    if rounds == 0 or options.start_share == 0 or "mask" not in options.kinds:
        return None
    labels = torch.arange(1, simulation.codec.labels)

    def start(number: int, logits_BKDHW: Tensor, prompts: PromptTensors) -> PromptTensors:
        rng, batch = _stream(options, epoch, iteration, 2, 2), len(logits_BKDHW)  # the same draws after every answer
        starts_B, answers_B = rng.random(batch) < options.start_share, rng.integers(rounds, size=batch)
        chosen_B = torch.from_numpy(starts_B & (answers_B == number)).to(logits_BKDHW.device)
        label_map_B1DHW = predicted_labels(logits_BKDHW, label_manager)[:, None]
        if prompts.dense_BMDHW is not None:
            chosen_B &= ~prompts.dense_BMDHW[:, -len(labels) :].flatten(1).any(1)
        inside = label_map_B1DHW == labels.to(logits_BKDHW.device).view(1, -1, 1, 1, 1)
        return prompts.started(chosen_B, torch.where(inside, 1.0, -1.0))

    return start


def next_clicks(
    truth_BDHW: Tensor, predicted_BDHW: Tensor, prompts: PromptTensors, simulation: ClickSimulation
) -> BatchClick:
    """Positions (B, 3) and labels (B,) of one more click per item, on its largest error; label -1 if there is none."""
    return error_clicks(
        truth_BDHW,
        predicted_BDHW,
        prompts.points_BN3,
        prompts.labels_BN,
        simulation.simulator.spacing,
        labels=simulation.simulator.labels,
        ignore_label=simulation.simulator.ignore_label,
    )


def truth_labels(target_BRDHW: Tensor, label_manager: Any) -> Tensor:
    """Label map (B, D, H, W) from nnU-Net's target: one channel of labels, or one per region (and the ignore mask)."""
    if not label_manager.has_regions:
        return target_BRDHW[:, 0].to(torch.int16)
    regions = len(label_manager.regions_class_order)
    truth_BDHW = _of_regions(target_BRDHW[:, :regions] > 0, label_manager.regions_class_order)
    if label_manager.has_ignore_label:
        truth_BDHW = torch.where(target_BRDHW[:, -1] > 0, label_manager.ignore_label, truth_BDHW)
    return truth_BDHW


def predicted_labels(logits_BKDHW: Tensor, label_manager: Any) -> Tensor:
    """Label map (B, D, H, W) as nnU-Net writes it: the largest logit, or the last region that contains the voxel."""
    if label_manager.has_regions:
        return _of_regions(logits_BKDHW > 0, label_manager.regions_class_order)
    # as argmax(1), which is many times slower on a CPU
    best_BDHW, labels_BDHW = logits_BKDHW[:, 0], torch.zeros_like(logits_BKDHW[:, 0], dtype=torch.int16)
    for label, logit_BDHW in enumerate(logits_BKDHW.unbind(1)[1:], 1):
        labels_BDHW = torch.where(logit_BDHW > best_BDHW, label, labels_BDHW)
        best_BDHW = torch.maximum(best_BDHW, logit_BDHW)
    return labels_BDHW


def _of_regions(inside_BRDHW: Tensor, values: Sequence[int]) -> Tensor:
    labels_BDHW = torch.zeros_like(inside_BRDHW[:, 0], dtype=torch.int16)
    for inside_BDHW, value in zip(inside_BRDHW.unbind(1), values, strict=True):
        labels_BDHW = torch.where(inside_BDHW, int(value), labels_BDHW)
    return labels_BDHW
