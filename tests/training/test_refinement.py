"""Clicks on what the network gets wrong, added between two passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnsam3d.network import PRESETS
from nnsam3d.prompts import next_click
from nnsam3d.training.options import ENVIRONMENT_VARIABLE
from nnsam3d.training.refinement import refines, with_corrections

from .test_trainer import NANO, make

SHAPE = (8, 10, 12)
SPACING = (3.0, 1.0, 1.0)
PLAIN = LabelManager({"background": 0, "organ": 1, "tumour": 2, "ignore": 3}, None)
REGIONS = LabelManager({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])


def label_maps(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    maps = np.zeros((2, *SHAPE), np.int64)
    for batch, value in ((0, 1), (0, 2), (1, 1), (1, 3)):
        low = rng.integers(0, np.array(SHAPE) - 4)
        maps[batch][tuple(slice(a, a + 4) for a in low)] = value
    return maps


def as_target(truth: np.ndarray, manager: LabelManager) -> torch.Tensor:
    """As nnU-Net's transforms hand it to the loss."""
    if not manager.has_regions:
        return torch.from_numpy(truth[:, None]).float()
    regions = [np.isin(truth, region) for region in ([1, 2], [2], [3])]
    return torch.from_numpy(np.stack(regions, 1)).float()


def as_logits(prediction: np.ndarray, manager: LabelManager) -> torch.Tensor:
    maps = [prediction == k for k in range(3)]
    if manager.has_regions:
        maps = [np.isin(prediction, [1, 2]), prediction == 2]
    return torch.from_numpy(np.stack(maps, 1)).float() * 8 - 4


@pytest.mark.parametrize("manager", [PLAIN, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("seed", range(4))
def test_the_click_is_that_of_next_click(manager: LabelManager, seed: int) -> None:
    truth, prediction = label_maps(seed), label_maps(seed + 100) % 3
    data = torch.zeros(2, 3, *SHAPE)
    data[0, -1, 0, 0, 0] = 2
    corrected = with_corrections(
        data, as_logits(prediction, manager), as_target(truth, manager), manager, [1, 2], SPACING, 8
    )
    assert torch.equal(corrected[:, :-1], data[:, :-1])
    for patch in range(2):
        earlier = [(0, 0, 0)] if patch == 0 else []
        click = next_click(
            truth[patch], prediction[patch], SPACING, labels=[1, 2], ignore_label=3, clicked=earlier
        )
        assert click is not None
        changed = torch.nonzero(corrected[patch, -1] != data[patch, -1]).tolist()
        assert changed == [list(click[0])]
        assert corrected[(patch, -1, *click[0])] == 1 + click[1]


def test_right_and_full_patches_stay_as_they_are() -> None:
    truth = label_maps(0)
    data = torch.zeros(2, 2, *SHAPE)
    target = as_target(truth, PLAIN)
    assert torch.equal(with_corrections(data, as_logits(truth, PLAIN), target, PLAIN, [1, 2], SPACING, 8), data)
    data[:, -1, 0, 0, :3] = 1
    nothing = as_logits(truth * 0, PLAIN)
    assert torch.equal(with_corrections(data, nothing, target, PLAIN, [1, 2], SPACING, 3), data)
    assert not torch.equal(with_corrections(data, nothing, target, PLAIN, [1, 2], SPACING, 4), data)


def test_the_share_is_kept_and_agreed_on() -> None:
    drawn = [refines(0.3, epoch, iteration) for epoch in range(40) for iteration in range(50)]
    assert abs(np.mean(drawn) - 0.3) < 0.04
    assert drawn == [refines(0.3, epoch, iteration) for epoch in range(40) for iteration in range(50)]
    assert not any(refines(0.0, 0, i) for i in range(50))
    assert all(refines(1.0, 0, i) for i in range(50))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_training_step_with_and_without(
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    share: float,
) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("nnunetv2.training.nnUNetTrainer.nnUNetTrainer.infer_dataset_class", lambda folder: None)
    monkeypatch.setitem(PRESETS, "nano", NANO)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, f"preset=nano weights=scratch refinement_share={share}")
    trainer = make(plans, dataset_json)
    trainer.initialize()
    seen: list[tuple[torch.Tensor, bool]] = []

    def look(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append((inputs[0].clone(), torch.is_grad_enabled()))

    trainer.bare_network.register_forward_pre_hook(look)
    target = torch.zeros(2, 1, 16, 32, 32)
    target[:, :, 4:12, 8:24, 8:24] = 1
    batch = {"data": torch.randn(2, 2, 16, 32, 32), "target": target}
    batch["data"][:, 1] = 0
    assert np.isfinite(trainer.train_step(batch)["loss"])
    assert [grad for _, grad in seen] == ([False, True] if share else [True])
    clicks = [(data[:, -1] > 0).flatten(1).sum(1).tolist() for data, _ in seen]
    assert clicks == ([[0, 0], [1, 1]] if share else [[0, 0]])
    assert (batch["data"][:, 1] == 0).all(), "the loader's batch is left alone"
