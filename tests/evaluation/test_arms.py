"""Arms: what they are, that they hear the clicks, and that they answer as nnU-Net's own prediction does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnsam3d.errors import UserError
from nnsam3d.evaluation.arms import NetworkRuns, load_arm
from nnsam3d.evaluation.controls import reduce_to_hit
from nnsam3d.evaluation.names import PROTOCOLS, parse_arm
from nnsam3d.evaluation.obedience import bound
from nnsam3d.evaluation.plan import Job
from nnsam3d.evaluation.protocols import as_prompts
from nnsam3d.prompts import VoxelClick, VoxelPrompts
from nnsam3d.prompts.kinds import Shape


@pytest.fixture
def opened(bench, bench_folders):
    """Loads an arm, and case c with its reader: the arm, the image and its properties."""

    def load(text: str, mirroring: bool = False):
        arm = load_arm(Job(bench, "3d_fullres", "0", text, "iterative"), "cpu", mirroring=mirroring)
        return arm, *arm.model.read([Path(bench_folders["nnUNet_raw"]) / bench / "imagesTr" / "c_0000.nii.gz"])

    return load


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
def test_kinds(opened, text, kind, hears):
    arm, *case = opened(text)
    prepared = arm.prepare(*case)
    assert (arm.kind, arm.listens) == (kind, hears)
    automatic, clicked = prepared.answer(None), prepared.answer(as_prompts("c", CLICKS))
    assert automatic.shape == clicked.shape == (12, 24, 20)
    if not hears:
        np.testing.assert_array_equal(automatic, clicked)
    enforced = bound(clicked, VoxelPrompts.of(CLICKS), arm.model.regions, (1, 1, 1))
    assert all(enforced[voxel] == label for voxel, label in CLICKS)
    np.testing.assert_array_equal(prepared.answer(as_prompts("c", CLICKS)), clicked)
    np.testing.assert_array_equal(prepared.answer(None), automatic)


def test_the_u_net_with_clicks_answers_as_nnunet_predicts_with_the_same_prompts(opened):
    """Our shortcut (preprocess once, then only the prompt channel changes) against nnU-Net's whole way."""
    arm, image, properties = opened("nnUNetClickTrainer")
    stock = nnUNetPredictor(use_mirroring=False, device=arm.model.device, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(arm.model.folder), (0,))
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
    core = reduce_to_hit(label_map, VoxelPrompts.of([((1, 1, 2), 1)]), regions)
    np.testing.assert_array_equal(core, rim)  # the core is tumour, too
    np.testing.assert_array_equal(reduce_to_hit(label_map, VoxelPrompts.of([((0, 0, 0), 1)]), regions), label_map)


@pytest.mark.parametrize("text", ["SAM3DAdapterTrainer", "nnUNetClickTrainer"])
def test_a_network_answers_no_click_once(opened, text):
    arm, *case = opened(text)
    prepared = arm.prepare(*case)
    first = prepared.answer(None)
    first[:] = 7  # the caller's own
    before = arm.work()
    assert (prepared.answer(None) != 7).all()
    assert arm.work() - before == NetworkRuns()


@pytest.mark.parametrize("mirroring", [False, True])
def test_every_window_is_counted(opened, mirroring):
    """12 x 24 x 20 voxels of (2, 1, 1) mm, transposed: 24 x 12 x 20 in patches of 16, so 2 x 1 x 2 windows."""
    flips = 8 if mirroring else 1
    spent = {}
    for text in ("SAM3DAdapterTrainer", "nnUNetClickTrainer", "nnUNetBaselineTrainer+oracle"):
        arm, *case = opened(text, mirroring)
        prepared = arm.prepare(*case)
        for clicks in ((), CLICKS[:1], CLICKS):
            before = arm.work()
            prepared.answer(as_prompts("c", clicks))
            spent[arm.kind, len(clicks)] = arm.work() - before
    assert spent["sam", 0] == spent["clicks", 0] == spent["oracle", 0] == NetworkRuns(whole=4 * flips)
    assert spent["clicks", 1] == spent["clicks", 2] == NetworkRuns(whole=4 * flips)
    assert spent["oracle", 1] == spent["oracle", 2] == NetworkRuns()
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
    assert (arm.trainer, arm.plans, arm.control) == ("nnUNetTrainer", "nnUNetResEncUNetMPlans", "oracle")
    arm = parse_arm("clipped:nnUNetTrainer:nnUNetResEncUNetMPlans")
    assert (arm.trainer, arm.plans, arm.control) == ("nnUNetTrainer", "nnUNetResEncUNetMPlans", "clipped")
    assert (parse_arm("clipped:nnUNetTrainer").plans, parse_arm("ellipsoid").has_model) == ("nnUNetPlans", False)


def test_the_starter_takes_every_label_as_an_object(opened):
    arm, *case = opened("starter")
    assert (arm.kind, arm.listens, arm.is_prompted, parse_arm("starter").trainer) == ("sam", True, True, "")
    assert arm.model.labels == {"background": 0, "lesion": 1}
    prepared = arm.prepare(*case)
    assert not prepared.answer(None).any(), "nobody has said what to segment"
    before = arm.work()
    found = prepared.answer(as_prompts("c", [], [BOX]))
    assert set(np.unique(found)) == {0, 1}
    assert (arm.work() - before).encoded >= 1
    assert all(arm.refusal(protocol) == "" for protocol in PROTOCOLS.values())
    cost = arm.cost()
    assert cost.parameters > 1e6
    assert 0 < cost.click_gflop < cost.window_gflop


# ---------------------------------------------------------------------- prompts with extent


def box_around(low, high, label=1) -> Shape:
    """Both corners belong to it."""
    middle = (np.array(low, float) + high) / 2
    return Shape("box", label, np.vstack([middle, middle + np.diag((np.array(high) - low + 1) / 2)]))


BOX = box_around((2, 6, 4), (9, 17, 13))


def test_an_arm_says_which_protocols_it_cannot_take_part_in(opened):
    def refused(text):
        arm = opened(text)[0]
        return {name: arm.refusal(protocol) for name, protocol in PROTOCOLS.items() if arm.refusal(protocol)}

    kinds = {"box": "boxes", "cvpr25": "boxes", "line": "lines", "scribble": "scribbles", "lasso": "lassos"}
    unknown = {name: f"does not take {kind}" for name, kind in kinds.items()}
    assert refused("SAM3DAdapterTrainer") == unknown, "it corrects any mask"
    assert refused("nnUNetClickTrainer") == unknown | {"start": "does not take masks"}
    assert refused("nnUNetClickTrainer:nnUNetKindsPlans") == refused("SAM3DAdapterTrainer:nnUNetKindsPlans") == {}
    assert refused("nnUNetBaselineTrainer") == refused("nnUNetBaselineTrainer+oracle") == {}
    for control in ("ellipsoid", "clipped:nnUNetBaselineTrainer"):
        assert set(refused(control)) == {"random", "center", "iterative", "scribble", "start"}


@pytest.mark.parametrize("trainer", ["SAM3DAdapterTrainer", "nnUNetClickTrainer"])
def test_a_network_with_kinds_hears_them_and_starts_from_a_mask(opened, trainer):
    arm, image, properties = opened(f"{trainer}:nnUNetKindsPlans")
    prepared = arm.prepare(image, properties)
    assert (prepared.answer(as_prompts("c", [], [BOX])) != prepared.answer(None)).any()
    start = np.zeros(image.shape[1:], np.uint16)
    start[3:7, 8:14, 5:9] = 1
    corrected = prepared.starting_from(start, properties)
    np.testing.assert_array_equal(corrected.answer(None), start)
    clicked = corrected.answer(as_prompts("c", CLICKS))
    assert (clicked != prepared.answer(as_prompts("c", CLICKS))).any(), "the mask matters"


def test_a_mask_is_kept_where_a_network_with_windows_is_not_asked(opened):
    arm, image, properties = opened("SAM3DAdapterTrainer")
    start = np.zeros(image.shape[1:], np.uint16)
    start[2:5, 1:5, 1:5] = 1
    corrected = arm.prepare(image, properties).starting_from(start, properties)
    np.testing.assert_array_equal(corrected.answer(None), start)
    removed = corrected.answer(as_prompts("c", [VoxelClick((3, 3, 3), 0)]))
    assert not removed.any(), "a background click in the middle of a component removes it"


def test_controls_by_geometry_hear_the_first_prompt_only(opened):
    automatic, *case = opened("nnUNetBaselineTrainer")
    own = automatic.prepare(*case).answer(None)
    inside = np.zeros(own.shape, bool)
    inside[2:10, 6:18, 4:14] = True
    for text in ("ellipsoid", "clipped:nnUNetBaselineTrainer"):
        arm, *case = opened(text)
        assert not arm.listens
        prepared = arm.prepare(*case)
        found = prepared.answer(as_prompts("c", [], [BOX]))
        np.testing.assert_array_equal(prepared.answer(as_prompts("c", CLICKS, [BOX])), found)
        if text == "ellipsoid":
            assert found.any()
            assert not found[~inside].any()
            assert arm.cost().parameters == 0
        else:
            np.testing.assert_array_equal(found, np.where(inside, own, 0))
            assert (found != own).any(), "something was clipped"


def test_the_oracle_keeps_what_a_box_touches():
    label_map = np.zeros((4, 4, 12), np.uint8)
    label_map[1:3, 1:3, 1:3] = label_map[1:3, 1:3, 6:9] = 1
    kept = reduce_to_hit(label_map, VoxelPrompts.of((), [box_around((0, 0, 8), (3, 3, 10))]))
    assert kept[:, :, 6:9].sum() == kept.sum() == 12
