"""Training with prompts that have an extent: what is drawn, corrupted and started from, and that networks learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nnsam3d.network.prompts import PromptTensors
from nnsam3d.prompts import PromptSimulator
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.training.click_unet import nnUNetClickTrainer
from nnsam3d.training.clicks import AppendClicks, ClickSimulation, corrupt
from nnsam3d.training.options import OptionsError, TrainingOptions
from nnsam3d.training.rollout import starting
from nnsam3d.training.trainer import SAM3DAdapterTrainer

from .test_rollout import NANO, a_batch, make

SHAPE = (16, 32, 32)


def truth() -> np.ndarray:
    segmentation = np.zeros(SHAPE, np.int16)
    segmentation[3:12, 4:16, 5:17] = 1
    segmentation[4:9, 20:28, 20:29] = 2
    return segmentation


@pytest.fixture(autouse=True)
def _options(monkeypatch: pytest.MonkeyPatch, own_folders: None) -> None:
    monkeypatch.setitem(__import__("nnsam3d.network.config", fromlist=["PRESETS"]).PRESETS, "nano", NANO)
    monkeypatch.setenv("nnsam3d_options", "preset=nano weights=scratch rounds=2 cpu_bfloat16=0 start_share=1")


def test_the_share_and_the_kinds_are_those_asked_for() -> None:
    rng = np.random.default_rng(0)
    simulator = PromptSimulator((1, 2), kinds=("click", "box", "line"), extent_share=0.5)
    drawn = [simulator.sample_prompts(truth(), rng) for _ in range(400)]
    shapes = [prompts.shapes[0] for prompts in drawn if prompts.shapes]
    assert 0.4 < len(shapes) / len(drawn) < 0.6
    assert {shape.label for shape in shapes} == {1, 2}
    assert {shape.kind for shape in shapes} == {"box", "line", "lasso"}, "a box on one slice is a lasso"
    assert all(len(prompts) == 0 for prompts in drawn if prompts.shapes)
    clicks_only = PromptSimulator((1, 2))
    assert not any(clicks_only.sample_prompts(truth(), rng).shapes for _ in range(50))
    nothing = PromptSimulator((1,), kinds=tuple(KINDS), extent_share=1.0)
    assert not nothing.sample_prompts(np.zeros(SHAPE, np.int16), rng).shapes


def test_channels_hold_the_maps_of_the_label_that_was_drawn() -> None:
    options = TrainingOptions(extent_share=1.0, corrupted_share=0.0)
    simulation = ClickSimulation.of(options, (1, 2), (2.0, 1.0, 1.0))
    transform = AppendClicks(simulation, training=True, rng=np.random.default_rng(0))
    segmentation = torch.from_numpy(truth())[None]
    for _ in range(20):
        image = torch.randn(1, *SHAPE)
        out = transform(image=image.clone(), segmentation=segmentation)["image"]
        assert torch.equal(out[:1], image)
        maps = out[2:]
        labels = {label for (_, label), one in zip(simulation.codec.maps, maps, strict=True) if one.any()}
        assert len(labels) <= 1
        assert maps.any() or out[1].any(), "a scribble acts as clicks"


@pytest.mark.parametrize("trainer", [SAM3DAdapterTrainer, nnUNetClickTrainer])
def test_regions_are_known_to_the_simulator(
    plans: dict[str, Any], unet_architecture: dict[str, Any], trainer: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans["configurations"]["3d_fullres"]["architecture"] = unet_architecture
    for kind, regions in (("labels", None), ("regions and ignore", {1: frozenset({1, 2}), 2: frozenset({2})})):
        assert make(kind, plans, trainer)._click_simulation().simulator.regions == regions
    if trainer is SAM3DAdapterTrainer:
        monkeypatch.setenv("nnsam3d_options", "preset=nano weights=scratch targets=any")
        assert make("regions", plans, trainer)._click_simulation().simulator.regions is None, "one object is drawn"


def test_a_corrupted_image_is_another_one_of_the_same_shape() -> None:
    image = torch.randn(2, *SHAPE)
    rng = np.random.default_rng(0)
    found = [corrupt(image, rng) for _ in range(30)]
    assert all(one.shape == image.shape and one.dtype == image.dtype and one.isfinite().all() for one in found)
    assert any(torch.equal(one, -image) for one in found)
    assert any(one.std() < 0.4 * image.std() for one in found)
    assert any(one.std() > 1.05 * image.std() for one in found)


def test_items_start_once_from_one_of_their_answers(plans: dict[str, Any]) -> None:
    trainer = make("labels", plans, SAM3DAdapterTrainer)
    simulation, manager = trainer._click_simulation(), trainer.label_manager
    channels = torch.zeros(2, simulation.codec.num_channels, *SHAPE)
    channels[:, 0, 3, 3, 3] = 2
    channels[:, 1] = 0.5
    logits = torch.randn(2, 3, *SHAPE)
    for iteration in range(5):
        prompts = PromptTensors.read(channels, 4)
        start = starting(trainer.options, 0, iteration, 3, manager, simulation)
        again = starting(trainer.options, 0, iteration, 3, manager, simulation)
        assert start is not None
        assert again is not None
        started = np.zeros(2, dtype=int)
        for number in range(3):
            after = start(number, logits, prompts)
            assert torch.equal(after.labels_BN, again(number, logits, prompts).labels_BN)
            gone = (after.labels_BN == -1).all(1)
            started += gone.numpy()
            assert after.dense_BMDHW is not None
            for item in torch.nonzero(gone).flatten().tolist():
                expected = torch.where(logits[item].argmax(0)[None] == torch.tensor([1, 2])[:, None, None, None], 1, -1)
                assert torch.equal(after.dense_BMDHW[item, -2:], expected.float())
                assert not after.dense_BMDHW[item, :-2].any()
        assert (started == 1).all()
    assert starting(trainer.options, 0, 0, 0, manager, simulation) is None, "no answer after which to go on"


@pytest.mark.parametrize("trainer", [SAM3DAdapterTrainer, nnUNetClickTrainer])
def test_a_step_learns_from_maps(plans: dict[str, Any], unet_architecture: dict[str, Any], trainer: type) -> None:
    if trainer is nnUNetClickTrainer:
        plans["configurations"]["3d_fullres"]["architecture"] = unet_architecture
    made = make("labels", plans, trainer)
    batch = a_batch(made.label_manager)
    maps = torch.randn(2, made._click_simulation().codec.num_channels - 1, *batch["data"].shape[2:])
    batch["data"] = torch.cat([batch["data"], maps], 1)
    if trainer is nnUNetClickTrainer:
        made.set_deep_supervision_enabled(False)
        made.loss = lambda found, wanted: torch.nn.functional.cross_entropy(found, wanted[:, 0].long())
    losses = [float(made.train_step(batch)["loss"]) for _ in range(3)]
    assert np.isfinite(losses).all()
    if trainer is SAM3DAdapterTrainer:
        assert made.network.mask_decoder.extent_logits.weight.abs().sum() > 0
        assert made.network.mask_decoder.extent_map.weight.abs().sum() > 0


@pytest.mark.parametrize("kinds", ["box", "click,circle", "", "click;box"])
def test_kinds_that_do_not_exist_are_an_error(kinds: str) -> None:
    with pytest.raises(OptionsError, match=r"prompt_kinds.*click"):
        TrainingOptions(prompt_kinds=kinds)
