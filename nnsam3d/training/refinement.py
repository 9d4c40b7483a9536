"""Training on corrections: what the network gets wrong in a first pass is clicked before the pass that counts.

Axis letters: B batch, C image channels and the prompt channel (last), K logit maps, R target channels, D H W voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnsam3d.prompts import next_click


def refines(share: float, epoch: int, iteration: int) -> bool:
    """Whether this iteration is one of ``share``: drawn, but the same on every GPU and in every repetition."""
    return share > 0 and bool(np.random.default_rng([epoch, iteration]).random() < share)


def first_pass(network: nn.Module, data_BCDHW: Tensor) -> Tensor:
    """Logits (B, K, D, H, W) without gradient; nothing is synchronised between GPUs."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    with torch.no_grad():
        return network(data_BCDHW)


def with_corrections(
    data_BCDHW: Tensor,
    logits_BKDHW: Tensor,
    target_BRDHW: Tensor,
    label_manager: Any,
    labels: Sequence[int],
    spacing: Sequence[float],
    max_clicks: int,
) -> Tensor:
    """A copy of the data with one more click in every patch, in the centre of its largest error.

    Patches without an error and those that hold ``max_clicks`` clicks already stay as they are.

    Args:
        target_BRDHW: as nnU-Net's loss gets it: one channel of labels, or one for each region (and the ignore mask).
        label_manager: nnU-Net's, for regions and the ignore label.
        labels: foreground values that may be clicked.
        spacing: mm along D, H, W.
    """
    predictions = label_map(logits_BKDHW > 0 if label_manager.has_regions else logits_BKDHW, label_manager)
    truths = label_map(target_BRDHW, label_manager) if label_manager.has_regions else target_BRDHW[:, 0]
    if label_manager.has_regions and label_manager.has_ignore_label:
        truths = torch.where(target_BRDHW[:, -1] > 0, label_manager.ignore_label, truths)
    corrected = data_BCDHW.clone()
    channels = data_BCDHW[:, -1].detach().cpu().numpy()
    pairs = zip(truths.cpu().numpy(), predictions.cpu().numpy(), channels, strict=True)
    for patch, (truth_DHW, prediction_DHW, channel_DHW) in enumerate(pairs):
        clicked_N3 = np.argwhere(channel_DHW)
        if len(clicked_N3) >= max_clicks:
            continue
        click = next_click(
            truth_DHW,
            prediction_DHW,
            spacing,
            labels=labels,
            ignore_label=label_manager.ignore_label,
            clicked=clicked_N3,
        )
        if click is not None:
            corrected[(patch, -1, *click[0])] = 1 + click[1]
    return corrected


def label_map(maps_BKDHW: Tensor, label_manager: Any) -> Tensor:
    """Labels (B, D, H, W) as nnU-Net writes them: the largest logit, or the last region that holds a voxel."""
    if not label_manager.has_regions:
        return maps_BKDHW.argmax(1).to(torch.int16)
    labels_BDHW = torch.zeros_like(maps_BKDHW[:, 0], dtype=torch.int16)
    for region, value in enumerate(label_manager.regions_class_order):
        labels_BDHW[maps_BKDHW[:, region] > 0] = int(value)
    return labels_BDHW
