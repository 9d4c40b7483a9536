"""The error click of the training step, held against next_click, which defines it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from nnsam3d.prompts import next_click
from nnsam3d.training import error_click
from nnsam3d.training.error_click import error_clicks

SPACING = (3.0, 1.0, 0.7)
CLICKABLE, IGNORED = [1, 2], 9
seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 16), st.integers(1, 14))
Shape = tuple[int, int, int]
Clicks = tuple[Tensor, Tensor]


@pytest.fixture(params=["cpu", "accelerator"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as on the CPU and once, on the CPU, with the operations that an accelerator gets."""
    if request.param == "accelerator":
        as_on_accelerator(monkeypatch)


def as_on_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    clicks: Callable[..., Clicks] = error_click._clicks
    monkeypatch.setattr(error_click, "_clicks", lambda *args: clicks(*args[:-1], False))


def volume(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Boxes of all labels; or noise, whose pieces are many, small and ragged."""
    if rng.random() < 0.3:
        return rng.choice([0, 1, 2, 9], shape, p=rng.dirichlet([1, 1, 1, 1])).astype(np.int16)
    labels = np.zeros(shape, np.int16)
    for value in (1, 2, 9, 1, 2):
        low = rng.integers(0, shape)
        labels[tuple(slice(a, a + s) for a, s in zip(low, rng.integers(1, 8, 3), strict=True))] = value
    return labels


def pair(seed: int, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction, which is sometimes right nearly everywhere."""
    rng = np.random.default_rng(seed)
    truth, prediction = volume(rng, shape), volume(rng, shape)
    return truth, np.where(rng.random(shape) < rng.choice([0, 0.9]), truth, prediction)


def pieces(truth: np.ndarray, prediction: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """(truth value, mask) of every error."""
    found = []
    for value in (0, *CLICKABLE):
        numbers, count = ndimage.label((truth == value) & (prediction != value), np.ones((3, 3, 3)))
        found += [(value, numbers == number) for number in range(1, count + 1)]
    return found


def click(truth: np.ndarray, prediction: np.ndarray, clicked: list[Shape] | None = None) -> tuple[Shape, int] | None:
    """As next_click gives it, from a batch of one with some padding."""
    count = len(clicked or ())
    positions, labels = torch.full((1, count + 2, 3), 2.0), torch.full((1, count + 2), -1)
    if clicked:
        positions[0, :count], labels[0, :count] = torch.tensor(clicked), 1
    return listed(batch_click(truth[None], prediction[None], positions, labels))[0]


def batch_click(truths: np.ndarray, predictions: np.ndarray, positions: Tensor, labels: Tensor) -> Clicks:
    maps = torch.from_numpy(truths), torch.from_numpy(predictions)
    return error_clicks(*maps, positions, labels, SPACING, labels=CLICKABLE, ignore_label=IGNORED)


def listed(clicks: Clicks) -> list[tuple[Shape, int] | None]:
    assert not clicks[0][clicks[1] < 0].any()
    rows = zip(clicks[0].int().tolist(), clicks[1].tolist(), strict=True)
    return [((z, y, x), label) if label >= 0 else None for (z, y, x), label in rows]


def no_clicks(batch: int) -> Clicks:
    return torch.zeros(batch, 0, 3), torch.zeros(batch, 0, dtype=torch.int64)


def depth(mask: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(np.pad(mask, 1), sampling=SPACING)[1:-1, 1:-1, 1:-1]


@settings(max_examples=200)
@given(seed=seeds, shape=shapes)
def test_a_click_agrees_with_the_definition(seed: int, shape: Shape) -> None:
    truth, prediction = pair(seed, shape)
    errors = pieces(truth, prediction)
    with pytest.MonkeyPatch.context() as monkeypatch:  # on a CPU, it is the definition
        as_on_accelerator(monkeypatch)
        found = click(truth, prediction)
    expected = next_click(truth, prediction, SPACING, labels=CLICKABLE, ignore_label=IGNORED)
    if found is None or expected is None:
        assert found is expected is None
        assert not errors
        return
    voxel, label = found
    assert truth[voxel] == label != prediction[voxel]
    (mine,) = [mask for value, mask in errors if value == label and mask[voxel]]
    volumes = sorted(mask.sum() for _, mask in errors)
    assert mine.sum() == volumes[-1]
    assert depth(mine)[voxel] == pytest.approx(depth(mine).max())
    if volumes[-1:] != volumes[-2:-1]:
        assert mine[expected[0]]
        mean = np.argwhere(mine).mean(0)
        mine_mm, its_mm = (np.linalg.norm((v - mean) * SPACING) for v in (voxel, expected[0]))
        assert mine_mm == pytest.approx(its_mm, rel=1e-4, abs=1e-2)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("seed", range(6))
def test_following_the_clicks_never_repeats_and_ends(seed: int) -> None:
    """The next piece by volume follows once all of one is clicked, as in next_click."""
    truth, prediction = pair(seed, (3, 5, 4))
    errors = pieces(truth, prediction)
    clicked: list[Shape] = []
    while found := click(truth, prediction, clicked):
        left = [mask for _, mask in errors if any(mask[voxel] for voxel in set(all_voxels(mask)) - set(clicked))]
        mine = [mask for mask in left if mask[found[0]]]
        assert mine[0].sum() == max(mask.sum() for mask in left)
        clicked.append(found[0])
    assert sorted(clicked) == sorted(voxel for _, mask in errors for voxel in all_voxels(mask))


def all_voxels(mask: np.ndarray) -> list[Shape]:
    return [(z, y, x) for z, y, x in np.argwhere(mask).tolist()]


@settings(max_examples=60)
@given(seed=seeds, shape=shapes)
def test_both_ways_give_the_same(seed: int, shape: Shape) -> None:
    truths, predictions = (np.stack(maps) for maps in zip(*[pair(seed + i, shape) for i in range(3)], strict=True))
    positions = torch.from_numpy(np.random.default_rng(seed).integers(0, shape, (3, 7, 3))).float()
    labels = torch.tensor([[1] * 7, [0] * 4 + [-1] * 3, [-1] * 7])
    here = listed(batch_click(truths, predictions, positions, labels))
    with pytest.MonkeyPatch.context() as monkeypatch:
        as_on_accelerator(monkeypatch)
        assert listed(batch_click(truths, predictions, positions, labels)) == here


@pytest.mark.usefixtures("way")
def test_batch_items_do_not_touch_each_other() -> None:
    pairs = [pair(seed, (6, 11, 9)) for seed in range(8)]
    truths, predictions = (np.stack(maps) for maps in zip(*pairs, strict=True))
    together = listed(batch_click(truths, predictions, *no_clicks(8)))
    assert together == [click(truth, prediction) for truth, prediction in pairs]


@pytest.mark.usefixtures("way")
def test_nothing_to_click() -> None:
    truth = volume(np.random.default_rng(3), (5, 9, 9))
    assert click(truth, truth) is None
    assert click(np.full_like(truth, 9), truth) is None
    assert click(np.full_like(truth, 7), truth) is None
    one = truth.copy()
    one[2, 3, 4] = 1 - one[2, 3, 4]
    assert click(truth, one) == ((2, 3, 4), truth[2, 3, 4])
    assert click(truth, one, [(2, 3, 4)]) is None
    both = batch_click(np.stack([truth, truth]), np.stack([truth, one]), *no_clicks(2))
    assert listed(both) == [None, ((2, 3, 4), truth[2, 3, 4])]


@pytest.mark.usefixtures("way")
def test_no_value_may_be_clicked() -> None:
    truth, clicks = torch.zeros(2, 4, 4, 4, dtype=torch.int64), no_clicks(2)
    assert listed(error_clicks(truth, truth + 1, *clicks, SPACING, labels=[0], ignore_label=0)) == [None, None]


@pytest.mark.usefixtures("way")
def test_padding_and_places_outside_count_for_nothing() -> None:
    truth, prediction = np.ones((1, 1, 1, 3), np.int16), np.zeros((1, 1, 1, 3), np.int16)
    positions = torch.tensor([[[0, 0, 1], [torch.nan] * 3, [-1, 0, 1], [0, 0, 3]]])
    found = [batch_click(truth, prediction, positions, torch.tensor([[k, -1, 1, 1]])) for k in (-1, 0)]
    assert listed(found[0]) == [((0, 0, 1), 1)]
    assert listed(found[1]) in [[((0, 0, 0), 1)], [((0, 0, 2), 1)]]


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
def test_dtypes(dtype: torch.dtype) -> None:
    truth = torch.ones(1, 3, 3, 3, dtype=dtype)
    clicks = torch.zeros(1, 2, 3, dtype=torch.float16), torch.full((1, 2), -1, dtype=torch.int32)
    positions, labels = error_clicks(truth, truth * 0, *clicks, SPACING, labels=[1])
    assert (positions.dtype, labels.dtype) == (torch.float16, torch.int32)
    assert (positions.tolist(), labels.tolist()) == ([[1, 1, 1]], [1])


def serpent(shape: Shape) -> np.ndarray:
    """One long thin piece: the slowest to number."""
    path = np.zeros(shape, np.int16)
    path[::4, ::4] = 1
    for z in range(0, shape[0], 4):
        for turn, y in enumerate(range(0, shape[1] - 4, 4)):
            path[z, y : y + 5, 0 if turn % 2 else -1] = 1
        path[z : z + 5, -4 if z % 8 else 0, 0] = 1
    return path


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("density", [None, 0.097])
def test_rounds_suffice_for_long_pieces(density: float | None) -> None:
    """A serpent, and noise at the density where pieces begin to span the volume."""
    rng = np.random.default_rng(0)
    truth = serpent((96, 96, 96)) if density is None else (rng.random((96, 96, 96)) < density).astype(np.int16)
    found, expected = click(truth, truth * 0), next_click(truth, truth * 0, SPACING, labels=CLICKABLE)
    assert found is not None
    assert expected is not None
    numbers, _ = ndimage.label(truth, np.ones((3, 3, 3)))
    assert numbers[found[0]] == numbers[expected[0]] > 0


def test_no_operation_waits_for_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta tensors have no values: reading one, or a shape that depends on one, is an error."""
    maps = [torch.zeros(2, 9, 12, 11, dtype=torch.int16, device="meta") for _ in range(2)]
    clicks = torch.zeros(2, 4, 3, device="meta"), torch.zeros(2, 4, dtype=torch.int64, device="meta")
    # Copies of Python's numbers to the device would wait as well.
    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.delattr(torch, name)
    positions, labels = error_clicks(*maps, *clicks, SPACING, labels=CLICKABLE, ignore_label=IGNORED)
    assert (positions.shape, labels.shape, labels.device.type) == ((2, 3), (2,), "meta")


def test_gradients_are_left_alone() -> None:
    truth = torch.ones(1, 3, 3, 3, dtype=torch.int64)
    positions = torch.zeros(1, 1, 3, requires_grad=True)
    found, _ = error_clicks(truth, truth * 0, positions, torch.tensor([[-1]]), SPACING, labels=[1])
    assert not found.requires_grad
