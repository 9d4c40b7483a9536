"""Obedience: what a network makes of clicks by itself, told apart from what binding makes of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from nnsam3d.evaluation import runner
from nnsam3d.evaluation.first import Truth
from nnsam3d.evaluation.obedience import bound, obeyed
from nnsam3d.evaluation.plan import Job, Setting
from nnsam3d.evaluation.results import NetworkRuns, ScoredAnswer
from nnsam3d.geometry import ImageGrid
from nnsam3d.prompts import VoxelPrompts
from nnsam3d.prompts.kinds import Shape

REGIONS = {1: frozenset({1, 2}), 2: frozenset({2})}
SPACING = (1.0, 1.0, 1.0)


def truth(labels: int = 1) -> Truth:
    segmentation = np.zeros((8, 12, 12), np.uint8)
    segmentation[2:6, 3:9, 3:9] = 1
    segmentation[2:6, 3:9, 6:9] = labels
    return Truth("case", segmentation, (2.0, 1.0, 1.0), tuple(range(1, labels + 1)))


def steps_of(answer, limit: int = 6, protocol: str = "iterative") -> list[ScoredAnswer]:
    """The runner's steps with an arm that answers so."""
    return clicked_with(answer, limit, protocol, truth())[0]


def clicked_with(answer, limit: int, protocol: str, asked: Truth) -> tuple[list[ScoredAnswer], dict]:
    """The same, and the label maps that are kept."""
    setting = Setting(("D",), ("3d_fullres",), ("0",), ("arm",), (protocol,), (0,), limit)
    labels = {"labels": {"background": 0, "lesion": 1, **({"other": 2} if len(asked.labels) > 1 else {})}}
    model = SimpleNamespace(regions=None, components="all", dataset_json=labels)
    arm = SimpleNamespace(work=NetworkRuns, model=model, listens=True, is_prompted=True)
    job = Job("D", "3d_fullres", "0", "arm", protocol)
    shape = asked.segmentation_DHW.shape

    def answer_prompts(prompts):
        places = prompts.points.to("array", ImageGrid(shape[::-1], (1, 1, 2), (0, 0, 0), np.eye(3))).values_N3
        return answer(
            [(tuple(map(int, place)), click.label) for place, click in zip(places, prompts.clicks, strict=True)]
        )

    clicked = runner._click(setting, job, asked, 0, SimpleNamespace(answer=answer_prompts), arm)
    assert len(clicked.steps) == len(clicked.seconds) == len(clicked.work)
    return clicked.steps, clicked.maps


def deaf(clicks):
    """A tumour where none is, whatever is clicked."""
    result = np.zeros((8, 12, 12), np.uint8)
    result[0, 0, :4] = 1
    return result


def obedient(clicks):
    """The clicked voxels, and nothing else that would be right."""
    result = deaf(clicks)
    for voxel, label in clicks:
        result[voxel] = label
    return result


def forgetful(clicks):
    """The last click only."""
    return obedient(clicks[-1:])


def test_a_network_that_ignores_clicks_is_told_from_one_that_obeys():
    assert [step.obeyed for step in steps_of(obedient)] == [None, *[1.0] * 6]
    ignored = steps_of(deaf)
    # every correction lies on an error of an answer that binding has changed, so none is right by itself
    assert [step.obeyed for step in ignored] == [None, *[0.0] * 6]
    assert ignored[-1].scores["lesion"]["dice"] > 0, "binding hides it from the scores"


def test_all_clicks_so_far_count():
    shares = [step.obeyed for step in steps_of(forgetful)]
    assert shares == [None, *(pytest.approx(1 / n) for n in range(1, 7))]


def test_without_corrections_all_clicks_of_the_step_count():
    assert [step.obeyed for step in steps_of(obedient, protocol="center")] == [None, 1.0]


def test_the_answer_to_a_click_on_every_label_is_kept_for_the_pictures():
    steps, maps = clicked_with(obedient, 6, "center", truth(labels=2))
    assert [step.clicks for step in steps] == [0, 2]
    assert set(np.unique(maps[1])) == {0, 1, 2}


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_binding_leads_to_full_obedience_and_leaves_the_own_answer_alone(regions):
    rng = np.random.default_rng(0)
    for _ in range(20):
        own = rng.integers(0, 3, (4, 5, 6))
        voxels = rng.integers((4, 5, 6), size=(5, 3)).tolist()
        clicks = [((z, y, x), int(label)) for (z, y, x), label in zip(voxels, rng.integers(0, 3, 5), strict=True)]
        before = own.copy()
        assert obeyed(bound(own, VoxelPrompts.of(clicks), regions, SPACING), clicks, regions) == 1
        np.testing.assert_array_equal(own, before)
        if obeyed(own, clicks, regions) == 1:
            negative = [voxel for voxel, label in clicks if not label]
            unchanged = (bound(own, VoxelPrompts.of(clicks), regions, SPACING) == own).all()
            assert negative or unchanged, "there was nothing to bind"


def test_what_a_box_says_is_enforced_in_networks_that_get_it():
    own = np.zeros((6, 6, 12), np.uint8)
    own[1:5, 1:5, 1:4] = own[1:5, 1:5, 8:11] = 1
    middle = np.array([2.5, 2.5, 2.0])
    box = Shape("box", 1, np.vstack([middle, middle + np.eye(3) * 2.5]))
    prompts = VoxelPrompts.of((), [box])
    np.testing.assert_array_equal(bound(own, prompts, None, SPACING), own)
    for components in ("all", "prompted"):
        result = bound(own, prompts, None, SPACING, components)
        assert (result[:, :, :4].sum(), result[:, :, 8:].sum()) == (48, 0)
    click = VoxelPrompts.of([((2, 2, 2), 1)])
    assert bound(own, click, None, SPACING, "all").sum() == 96
    assert bound(own, click, None, SPACING, "prompted").sum() == 48


def test_with_regions_a_click_on_the_whole_is_obeyed_by_its_core():
    """As `nnsam3d predict` has it: what lies in the core lies in the tumour."""
    core = np.full((4, 5, 6), 2, np.uint8)
    whole, nothing = [((1, 2, 3), 1)], [((1, 2, 3), 0)]
    assert obeyed(core, whole, REGIONS) == 1
    assert obeyed(core, whole) == 0
    assert obeyed(core, nothing, REGIONS) == 0
    assert bound(core, VoxelPrompts.of(whole), REGIONS, SPACING)[1, 2, 3] == 2
    assert not bound(core, VoxelPrompts.of(nothing), REGIONS, SPACING).any()


def test_of_two_clicks_on_a_voxel_the_last_one_counts():
    own = np.ones((2, 2, 2), np.uint8)
    assert obeyed(own, [((0, 0, 0), 0), ((0, 0, 0), 1)]) == 1
    assert obeyed(own, [((0, 0, 0), 1), ((0, 0, 0), 0)]) == 0
    assert obeyed(own, []) is None
