"""In which precision every trainer of a comparison trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nnsam3d.training import precision
from nnsam3d.training.baseline import nnUNetBaselineTrainer
from nnsam3d.training.budget import TimedTrainer
from nnsam3d.training.click_unet import nnUNetClickTrainer
from nnsam3d.training.trainer import SAM3DAdapterTrainer

TRAINERS = (SAM3DAdapterTrainer, nnUNetClickTrainer, nnUNetBaselineTrainer)


def make(
    kind: type[TimedTrainer], plans: dict[str, Any], dataset_json: dict[str, Any], architecture: dict[str, Any]
) -> TimedTrainer:
    plans["configurations"]["3d_fullres"]["architecture"] = architecture
    plans = plans | {"continue_training": False, "transpose_forward": [0, 1, 2], "label_manager": "LabelManager"}
    return kind(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))


@pytest.mark.parametrize(
    ("kind", "instructions", "option"),
    [*((kind, True, 1) for kind in TRAINERS), (nnUNetBaselineTrainer, True, 0), (nnUNetBaselineTrainer, False, 1)],
)
def test_a_cpu_trains_in_bfloat16_where_that_is_faster_and_wanted(
    kind: type[TimedTrainer],
    instructions: bool,
    option: int,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    unet_architecture: dict[str, Any],
    own_folders: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("nnsam3d_options", f"preset=tiny weights=scratch rounds=1 cpu_bfloat16={option}")
    monkeypatch.setattr(precision, "fast_bfloat16", lambda: instructions)
    trainer = make(kind, plans, dataset_json, unet_architecture)
    trainer.enable_deep_supervision = False  # nnU-Net's weights of a single output are not numbers
    trainer.initialize()
    trainer.on_train_epoch_start()
    seen = []
    trainer.network.register_forward_pre_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
    )
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    target = torch.zeros(2, 1, 16, 32, 32)
    target[:, :, 4:9, 8:20, 8:20] = 2
    prompts = 0 if kind is nnUNetBaselineTrainer else trainer._click_simulation().codec.num_channels
    data = torch.randn(2, 1 + prompts, 16, 32, 32)
    data[:, 1:] = 0
    loss = float(trainer.train_step({"data": data, "target": target})["loss"])

    assert seen
    assert all(was is bool(instructions and option) for was in seen)
    assert loss == loss
    assert not torch.is_autocast_enabled("cpu")
    assert all(parameter.dtype == torch.float32 for parameter in trainer.network.parameters())
    assert any(not torch.equal(one, two) for one, two in zip(before, trainer.network.parameters(), strict=True))


def test_whether_a_cpu_has_the_instructions_is_asked_of_torch_and_never_fails(monkeypatch: pytest.MonkeyPatch):
    assert precision.fast_bfloat16() in (True, False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)  # an older torch
    assert precision.fast_bfloat16() is False
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert precision.fast_bfloat16() is True


@pytest.mark.parametrize(("kind", "ignored"), [
    (SAM3DAdapterTrainer, ()),
    (nnUNetClickTrainer, ("learning_rate", "preset")),
    (nnUNetBaselineTrainer, ("learning_rate", "max_clicks", "preset")),
])  # fmt: skip
def test_options_without_a_use_are_named(
    kind: type[TimedTrainer],
    ignored: tuple[str, ...],
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    unet_architecture: dict[str, Any],
    own_folders: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("nnsam3d_options", "preset=tiny learning_rate=1e-3 max_clicks=3 num_epochs=7")
    trainer = make(kind, plans, dataset_json, unet_architecture)
    log = Path(trainer.log_file).read_text(encoding="utf-8")
    assert ("does not use" in log) == bool(ignored)
    if ignored:
        assert f"{kind.__name__} does not use {', '.join(ignored)}: ignored" in log
