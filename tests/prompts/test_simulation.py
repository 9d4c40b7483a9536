"""Clicks from the ground truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nnsam3d.prompts import PromptSimulator, case_rng, simulate_clicks
from nnsam3d.prompts import negatives as module
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.prompts.negatives import negative_clicks

SPACING = (3.0, 1.0, 0.7)
seeds = st.integers(0, 2**32 - 1)


def volume(seed: int, shape: tuple[int, int, int] = (9, 14, 17)) -> np.ndarray:
    """Blobs of labels 1..3, ignore label 4, nnU-Net's -1 outside the body."""
    rng = np.random.default_rng(seed)
    seg = np.zeros(shape, np.int16)
    for value in (1, 2, 3, 4, 1):
        low = rng.integers(0, np.array(shape) - 3)
        high = low + rng.integers(1, 6, 3)
        seg[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    seg[0, :3] = -1
    return seg


def at(seg: np.ndarray, clicks: np.ndarray) -> list[int]:
    assert clicks.dtype == np.int64
    assert clicks.shape[1:] == (3,)
    return seg[tuple(clicks.T)].tolist()


@settings(max_examples=40)
@given(seed=seeds, n=st.integers(0, 12), strategy=st.sampled_from(["uniform", "center"]))
def test_clicks_hit_the_label_in_the_number_asked_for_and_replay(seed: int, n: int, strategy: str) -> None:
    seg = volume(seed)
    for label in sorted(set(np.unique(seg)) & {1, 2, 3}):
        options = {"strategy": strategy, "spacing": SPACING}
        clicks = simulate_clicks(seg, label, n, np.random.default_rng(seed), **options)
        assert at(seg, clicks) == [label] * n
        assert len({tuple(c) for c in clicks.tolist()}) == min(n, (seg == label).sum())
        longer = simulate_clicks(seg, label, n + 3, np.random.default_rng(seed), **options)
        assert np.array_equal(longer[:n], clicks)


def test_uniform_is_uniform() -> None:
    seg = np.zeros((3, 4, 5), int)
    seg[1, 1:3, 1:4] = 2
    rng = np.random.default_rng(0)
    drawn = np.concatenate([simulate_clicks(seg, 2, 2, rng) for _ in range(3000)])
    counts = np.unique(np.ravel_multi_index(tuple(drawn.T), seg.shape), return_counts=True)[1]
    assert len(counts) == 6
    assert abs(counts / 1000 - 1).max() < 0.12


def test_center_counts_in_millimetres() -> None:
    """An L of two bars: in voxels the upright one is thicker, in mm the flat one is."""
    seg = np.zeros((20, 30, 30), int)
    seg[2:17, 2:9, 2:9] = 1  # 15 x 7 x 7 voxels
    seg[2:7, 2:28, 2:28] = 1  # 5 x 26 x 26 voxels
    deep = {}
    for spacing in ((1.0, 1.0, 1.0), (10.0, 1.0, 1.0)):
        (z, y, x), *_ = simulate_clicks(seg, 1, 1, np.random.default_rng(0), "center", spacing=spacing)
        deep[spacing] = (z, y, x)
        distance = ndimage.distance_transform_edt(np.pad(seg == 1, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
        assert distance[z, y, x] == pytest.approx(distance.max())
    assert deep[(1.0, 1.0, 1.0)][1] < 9
    assert deep[(10.0, 1.0, 1.0)][1] > 9


def test_center_takes_the_largest_component_then_the_next_then_spreads() -> None:
    seg = np.zeros((12, 30, 30), int)
    seg[4:7, 1:4, 1:4] = 1  # 27 voxels
    seg[3:10, 10:25, 10:17] = 1  # the large one
    seg[0, 29, 29] = 1
    clicks = simulate_clicks(seg, 1, 5, np.random.default_rng(3), "center").tolist()
    assert seg[3:10, 10:25, 10:17][tuple(np.subtract(clicks[0], (3, 10, 10)))] == 1
    assert clicks[1:3] == [[5, 2, 2], [0, 29, 29]]
    assert abs(clicks[3][1] - clicks[0][1]) >= 3  # not beside the first


def test_image_border_counts_as_outside() -> None:
    clicks = simulate_clicks(np.ones((5, 5, 5), int), 1, 1, np.random.default_rng(0), "center")
    assert clicks.tolist() == [[2, 2, 2]]


def test_center_draws_between_ties() -> None:
    seg = np.ones((1, 1, 8), int)
    found = {tuple(simulate_clicks(seg, 1, 1, np.random.default_rng(s), "center")[0]) for s in range(60)}
    assert found == {(0, 0, x) for x in range(8)}


def test_largest_error() -> None:
    seg = np.zeros((9, 20, 20), int)
    seg[2:7, 2:9, 2:9] = 1
    prediction = np.zeros_like(seg)
    prediction[2:7, 2:9, 2:5] = 1  # misses x 5..8: 5*7*4
    prediction[3:6, 14:17, 14:17] = 1  # invents 3*3*3
    seg[8], prediction[8] = 2, 1  # a large area that is ignored
    run = {"strategy": "largest_error", "prediction": prediction, "ignore_label": 2}
    clicks = simulate_clicks(seg, 1, 2, np.random.default_rng(0), **run)
    assert at(seg, clicks) == [1, 0]
    assert 5 <= clicks[0][2] <= 8
    assert clicks[1].tolist() == [4, 15, 15]
    more = simulate_clicks(seg, 1, 9, np.random.default_rng(0), **run)
    assert (more[:2] == clicks).all()
    assert all((seg == 1)[tuple(c)] != (prediction == 1)[tuple(c)] for c in more)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": 3}, "label 3 does not occur"),
        ({"n": -1}, "negative"),
        ({"strategy": "random"}, "unknown strategy 'random'.*uniform, center, largest_error"),
        ({"strategy": "largest_error"}, "needs a prediction"),
        ({"strategy": "largest_error", "prediction": np.zeros((1, 2, 3))}, "shape"),
        ({"strategy": "largest_error", "prediction": np.ones((4, 4, 4))}, "no error"),
        ({"segmentation": np.ones((4, 4))}, "D, H, W"),
    ],
)
def test_impossible_wishes(options: dict, message: str) -> None:
    good = {"segmentation": np.ones((4, 4, 4), int), "label": 1, "n": 1, "rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match=message):
        simulate_clicks(**(good | options))


def test_no_clicks_ask_nothing_of_the_segmentation() -> None:
    assert simulate_clicks(np.zeros((2, 2, 2), int), 3, 0, np.random.default_rng(0)).shape == (0, 3)


def background(seg: np.ndarray, n: int, seed: int, image: np.ndarray | None = None, **settings: float) -> np.ndarray:
    """Negative clicks of labels 1 to 3, with other settings of the module."""
    present = {label: np.flatnonzero(seg == label) for label in (1, 2, 3) if (seg == label).any()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(module, name, value)
        return negative_clicks(seg, n, np.random.default_rng(seed), present, SPACING, image)


@settings(max_examples=40)
@given(seed=seeds, n=st.integers(0, 20), near=st.sampled_from([0.0, 0.5, 1.0]))
def test_negatives_lie_on_background(seed: int, n: int, near: float) -> None:
    seg = volume(seed)
    clicks, again = (background(seg, n, seed, NEAR=near) for _ in range(2))
    assert np.array_equal(clicks, again)
    assert at(seg, clicks) == [0] * n
    assert len({tuple(c) for c in clicks.tolist()}) == n


@settings(max_examples=25)
@given(seed=seeds, margin=st.sampled_from([0.1, 2.0, 6.0]))
def test_near_negatives_lie_in_the_band(seed: int, margin: float) -> None:
    seg = volume(seed, (12, 30, 40))
    clicks = background(seg, 10, seed, NEAR=1.0, MARGIN_MM=margin)
    distance = ndimage.distance_transform_edt(~np.isin(seg, [1, 2, 3]), sampling=SPACING)
    # A voxel that touches the foreground, if only by a corner, always counts as near.
    assert max(at(distance, clicks)) <= max(margin, np.linalg.norm(SPACING)) + 1e-6


def test_negatives_where_there_is_little_or_no_background() -> None:
    seg = np.ones((4, 5, 6), int)
    assert background(seg, 5, 0).shape == (0, 3)
    seg[1, 2, 3] = 0
    assert background(seg, 3, 0).tolist() == [[1, 2, 3]] * 3
    assert background(np.zeros((2, 2, 2), int), 8, 0).shape == (8, 3)
    assert background(np.full((2, 2, 2), 4), 8, 0).shape == (0, 3)


@settings(max_examples=60)
@given(seed=seeds, most=st.integers(1, 8), strategy=st.sampled_from(["uniform", "center"]))
def test_prompt_sets(seed: int, most: int, strategy: str) -> None:
    seg = volume(seed)
    simulator = PromptSimulator((0, 1, 2, 3, 4), SPACING, 4, strategy, most, zero_share=0.0)
    first, again = (simulator.sample(seg, np.random.default_rng(seed)) for _ in range(2))
    assert first == again
    assert 1 <= len(first) <= most
    assert any(label > 0 for _, label in first)
    assert all(seg[voxel] == label and label in (0, 1, 2, 3) for voxel, label in first)
    negatives = [voxel for voxel, label in first if label == 0]
    assert len(set(negatives)) == len(negatives)


def test_shares_of_prompt_sets() -> None:
    seg = np.zeros((10, 12, 14), np.int16)
    seg[2:8, 3:9, 3:9] = 1
    seg[2:8, 3:9, 6:9] = 2
    rng = np.random.default_rng(0)
    simulator = PromptSimulator((1, 2), max_clicks=6, zero_share=0.3, negative_share=0.4)
    sets = [simulator.sample(seg, rng) for _ in range(2000)]
    assert abs(sum(not s for s in sets) / 2000 - 0.3) < 0.04
    sizes = np.bincount([len(s) for s in sets if s], minlength=7)[1:] / sum(bool(s) for s in sets)
    few_first = 1 / np.arange(1, 7)
    assert abs(sizes - few_first / few_first.sum()).max() < 0.04
    long = [[label for _, label in s] for s in sets if len(s) == 6]
    assert abs(np.mean([s.count(0) / 6 for s in long]) - 0.4) < 0.05
    assert all(abs(s.count(1) - s.count(2)) <= 1 for s in long)


def test_prompt_sets_without_foreground_or_background() -> None:
    rng = np.random.default_rng(0)
    simulator = PromptSimulator((1,), max_clicks=4, zero_share=0)
    empty = [simulator.sample(np.zeros((6, 6, 6)), rng) for _ in range(200)]
    assert {label for s in empty for _, label in s} == {0}
    assert 60 < sum(not s for s in empty) < 140
    full = PromptSimulator((1,), max_clicks=4, zero_share=0, negative_share=1).sample(np.ones((6, 6, 6)), rng)
    assert full
    assert {label for _, label in full} == {1}
    assert PromptSimulator((1,), max_clicks=0).sample(np.ones((6, 6, 6)), rng) == []


@pytest.mark.parametrize(
    "options",
    [{"max_clicks": -1}, {"zero_share": 1.5}, {"negative_share": -1}, {"strategy": "largest_error"}],
)
def test_impossible_prompt_sets(options: dict) -> None:
    with pytest.raises(ValueError, match=r"max_clicks|share|strategy"):
        PromptSimulator(**({"labels": (1,), "max_clicks": 2} | options))


@settings(max_examples=40)
@given(seed=seeds, n=st.integers(0, 9), strategy=st.sampled_from(["uniform", "center"]))
def test_fixed_sets_are_prefixes_of_larger_ones(seed: int, n: int, strategy: str) -> None:
    seg = volume(seed)
    simulator = PromptSimulator((1, 2, 3, 4, 9), SPACING, 4, strategy)
    short = simulator.fixed(seg, n, case_rng("a", seed))
    long = simulator.fixed(seg, 10, case_rng("a", seed))
    assert long[:n] == short
    assert len(long) == 10
    assert all(seg[voxel] == label and label in (1, 2, 3) for voxel, label in long)
    counts = [sum(k == label for _, label in long) for k in {1, 2, 3} & set(seg.ravel().tolist())]
    assert max(counts) - min(counts) <= 1


def test_fixed_sets_without_the_labels() -> None:
    assert PromptSimulator((1,)).fixed(np.zeros((3, 3, 3)), 5, case_rng("a")) == []
    with pytest.raises(ValueError, match="negative"):
        PromptSimulator((1,)).fixed(np.ones((3, 3, 3)), -1, case_rng("a"))


def test_an_extent_of_a_region_is_around_all_of_it() -> None:
    seg = np.zeros((8, 20, 24), np.int16)
    seg[2:6, 4:14, 4:9], seg[2:6, 4:14, 9:18], seg[7] = 1, 2, 9
    regions = {1: frozenset({1, 2}), 2: frozenset({2}), 3: frozenset({4})}
    simulator, rng = PromptSimulator((1, 2, 3), ignore_label=9, regions=regions), case_rng("a")
    shapes = [simulator.extent(seg, rng, ["box"]) for _ in range(40)]
    assert {shape.label for shape in shapes} == {1, 2}
    boxes = [shape for shape in shapes if shape.kind == "box"]  # others are on one slice
    assert boxes
    for shape in boxes:
        x_N = KINDS[shape.kind].inside(shape.points_N3, seg.shape)[:, 2]
        assert x_N.max() > 14
        assert (x_N.min() < 7) == (shape.label == 1)
    # a region of which only an inner one occurs
    seg[seg == 1] = 0
    assert {simulator.extent(seg, rng, ["box"]).label for _ in range(20)} == {1, 2}
    assert {label for _, label in simulator.fixed(seg, 4, rng)} == {2}, "clicks have the label of their voxel"


def test_case_generators_are_stable_over_processes_and_versions() -> None:
    assert case_rng("liver_003").integers(0, 2**31, 3).tolist() == [2114745470, 1125379425, 2123853923]
    draws = {tuple(case_rng(c, s).integers(0, 2**31, 3)) for c in ("a", "b", "tumør") for s in (0, 1)}
    assert len(draws) == 6


def test_some_negatives_look_like_the_foreground() -> None:
    """A second bright ball that is background draws far more clicks than its volume's share, and only there."""
    zyx = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"))
    target = ((zyx - 8) ** 2).sum(0) <= 16
    double = ((zyx - 24) ** 2).sum(0) <= 16
    image = np.where(target | double, 100.0, 0.0)[None] + np.random.default_rng(0).normal(0, 5, (1, 32, 32, 32))
    segmentation = target.astype(np.int16)

    def share(image: np.ndarray | None = None, lookalike: float = 0.5) -> float:
        clicks = background(segmentation, 400, 1, image, NEAR=0.0, LOOKALIKE=lookalike)
        assert (segmentation[tuple(clicks.T)] == 0).all()
        return double[tuple(clicks.T)].mean()

    volume_share = double.mean()
    assert share() < 4 * volume_share
    assert share(image=image) > 8 * volume_share
    assert share(image=image, lookalike=0.0) < 4 * volume_share
    with pytest.raises(ValueError, match="image"):
        share(image=image[:, 1:])
