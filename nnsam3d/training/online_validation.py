"""The effect of clicks during training: Dice after 0, 1, 3 and 5 clicks on validation patches, and obedience.

The results are stored beside nnU-Net's `progress.png`: `progress_clicks.csv`, with one row per epoch, and
`progress_clicks.png`.
Axis letters: B batch, K logit maps, D H W voxels, S answers (read-outs), C foreground classes or regions.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnsam3d.files import write_text
from nnsam3d.network.prompts import PromptTensors
from nnsam3d.nnunet.contract import get_tp_fp_fn_tn
from nnsam3d.training.clicks import ClickSimulation
from nnsam3d.training.rollout import next_clicks, predicted_labels, truth_labels

FURTHER = (0, 2, 4)  # numbers of error clicks after the first clicks for which Dice is computed
TABLE, FIGURE = "progress_clicks.csv", "progress_clicks.png"
AnswerPrompts = Callable[[PromptTensors], Tensor]


def click_through(
    answer: AnswerPrompts, first: PromptTensors, target_BRDHW: Tensor, label_manager: Any, simulation: ClickSimulation
) -> tuple[list[Tensor], Tensor]:
    """The network's answers without a click, to the first clicks, and to corrections after them.

    Args:
        answer: maps prompts to logits (B, K, D, H, W).
        first: clicks simulated on the ground truth; for items without any, the first click is a correction, too.

    Returns:
        Logits without a click and with ``FURTHER`` corrections after the first clicks; and (2,) the number of clicks
        that the last answer obeys, and the number of all clicks.
    """
    truth_BDHW = truth_labels(target_BRDHW, label_manager)
    has_first_B = (first.labels_BN >= 0).any(1)
    prompts = first.with_room(FURTHER[-1] + 1)
    logits = answer(prompts.empty())
    found = [logits]
    for number in range(FURTHER[-1] + 1):
        position_B3, label_B = next_clicks(truth_BDHW, predicted_labels(logits, label_manager), prompts, simulation)
        if number == 0:
            label_B = torch.where(has_first_B, -1, label_B)
        prompts = prompts.with_click(first.slots + number, position_B3, label_B)
        logits = answer(prompts)
        if number in FURTHER:
            found.append(logits)
    return found, count_obeyed(predicted_labels(logits, label_manager), truth_BDHW, prompts)


def count_obeyed(predicted_BDHW: Tensor, truth_BDHW: Tensor, prompts: PromptTensors) -> Tensor:
    """(2,): the number of clicks at whose voxel the answer agrees with the ground truth, and of all clicks."""
    voxels_BN3, real_BN = prompts.points_BN3.round().long(), prompts.labels_BN >= 0
    d, h, w = voxels_BN3.clamp(min=0).unbind(-1)
    batch_B1 = torch.arange(len(real_BN), device=real_BN.device)[:, None]
    right_BN = predicted_BDHW[batch_B1, d, h, w] == truth_BDHW[batch_B1, d, h, w]
    return torch.stack([(right_BN & real_BN).sum(), real_BN.sum()])


def hard_counts(logits_BKDHW: Tensor, target_BRDHW: Tensor, label_manager: Any) -> tuple[NDArray, NDArray, NDArray]:
    """True positives, false positives and false negatives per foreground class or region, (C,) each, as in nnU-Net."""
    mask = None
    if label_manager.has_regions:
        predicted = (logits_BKDHW > 0).long()
        if label_manager.has_ignore_label:
            mask, target_BRDHW = target_BRDHW[:, -1:] <= 0, target_BRDHW[:, :-1]
    else:
        predicted = torch.zeros_like(logits_BKDHW, dtype=torch.float16)
        predicted.scatter_(1, logits_BKDHW.argmax(1)[:, None], 1)
        if label_manager.has_ignore_label:
            mask = target_BRDHW != label_manager.ignore_label
            target_BRDHW = torch.where(mask, target_BRDHW, 0)
    axes = [0, 2, 3, 4]
    mask = None if mask is None else mask.float()
    counts = get_tp_fp_fn_tn(predicted, target_BRDHW, axes=axes, mask=mask)[:3]
    first = 0 if label_manager.has_regions else 1  # background is not scored
    tp, fp, fn = (count.detach().cpu().numpy()[first:] for count in counts)
    return tp, fp, fn


def dice_of_counts(counts_3C: NDArray) -> float:
    """Mean over classes of the Dice of the summed counts (true positives, false positives, false negatives)."""
    tp, fp, fn = counts_3C
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(2 * tp / (2 * tp + fp + fn)))


def header(options_clicks: int) -> list[str]:
    """Columns of the table."""
    first = max(1, options_clicks)
    return ["epoch", "dice_0", *(f"dice_{first + more}" for more in FURTHER), "obedience"]


def append_row(folder: Path, names: Sequence[str], row: Sequence[float]) -> None:
    """Append the row of an epoch; an epoch repeated after an interruption replaces its earlier row."""
    path = folder / TABLE
    lines = [",".join(names)]
    before = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if before[:1] == lines:  # with another number of clicks, a new table is started
        lines += [line for line in before[1:] if int(line.partition(",")[0]) < row[0]]
    lines.append(",".join([str(int(row[0])), *(f"{value:.4f}" for value in row[1:])]))
    write_text(path, "\n".join(lines) + "\n")


def draw(folder: Path) -> None:
    """Plot the table."""
    import matplotlib.pyplot as plt

    with (folder / TABLE).open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    values = np.array(rows, dtype=float).reshape(-1, len(names))
    with plt.style.context("default"):  # nnU-Net's own figure changes the font size globally
        figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
        for column, name in enumerate(names[1:], start=1):
            label = "obedience" if name == "obedience" else f"Dice, {name.removeprefix('dice_')} click(s)"
            axes.plot(values[:, 0], values[:, column], "--" if name == "obedience" else "-", label=label)
        axes.set(xlabel="epoch", ylim=(0, 1), title="validation patches")
        figure.legend(loc="outside right upper")
        figure.savefig(folder / FIGURE, dpi=100)
        plt.close(figure)
