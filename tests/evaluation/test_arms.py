"""Arms: what they are, that they hear the clicks, and that they answer as nnU-Net's own prediction does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnsam3d.errors import UserError
from nnsam3d.evaluation.arms import Work, load_arm, reduce_to_hit
from nnsam3d.evaluation.names import parse_arm
from nnsam3d.evaluation.obedience import bound
from nnsam3d.evaluation.plan import Job
from nnsam3d.evaluation.protocols import as_prompts
from nnsam3d.prompts import VoxelPrompts


def arm_of(text: str, folders: dict[str, str], dataset: str, mirroring: bool = False):
    job = Job(dataset, "3d_fullres", "0", text, "iterative")
    return load_arm(parse_arm(text), job, "cpu", mirroring=mirroring), job.model_folder


def case_of(folders: dict[str, str], dataset: str, arm):
    return arm.model.read([Path(folders["nnUNet_raw"]) / dataset / "imagesTr" / "c_0000.nii.gz"])


CLICKS = [((6, 12, 10), 1), ((2, 3, 17), 0)]


@pytest.mark.parametrize(
    ("text", "kind", "hears"),
    [
        ("SAM3DAdapterTrainer", "sam", True),
        ("nnUNetClickTrainer", "clicks", True),
        ("nnUNetBaselineTrainer", "automatic", False),
        ("nnUNetBaselineTrainer+oracle", "oracle", True),
    ],
)
def test_kinds(bench, bench_folders, text, kind, hears):
    arm, _ = arm_of(text, bench_folders, bench)
    prepared = arm.prepare(*case_of(bench_folders, bench, arm))
    assert (arm.kind, arm.listens) == (kind, hears)
    automatic, clicked = prepared.answer(None), prepared.answer(as_prompts("c", CLICKS))
    assert automatic.shape == clicked.shape == (12, 24, 20)
    if not hears:
        np.testing.assert_array_equal(automatic, clicked)
    assert all(
        bound(clicked, VoxelPrompts.of(CLICKS), arm.model.regions, (1, 1, 1))[voxel] == label for voxel, label in CLICKS
    )
    np.testing.assert_array_equal(prepared.answer(as_prompts("c", CLICKS)), clicked)
    np.testing.assert_array_equal(prepared.answer(None), automatic)


def test_the_u_net_with_clicks_answers_as_nnunet_predicts_with_the_same_prompts(bench, bench_folders):
    """Our shortcut (preprocess once, then only the prompt channel changes) against nnU-Net's whole way."""
    arm, folder = arm_of("nnUNetClickTrainer", bench_folders, bench)
    image, properties = case_of(bench_folders, bench, arm)
    stock = nnUNetPredictor(use_mirroring=False, device=arm.model.device, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(folder), (0,))
    prompts = {"nnsam3d_prompts": as_prompts("c", CLICKS)}
    expected = stock.predict_single_npy_array(image, properties | prompts)
    mine = arm.prepare(image, properties).answer(as_prompts("c", CLICKS))
    np.testing.assert_array_equal(mine, expected)
    assert (mine != arm.prepare(image, properties).answer(None)).any(), "the clicks matter"


def test_the_oracle_keeps_what_is_hit_and_all_where_nothing_is():
    label_map = np.zeros((4, 4, 9), np.uint8)
    label_map[1, 1, 1:3] = label_map[1, 1, 5:8] = 1
    label_map[3, 3, 3] = 2
    hit = reduce_to_hit(label_map, VoxelPrompts.of([((1, 1, 6), 1)]))
    assert hit.sum() == 3 + 2, "the other component of label 1 is gone, label 2 is not asked about"
    np.testing.assert_array_equal(reduce_to_hit(label_map, VoxelPrompts.of([((0, 0, 0), 1)])), label_map)
    np.testing.assert_array_equal(reduce_to_hit(label_map, VoxelPrompts.of([((1, 1, 1), 0)])), label_map)


def test_with_regions_the_oracle_keeps_a_tumour_whole():
    label_map = np.zeros((4, 4, 9), np.uint8)
    label_map[1, 1, 1:5] = label_map[3, 1, 1:4] = 1
    label_map[1, 1, 2:4] = label_map[3, 1, 2] = 2  # the cores
    regions = {1: frozenset({1, 2}), 2: frozenset({2})}
    rim = reduce_to_hit(label_map, VoxelPrompts.of([((1, 1, 1), 1)]), regions)
    np.testing.assert_array_equal(rim[1], label_map[1])
    assert not rim[3].any()
    np.testing.assert_array_equal(
        reduce_to_hit(label_map, VoxelPrompts.of([((1, 1, 2), 1)]), regions), rim
    )  # the core is tumour, too
    np.testing.assert_array_equal(reduce_to_hit(label_map, VoxelPrompts.of([((0, 0, 0), 1)]), regions), label_map)


@pytest.mark.parametrize("text", ["SAM3DAdapterTrainer", "nnUNetClickTrainer"])
def test_a_network_answers_no_click_once(bench, bench_folders, text):
    arm, _ = arm_of(text, bench_folders, bench)
    prepared = arm.prepare(*case_of(bench_folders, bench, arm))
    first = prepared.answer(None)
    first[:] = 7  # the caller's own
    before = arm.work()
    assert (prepared.answer(None) != 7).all()
    assert arm.work() - before == Work()


@pytest.mark.parametrize("mirroring", [False, True])
def test_every_window_is_counted(bench, bench_folders, mirroring):
    """12 x 24 x 20 voxels of (2, 1, 1) mm, transposed: 24 x 12 x 20 in patches of 16, so 2 x 1 x 2 windows."""
    flips = 8 if mirroring else 1
    spent = {}
    for text in ("SAM3DAdapterTrainer", "nnUNetClickTrainer", "nnUNetBaselineTrainer+oracle"):
        arm, _ = arm_of(text, bench_folders, bench, mirroring)
        prepared = arm.prepare(*case_of(bench_folders, bench, arm))
        for clicks in ((), CLICKS[:1], CLICKS):
            before = arm.work()
            prepared.answer(as_prompts("c", clicks))
            spent[arm.kind, len(clicks)] = arm.work() - before
    assert spent["sam", 0] == spent["clicks", 0] == spent["oracle", 0] == Work(whole=4 * flips)
    assert spent["clicks", 1] == spent["clicks", 2] == Work(whole=4 * flips)
    assert spent["oracle", 1] == spent["oracle", 2] == Work()
    first, further = spent["sam", 1], spent["sam", 2]
    assert first.whole == further.whole == 0
    assert flips <= first.encoded <= first.decoded
    assert further.encoded < first.encoded, "features are kept"
    assert further.decoded % flips == 0


@pytest.mark.parametrize("text", ["", "a b", "nnUNetTrainer:", "nnUNetTrainer+clicks"])
def test_arms_that_are_none(text):
    with pytest.raises(UserError, match="TRAINER"):
        parse_arm(text)


def test_arm_names():
    arm = parse_arm("nnUNetTrainer:nnUNetResEncUNetMPlans+oracle")
    assert (arm.trainer, arm.plans, arm.oracle) == ("nnUNetTrainer", "nnUNetResEncUNetMPlans", True)
