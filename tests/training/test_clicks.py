"""Simulated clicks inside nnU-Net's own transform pipelines and datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnsam3d.geometry import preprocessing_steps
from nnsam3d.prompts import read_channel, read_prompts
from nnsam3d.training.clicks import (
    AppendClicks,
    ClickSimulation,
    PromptRecorder,
    insert_clicks,
    with_simulated_clicks,
)
from nnsam3d.training.options import TrainingOptions

SHAPE = (12, 16, 16)
IMAGE = np.zeros((1, *SHAPE), np.float32)


def _segmentation() -> np.ndarray:
    segmentation = np.zeros(SHAPE, dtype=np.int16)
    segmentation[2:6, 2:8, 2:8] = 1
    segmentation[7:10, 9:14, 9:14] = 2
    segmentation[:, :, 15] = 3  # ignore
    return segmentation


def _simulation(**options: Any) -> ClickSimulation:
    return ClickSimulation.of(TrainingOptions(**options), (1, 2), (2.0, 1.0, 1.0), 3)


def _clicks(channel: np.ndarray) -> list[tuple[tuple[int, ...], int]]:
    positions, labels = read_channel(channel)
    return [(tuple(p), int(label)) for p, label in zip(positions, labels, strict=True)]


def test_every_click_tells_the_truth_and_none_is_on_ignore() -> None:
    segmentation = _segmentation()
    rng = np.random.default_rng(0)
    seen: set[int] = set()
    counts = []
    for _ in range(200):
        clicks = _simulation(max_clicks=6, zero_click_share=0.2).simulator.sample(segmentation, rng, IMAGE)
        counts.append(len(clicks))
        for position, label in clicks:
            assert segmentation[position] == label
            seen.add(label)
    assert seen == {0, 1, 2}
    assert max(counts) <= 6
    assert 0.1 < np.mean(np.array(counts) == 0) < 0.35, "the share of automatic samples"


def test_a_label_absent_from_a_case_is_never_clicked() -> None:
    only_organ = np.where(_segmentation() == 2, 0, _segmentation())
    nothing = np.where(_segmentation() == 3, 3, 0)
    rng = np.random.default_rng(2)
    for _ in range(50):
        assert 2 not in {label for _, label in _simulation().simulator.sample(only_organ, rng, IMAGE)}
        assert {label for _, label in _simulation().simulator.sample(nothing, rng, IMAGE)} <= {0}
    assert len(_simulation(validation_clicks=3).for_validation(only_organ, rng)) == 3
    assert _simulation(validation_clicks=3).for_validation(nothing, rng) == []


def test_validation_has_the_asked_number_of_clicks() -> None:
    for number in (0, 1, 5):
        clicks = _simulation(validation_clicks=number).for_validation(_segmentation(), np.random.default_rng(1))
        assert len(clicks) == number


def test_clicks_come_after_augmentation_and_agree_with_the_target() -> None:
    patch = np.array(SHAPE)
    stock = nnUNetTrainer.get_training_transforms(
        patch, (-0.5, 0.5), None, (0, 1, 2), False, use_mask_for_norm=[False], ignore_label=3
    )
    assert isinstance(stock, ComposeTransforms)
    simulation = _simulation(zero_click_share=0.0)
    transforms = insert_clicks(stock, simulation, training=True)
    segmentation = torch.from_numpy(_segmentation())[None]
    found = 0
    for _ in range(20):
        out = transforms(image=torch.randn(1, *SHAPE), segmentation=segmentation.clone())
        assert out["image"].shape == (1 + simulation.codec.num_channels, *SHAPE)
        for position, label in _clicks(out["image"][1].numpy()):
            assert int(out["segmentation"][0][position]) == label
            found += 1
    assert found > 20


def test_clicks_come_before_region_conversion() -> None:
    stock = nnUNetTrainer.get_validation_transforms(None, regions=[(1, 2), (2,)], ignore_label=None)
    transforms = insert_clicks(stock, _simulation(), training=False)
    out = transforms(image=torch.randn(1, *SHAPE), segmentation=torch.from_numpy(_segmentation())[None])
    assert out["segmentation"].shape[0] == 2
    ((position, label),) = _clicks(out["image"][1].numpy())
    assert _segmentation()[position] == label


def test_unknown_pipelines_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="RemoveLabelTransform"):
        insert_clicks(ComposeTransforms([]), _simulation(), training=True)


def test_a_given_generator_replays() -> None:
    channels = []
    for _ in range(2):
        transform = AppendClicks(_simulation(), training=True, rng=np.random.default_rng(5))
        data = {"image": torch.zeros(1, *SHAPE), "segmentation": torch.from_numpy(_segmentation())[None]}
        channels.append(transform(**data)["image"][1])
    assert torch.equal(*channels)


def test_processes_draw_from_numpys_seed() -> None:
    def draw() -> torch.Tensor:
        transform = AppendClicks(_simulation(zero_click_share=0.0), training=True)
        data = {"image": torch.zeros(1, *SHAPE), "segmentation": torch.from_numpy(_segmentation())[None]}
        return torch.stack([transform(**dict(data))["image"][1] for _ in range(3)])

    np.random.seed(3)  # noqa: NPY002
    first = draw()
    np.random.seed(3)  # noqa: NPY002
    assert torch.equal(first, draw())
    assert not torch.equal(first, draw())


def test_dataset_appends_the_same_clicks_every_time() -> None:
    class Dataset:
        def load_case(self, identifier: str) -> tuple[Any, ...]:
            return np.zeros((1, *SHAPE), np.float32), _segmentation()[None], None, {"of": identifier}

    recorded: list[str] = []
    simulation = _simulation(validation_clicks=3)
    clicked = with_simulated_clicks(Dataset, simulation, lambda case, *_: recorded.append(case))()
    data, _, previous, properties = clicked.load_case("case_a")
    assert data.shape == (1 + simulation.codec.num_channels, *SHAPE)
    assert previous is None
    assert properties == {"of": "case_a"}
    assert recorded == ["case_a"]
    assert len(_clicks(data[1])) == 3
    np.testing.assert_array_equal(data, clicked.load_case("case_a")[0])
    assert not np.array_equal(data, clicked.load_case("case_b")[0])


def test_recorded_prompts_lead_back_to_the_same_voxels(tmp_path: Path) -> None:
    properties = {
        "bbox_used_for_cropping": [[3, 15], [2, 10], [0, 30]],
        "shape_after_cropping_and_before_resampling": (12, 8, 30),
    }
    clicks = [((4, 15, 2), 1), ((11, 0, 15), 2)]
    recorder = PromptRecorder(tmp_path / "prompts", [1, 0, 2], {1: "organ", 2: "tumour"})
    recorder("case", clicks, properties, SHAPE)
    prompts = read_prompts(tmp_path / "prompts" / "case.json")
    assert [click.label for click in prompts.clicks] == ["organ", "tumour"]
    steps = preprocessing_steps(properties, [1, 0, 2], SHAPE)
    back = steps.apply(prompts.points.values_N3[:, ::-1])
    np.testing.assert_allclose(back, [position for position, _ in clicks], atol=1e-9)

    recorder("case", [], properties, SHAPE)
    assert not (tmp_path / "prompts" / "case.json").exists()
