"""Roll-outs inside the trainers: what is an error, what a step does with it, on every kind of dataset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnsam3d.network import PRESETS, PromptTensors, RollOut, read_prompt_channel
from nnsam3d.network.prompts import with_prompts
from nnsam3d.prompts import next_click
from nnsam3d.training.click_unet import nnUNetClickTrainer
from nnsam3d.training.clicks import ClickSimulation
from nnsam3d.training.online_validation import TABLE, append_row
from nnsam3d.training.options import ENVIRONMENT_VARIABLE, TrainingOptions
from nnsam3d.training.rollout import drawn_round, drawn_rounds, next_clicks, predicted_labels, truth_labels
from nnsam3d.training.trainer import SAM3DAdapterTrainer

from .test_trainer import NANO

SHAPE = (8, 10, 12)
SPACING = (3.0, 1.0, 1.0)
PLAIN = LabelManager({"background": 0, "organ": 1, "tumour": 2, "ignore": 3}, None)
REGIONS = LabelManager({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, [1, 2])
KINDS: dict[str, dict[str, Any]] = {
    "labels": {"labels": {"background": 0, "organ": 1, "tumour": 2}},
    "ignore": {"labels": {"background": 0, "organ": 1, "tumour": 2, "ignore": 3}},
    "regions": {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]},
    "regions and ignore": {
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
        "regions_class_order": [1, 2],
    },
}


def label_maps(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    maps = np.zeros((2, *shape), np.int64)
    for batch, value in ((0, 1), (0, 2), (1, 1), (1, 3)):
        low = rng.integers(0, np.array(shape) - 4)
        maps[batch][tuple(slice(a, a + 4) for a in low)] = value
    return maps


def as_target(truth: np.ndarray, manager: Any) -> torch.Tensor:
    """As nnU-Net's transforms hand it to the loss."""
    if not manager.has_regions:
        return torch.from_numpy(truth[:, None]).float()
    regions = [np.isin(truth, region) for region in ([1, 2], [2], [3])]
    return torch.from_numpy(np.stack(regions[: 2 + manager.has_ignore_label], 1)).float()


def as_logits(prediction: np.ndarray, manager: Any) -> torch.Tensor:
    maps = [prediction == k for k in range(3)]
    if manager.has_regions:
        maps = [np.isin(prediction, [1, 2]), prediction == 2]
    return torch.from_numpy(np.stack(maps, 1)).float() * 8 - 4


@pytest.mark.parametrize("manager", [PLAIN, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("seed", range(4))
def test_targets_and_logits_are_the_label_maps_they_were_made_of(manager: LabelManager, seed: int) -> None:
    truth, prediction = label_maps(seed), label_maps(seed + 100) % 3
    assert np.array_equal(truth_labels(as_target(truth, manager), manager).numpy(), truth)
    assert np.array_equal(predicted_labels(as_logits(prediction, manager), manager).numpy(), prediction)
    prompts = PromptTensors(torch.zeros(2, 1, 3), torch.full((2, 1), -1))
    simulation = ClickSimulation.of(TrainingOptions(), (1, 2), SPACING, 3)
    voxels, labels = next_clicks(torch.from_numpy(truth), torch.from_numpy(prediction), prompts, simulation)
    for patch in range(2):
        click = next_click(truth[patch], prediction[patch], SPACING, labels=[1, 2], ignore_label=3)
        assert click is not None
        assert truth[patch][tuple(voxels[patch].int().tolist())] == labels[patch] == click[1]


def test_rounds_are_drawn_and_agreed_on() -> None:
    options = TrainingOptions(rounds="1-4")
    drawn = [drawn_rounds(options, epoch, iteration) for epoch in range(20) for iteration in range(20)]
    assert np.bincount(drawn).tolist()[0] == 0
    assert np.bincount(drawn)[1:] == pytest.approx([100] * 4, abs=40)
    assert drawn == [drawn_rounds(options, epoch, iteration) for epoch in range(20) for iteration in range(20)]
    assert {drawn_rounds(TrainingOptions(rounds="3"), 0, i) for i in range(20)} == {3}


@pytest.mark.parametrize("first", [0.0, 0.4, 1.0])
def test_one_answer_is_drawn_as_often_as_it_weighs_whatever_their_number(first: float) -> None:
    options = TrainingOptions(rounds="1-6", first_answer_weight=first)
    places = [(epoch, iteration) for epoch in range(60) for iteration in range(100)]
    drawn = np.array([(drawn_rounds(options, *place), drawn_round(options, *place)) for place in places])
    for rounds in range(1, 7):
        share = np.bincount(drawn[drawn[:, 0] == rounds, 1], minlength=rounds + 1) / (drawn[:, 0] == rounds).sum()
        loss = RollOut(rounds, 0, lambda _: torch.zeros(()), lambda *_: None, first_weight=first)
        assert share == pytest.approx([loss.weight(number) for number in range(rounds + 1)], abs=0.06)
    none = replace(options, rounds="0")
    assert {drawn_round(none, *place) for place in places[:50]} == {0}


@pytest.fixture(autouse=True)
def _options(monkeypatch: pytest.MonkeyPatch, own_folders: None) -> None:
    monkeypatch.setitem(PRESETS, "nano", NANO)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "preset=nano weights=scratch rounds=2 cpu_bfloat16=0 prompt_kinds=click")


def make(kind: str, plans: dict[str, Any], trainer: type, folder: Path | None = None) -> Any:
    plans = plans | {"continue_training": False, "transpose_forward": [0, 1, 2], "label_manager": "LabelManager"}
    dataset_json = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", **KINDS[kind]}
    made = trainer(plans, "3d_fullres", 0, dataset_json, torch.device("cpu"))
    made.initialize()
    return made


def a_batch(manager: Any, foreground: bool = True) -> dict[str, torch.Tensor]:
    truth = label_maps(5, (16, 32, 32)) if foreground else np.zeros((2, 16, 32, 32), np.int64)
    truth = np.where(truth == 3, 3 if manager.has_ignore_label else 0, truth)
    data = torch.randn(2, 2, 16, 32, 32, generator=torch.Generator().manual_seed(1))
    data[:, 1] = 0
    if foreground:
        place = tuple(np.argwhere(truth[0] == 1)[0])
        data[(0, 1, *place)] = 2
    return {"data": data, "target": as_target(truth, manager)}


@pytest.mark.parametrize(("kind", "foreground"), [*((kind, True) for kind in KINDS), ("labels", False)])
def test_a_step_of_sam_corrects_and_learns(plans: dict[str, Any], kind: str, foreground: bool) -> None:
    trainer = make(kind, plans, SAM3DAdapterTrainer)
    batch = a_batch(trainer.label_manager, foreground)
    before = batch["data"].clone()
    decoded: list[list[int]] = []
    decode = trainer.network.decode

    def watched(features: Any, prompts: PromptTensors) -> torch.Tensor:
        decoded.append((prompts.labels_BN >= 0).sum(1).tolist())
        return decode(features, prompts)

    trainer.network.decode = watched
    fine = trainer.network.mask_decoder.click_map
    losses = [float(trainer.train_step(batch)["loss"]) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert torch.equal(batch["data"], before), "the loader's batch is left alone"
    # a new network is wrong in both patches (without foreground, too)
    start = [1, 0] if foreground else [0, 0]
    assert decoded[:3] == [[a + n for a in start] for n in range(3)]
    assert fine.weight.abs().max() > 0


def test_prompts_learn_faster_in_proportion(plans: dict[str, Any]) -> None:
    trainer = make("labels", plans, SAM3DAdapterTrainer)
    slow, fast = trainer.optimizer.param_groups
    names = {id(p): name for name, p in trainer.network.named_parameters()}
    found = {names[id(p)] for p in fast["params"]}
    parts = ("click_map.weight", "label_embed.weight", "no_click")
    assert found == {"mask_decoder.click_map.weight", *(f"prompt_encoder.{part}" for part in parts)}
    for epoch in (0.1, 1.0, 200.0, 500.0):
        trainer.lr_scheduler.step(epoch)
        assert fast["lr"] == pytest.approx(10 * slow["lr"])


def test_a_step_of_the_u_net_sees_clicks_on_errors(plans: dict[str, Any], unet_architecture: dict[str, Any]) -> None:
    plans["configurations"]["3d_fullres"]["architecture"] = unet_architecture
    trainer = make("labels", plans, nnUNetClickTrainer)
    # nnU-Net's weights for so shallow a network are 0 / 0
    trainer.loss = lambda found, wanted: torch.nn.functional.cross_entropy(found[0], wanted[0][:, 0].long())
    target = a_batch(trainer.label_manager)["target"]
    scales = trainer._get_deep_supervision_scales()
    targets = [torch.nn.functional.interpolate(target, scale_factor=scale, mode="nearest") for scale in scales]
    batch = {"data": a_batch(trainer.label_manager)["data"], "target": targets}
    seen: list[int] = []
    trainer.network.register_forward_pre_hook(lambda _, inputs: seen.append(int((inputs[0][:, -1] > 0).sum())))
    passes = []
    for _ in range(12):
        seen.clear()
        assert np.isfinite(trainer.train_step(batch)["loss"])
        passes.append(tuple(seen))
    # at most two corrections per patch, one pass for each, then the pass that counts
    assert {len(one) for one in passes} == {1, 2, 3}
    assert all(list(one) == sorted(one) and one[0] == 1 for one in passes)


@pytest.mark.parametrize("kind", KINDS)
def test_online_validation_tells_what_clicks_do(plans: dict[str, Any], kind: str, tmp_path: Path) -> None:
    trainer = make(kind, plans, SAM3DAdapterTrainer)
    trainer.logger.log("lrs", 1.0, 0)
    trainer.network.eval()
    batch = a_batch(trainer.label_manager)
    second = truth_labels(batch["target"], trainer.label_manager)[1]
    batch["data"][(1, 1, *torch.nonzero(second == 1)[0].tolist())] = 2
    with torch.no_grad():
        step = trainer.validation_step(batch)
        trainer.on_validation_epoch_end([step, step])
    assert step["clicked"].shape == (4, 3, 2)
    assert np.array_equal(step["clicked"][1], [step["tp_hard"], step["fp_hard"], step["fn_hard"]])
    # what nnU-Net counts for the same answer
    stock = super(type(trainer).__mro__[1], trainer).validation_step({k: v.clone() for k, v in batch.items()})
    for key in ("tp_hard", "fp_hard", "fn_hard"):
        np.testing.assert_allclose(step[key], stock[key], atol=3)  # voxels: rounding decides ties
    kept, given = step["obeyed"]
    assert 0 <= kept <= given
    assert given == 2 * (1 + 4), "one click and four corrections in each patch"
    header, row = (Path(trainer.output_folder) / TABLE).read_text().split()
    assert header == "epoch,dice_0,dice_1,dice_3,dice_5,obedience"
    assert row.startswith("0,")
    assert "by number of clicks" in Path(trainer.log_file).read_text()


def test_a_patch_without_a_first_click_begins_with_a_correction(plans: dict[str, Any]) -> None:
    trainer = make("labels", plans, SAM3DAdapterTrainer)
    trainer.network.eval()
    with torch.no_grad():
        step = trainer.validation_step(a_batch(trainer.label_manager))  # its second patch has no click
    assert step["obeyed"][1] == 2 * (1 + 4)


def test_a_repeated_epoch_replaces_its_row(tmp_path: Path) -> None:
    for epoch, value in ((0, 0.1), (1, 0.2), (2, 0.3), (1, 0.4)):
        append_row(tmp_path, ["epoch", "dice_0"], [epoch, value])
    assert (tmp_path / TABLE).read_text().split() == ["epoch,dice_0", "0,0.1000", "1,0.4000"]


def test_the_prompt_channel_holds_the_clicks_and_no_others() -> None:
    data = torch.rand(2, 3, *SHAPE)
    clicks = torch.tensor([[[1.0, 2, 3], [4, 5, 6]], [[0, 0, 0], [7, 9, 11]]])
    labels = torch.tensor([[2, 0], [-1, 1]])
    written = with_prompts(data, PromptTensors(clicks, labels))
    assert torch.equal(written[:, :2], data[:, :2])
    places, found = read_prompt_channel(written[:, -1], 2)
    assert found.tolist() == [[2, 0], [1, -1]]
    assert places[0].tolist() == clicks[0].tolist()
    assert places[1, 0].tolist() == clicks[1, 1].tolist()
