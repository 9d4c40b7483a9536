"""targets=any: one label, whatever the dataset's; the truth of a patch depends on its prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnsam3d.errors import UserError
from nnsam3d.network import PRESETS
from nnsam3d.prompts import read_channel
from nnsam3d.prompts.targets import Targets
from nnsam3d.synthetic import dataset as synthetic
from nnsam3d.training.clicks import AppendClicks, ClickSimulation, insert_clicks
from nnsam3d.training.options import ENVIRONMENT_VARIABLE, TrainingOptions, options_of_checkpoint
from nnsam3d.training.synthetic_data import GAIN, OFFSET, SyntheticCases
from nnsam3d.training.trainer import SAM3DAdapterTrainer

from .small import NANO
from .test_trainer import make

SHAPE = (12, 16, 16)
DATASET = {"labels": {"background": 0, "organ": 1, "tumour": 2, "ignore": 3}}


def segmentation() -> np.ndarray:
    labels = np.zeros(SHAPE, np.int16)
    labels[2:6, 2:8, 2:8] = 1
    labels[7:11, 9:14, 9:14] = 2
    labels[:, :, 15] = 3
    return labels


def simulation(**options: Any) -> ClickSimulation:
    targets = Targets.of(DATASET)
    chosen = TrainingOptions(targets="any", **options)
    return ClickSimulation.of(chosen, (1,), (2.0, 1.0, 1.0), targets.ignored_value, targets)


def samples(simulated: ClickSimulation, training: bool = True, number: int = 80) -> list[tuple[np.ndarray, ...]]:
    transform = AppendClicks(simulated, training, rng=np.random.default_rng(2))
    found = []
    for _ in range(number):
        out = transform(image=torch.zeros(1, *SHAPE), segmentation=torch.from_numpy(segmentation())[None])
        found.append((out["image"].numpy()[1:], out["segmentation"].numpy()))
    return found


def test_clicks_speak_of_the_drawn_target_only() -> None:
    truths = set()
    for channels, truth in samples(simulation(prompt_kinds="click", negative_click_share=0.5)):
        assert truth.shape == (1, *SHAPE)
        assert truth.dtype == np.int16
        assert (truth[0][segmentation() == 3] == 2).all()
        for position, label in zip(*read_channel(channels[0]), strict=True):
            assert truth[0][tuple(position)] == label
        truths.add((truth == 1).tobytes())
    assert len(truths) > 5


@pytest.mark.parametrize("kinds", ["click", "click,box,scribble"])
def test_no_prompt_no_answer(kinds: str) -> None:
    empty = 0
    for channels, truth in samples(simulation(prompt_kinds=kinds, empty_share=0.4), number=150):
        if not channels.any():
            empty += 1
            assert not (truth == 1).any()
        else:
            assert (truth == 1).any()
    assert 20 < empty < 85
    for channels, truth in samples(simulation(prompt_kinds=kinds, empty_share=0.0), number=40):
        assert channels.any()
        assert (truth == 1).any()


def test_validation_clicks_on_a_target() -> None:
    for channels, truth in samples(simulation(), training=False, number=20):
        ((position, label),) = zip(*read_channel(channels[0]), strict=True)
        assert label == truth[0][tuple(position)] == 1


def test_it_stands_in_nnunets_pipeline_before_regions() -> None:
    stock = nnUNetTrainer.get_validation_transforms(None, foreground_labels=[1], regions=None, ignore_label=None)
    out = insert_clicks(stock, simulation(), training=False)(
        image=torch.zeros(1, *SHAPE), segmentation=torch.from_numpy(segmentation())[None]
    )
    assert out["segmentation"].shape == (1, *SHAPE)
    assert set(np.unique(out["segmentation"])) == {0, 1, 2}


def test_synthetic_cases_are_never_the_same_and_come_as_nnunets() -> None:
    cases = SyntheticCases((16, 20, 20), (2.0, 1.0, 1.0))
    np.random.seed(3)  # noqa: NPY002
    loaded = [cases.load_case("synthetic") for _ in range(3)]
    for image, labels, previous, properties in loaded:
        assert image.shape == labels.shape == (1, 20, 25, 25)
        assert previous is None
        assert abs(image.mean()) < 5 * OFFSET
        assert np.exp(-5 * GAIN) < image.std() < np.exp(5 * GAIN)
        locations = properties["class_locations"]
        assert set(locations) == set(np.unique(labels).tolist()) - {0}
        for value, voxels_N4 in locations.items():
            assert (labels[tuple(voxels_N4.T)] == value).all()
    assert not np.array_equal(loaded[0][1], loaded[1][1])
    np.random.seed(3)  # noqa: NPY002
    np.testing.assert_array_equal(cases.load_case("synthetic")[0], loaded[0][0])


def test_synthetic_data_needs_any_target() -> None:
    with pytest.raises(UserError, match="targets=any"):
        TrainingOptions(data="synthetic")


# ---------------------------------------------------------------------- the trainer


@pytest.fixture
def _nano(monkeypatch: pytest.MonkeyPatch, own_folders: None) -> None:
    monkeypatch.setitem(PRESETS, "nano", NANO)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "preset=nano weights=scratch num_epochs=5 targets=any")


@pytest.mark.usefixtures("_nano")
def test_the_network_has_one_foreground_channel(plans: dict[str, Any], dataset_json: dict[str, Any]) -> None:
    trainer = make(plans, dataset_json)
    trainer.initialize()
    config = trainer.bare_network.config
    assert (config.num_classes, config.num_click_labels) == (2, 2)
    assert trainer.dataset_json["labels"] == {"background": 0, "object": 1, "ignore": 2}
    assert trainer.plans_manager.plans["configurations"]["3d_fullres"]["nnsam3d"]["targets"] == "any"
    channels = 1 + config.prompt_channels
    batch = {"data": torch.randn(2, channels, 16, 32, 32), "target": torch.randint(0, 3, (2, 1, 16, 32, 32))}
    batch["data"][:, 1:] = 0
    assert np.isfinite(trainer.train_step(batch)["loss"])


@pytest.mark.usefixtures("_nano")
def test_patches_are_found_by_the_labels_of_the_dataset(
    plans: dict[str, Any], dataset_json: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(plans, dataset_json)
    seen = []
    monkeypatch.setattr(
        nnUNetTrainer,
        "get_dataloaders",
        lambda self: seen.append((self.label_manager.all_labels, self._click_simulation().simulator.ignore_label)),
    )
    trainer.get_dataloaders()
    assert seen == [([0, 1, 2], 2)]
    assert trainer.label_manager.all_labels == [0, 1]


@pytest.mark.usefixtures("_nano")
def test_a_continued_training_stays_class_agnostic(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "checkpoint.pth")
    trainer = make(plans, dataset_json)
    trainer.initialize()
    trainer.save_checkpoint(file)
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    continued = make(plans, dataset_json)
    continued.load_checkpoint(file)
    assert continued.options.targets == "any"
    assert continued.targets == trainer.targets
    assert continued.dataset_json == trainer.dataset_json
    assert continued.label_manager.all_labels == [0, 1]
    assert continued.bare_network.config.num_classes == 2
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "targets=labels")
    with pytest.raises(UserError, match="targets=any and cannot continue with labels"):
        make(plans, dataset_json).load_checkpoint(file)


@pytest.mark.usefixtures("_nano")
def test_synthetic_data_needs_the_labels_of_a_synthetic_dataset(
    plans: dict[str, Any], dataset_json: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, file = "preset=nano weights=scratch targets=any data=", str(tmp_path / "checkpoint.pth")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, options + "synthetic")
    plain = {**dataset_json, "labels": {"background": 0, "organ": 1, "tumour": 2}}
    for other in (dataset_json, plain):
        with pytest.raises(UserError, match=r"data=synthetic: the labels of this dataset .*nnsam3d synthesize"):
            make(plans, other).initialize()
    trainer = make(plans, synthetic.dataset_json(1, synthetic.Recipe()))
    trainer.initialize()
    trainer.save_checkpoint(file)
    make(plans, plain).load_checkpoint(file)  # as a training of an earlier version goes on
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, options + "dataset")
    trainer = make(plans, plain)
    trainer.initialize()
    trainer.save_checkpoint(file)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, options + "synthetic")
    with pytest.raises(UserError, match="nnsam3d synthesize"):
        make(plans, plain).load_checkpoint(file)


@pytest.mark.usefixtures("_nano")
def test_other_trainings_are_as_before(
    plans: dict[str, Any], dataset_json: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "preset=nano weights=scratch")
    trainer: SAM3DAdapterTrainer = make(plans, dataset_json)
    assert trainer.targets is None
    assert trainer.dataset_json == dataset_json
    assert trainer._click_simulation().targets is None
    earlier = {
        key: value for key, value in TrainingOptions().as_dict().items() if key not in ("targets", "empty_share")
    }
    assert options_of_checkpoint(earlier, "plans").targets == "labels"
