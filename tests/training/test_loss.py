"""nnU-Net's loss, which the trainer keeps, is the paper's loss up to a factor and a constant.

Paper (docs/network.md#training): 0.5 * (1 - Dice) + 0.5 * cross-entropy. nnU-Net: -Dice + cross-entropy.
So paper = (nnU-Net + 1) / 2, with the same gradient direction. Compared with values of the official loss.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

ORACLE = Path(__file__).resolve().parents[1] / "data" / "oracle"
SHAPE = (9, 10, 11)


@pytest.mark.parametrize(("case", "threshold"), [("mixed", 1.0), ("empty", 99.0), ("full", -99.0)])
def test_nnunets_loss_is_the_papers(case: str, threshold: float) -> None:
    with np.load(ORACLE / "loss.npz") as file:
        reference = {key.removeprefix(f"{case}__"): file[key] for key in file.files if key.startswith(case)}
    seed = int(reference["logit_seed"])
    logits = np.random.RandomState(seed).standard_normal((1, 2, *SHAPE)).astype(np.float32)
    target = np.random.RandomState(seed + 50).standard_normal((1, 1, *SHAPE)) > threshold
    assert target.sum() == reference["seg_sum"]

    # as nnUNetTrainer._build_loss makes it, for batch_dice = False
    stock = DC_and_CE_loss(
        {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
    )
    logits_BKDHW = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    loss = (stock(logits_BKDHW, torch.from_numpy(target.astype(np.int64))) + 1) / 2
    loss.backward()
    assert logits_BKDHW.grad is not None
    assert float(loss.detach()) == pytest.approx(float(reference["train_loss"]), abs=1e-6)
    grad = reference["grad"]
    np.testing.assert_allclose(logits_BKDHW.grad.numpy(), grad, atol=1e-6 * float(np.abs(grad).max()))
