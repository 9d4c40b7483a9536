"""Windows around clicks: with a stand-in network that answers a click with exactly the object it lies in."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.inference.region import segment_clicked
from nnsam3d.prompts import VoxelPrompts

SIZE = (16, 24, 24)
BACKGROUND = np.array([10, -10, -10], np.float32)
Triple = tuple[int, int, int]


def is_label(logits: NDArray[np.float32], label: int) -> NDArray[np.bool_]:
    return np.asarray(logits.argmax(0) == label)


class PerfectWindows:
    """In a window it finds the parts of the truth's components in which it is clicked, and nothing else."""

    def __init__(self, truth: NDArray[np.int64]) -> None:
        self.truth = truth
        self.size = SIZE
        d, h, w = truth.shape
        self.shape: Triple = (d, h, w)
        self.offset = self.padding = (0, 0, 0)
        self.clicks_seen: list[int] = []

    def logits(self, start: Triple, prompts: VoxelPrompts) -> NDArray[np.float32]:
        part = self.truth[tuple(slice(a, a + n) for a, n in zip(start, self.size, strict=True))]
        local = prompts.cropped(start, self.size)
        self.clicks_seen.append(len(local))
        found = np.zeros(part.shape, int)
        for place, label in zip(local.voxels_N3, local.labels_N, strict=True):
            components, _ = ndimage.label(part == label, np.ones((3, 3, 3)))
            if components[tuple(place)]:
                found[components == components[tuple(place)]] = label
        return np.where(np.arange(3)[:, None, None, None] == found, 10, -10).astype(np.float32)


def segment(
    truth: NDArray[np.int64], clicks: list[tuple[Triple, int]]
) -> tuple[NDArray[np.int64], PerfectWindows, int]:
    windows = PerfectWindows(truth)
    regions = segment_clicked(windows, VoxelPrompts.of(clicks), is_label, BACKGROUND)  # type: ignore[arg-type]
    result = np.zeros(truth.shape, np.int64)
    looked_at = np.zeros(truth.shape, bool)
    for region in regions:
        found = region.logits_KDHW.argmax(0)
        place = tuple(slice(a, a + n) for a, n in zip(region.start, found.shape, strict=True))
        assert not looked_at[tuple(slice(max(0, side.start - 1), side.stop + 1) for side in place)].any(), "they touch"
        looked_at[place] = True
        result[place] = found
    return result, windows, sum(len(region.windows) for region in regions)


def test_one_window_for_a_small_object_and_nothing_far_away() -> None:
    truth = np.zeros((60, 90, 90), int)
    truth[20:26, 30:38, 30:38] = 1
    truth[50:54, 80:84, 80:84] = 1  # not clicked
    result, _, count = segment(truth, [((23, 34, 34), 1)])
    assert count == 1
    np.testing.assert_array_equal(result, np.where(np.arange(60)[:, None, None] < 40, truth, 0))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nothing_of_a_tumour_of_three_windows_is_lost(axis: int) -> None:
    shape = [40, 60, 60]
    shape[axis] = 5 * SIZE[axis]
    truth = np.zeros(shape, int)
    box = [slice(n // 2 - 4, n // 2 + 4) for n in shape]
    box[axis] = slice(SIZE[axis], 4 * SIZE[axis])
    truth[tuple(box)] = 1
    click = [n // 2 for n in shape]
    click[axis] = SIZE[axis] + 3
    result, windows, count = segment(truth, [((click[0], click[1], click[2]), 1)])
    np.testing.assert_array_equal(result, truth)
    assert 4 <= count <= 8
    assert min(windows.clicks_seen) >= 1  # every further window was told what is known


def test_a_bent_tumour_that_fills_windows() -> None:
    truth = np.zeros((60, 100, 100), int)
    truth[20:44, 20:50, 20:90] = 2
    truth[20:44, 20:90, 60:90] = 2
    result, _, _ = segment(truth, [((30, 30, 30), 2)])
    np.testing.assert_array_equal(result, truth)


def test_distant_clicks_and_several_labels() -> None:
    truth = np.zeros((60, 90, 90), int)
    truth[5:11, 5:13, 5:13] = 1
    truth[50:56, 80:88, 80:88] = 2
    result, windows, count = segment(truth, [((8, 9, 9), 1), ((52, 84, 84), 2), ((10, 12, 12), 1), ((30, 40, 40), 0)])
    np.testing.assert_array_equal(result, truth)
    assert count == 2
    assert sum(windows.clicks_seen) == 3  # the negative one is in no window


def test_a_tumour_in_its_organ_does_not_make_the_organ_grow() -> None:
    truth = np.zeros((40, 80, 80), int)
    truth[5:35, 5:75, 5:75] = 2
    truth[18:22, 36:44, 36:44] = 1
    _, _, count = segment(truth, [((20, 40, 40), 1)])
    assert count == 1
    result, _, count = segment(truth, [((20, 40, 40), 1), ((20, 20, 20), 2)])
    np.testing.assert_array_equal(result[truth == 2], 2)
    assert count > 10


def test_clicks_at_opposite_ends_make_two_small_regions() -> None:
    """Memory grows with what is looked at: an image of which no array could be made."""
    truth = np.broadcast_to(np.zeros(1, int), (10**5, 10**5, 10**5))
    clicks = VoxelPrompts.of([((100, 100, 100), 1), ((99_000, 99_000, 99_000), 2), ((99_003, 99_000, 99_000), 2)])
    windows = PerfectWindows(truth)
    regions = segment_clicked(windows, clicks, is_label, BACKGROUND)  # type: ignore[arg-type]
    assert [region.logits_KDHW.shape[1:] for region in regions] == [SIZE, SIZE]


@pytest.mark.parametrize("gap", [0, 3])
def test_regions_that_grow_together_are_one(gap: int) -> None:
    """Two ends of one tumour, or of two of different labels, clicked far from each other."""
    truth = np.zeros((20, 40, 300), int)
    truth[6:14, 10:30, 20:150] = 1
    truth[6:14, 10:30, 150 + gap : 280] = 2 if gap else 1
    result, _, _ = segment(truth, [((10, 20, 25), 1), ((10, 20, 275), 2 if gap else 1)])
    np.testing.assert_array_equal(result, truth)


def test_without_positive_clicks_there_is_no_region() -> None:
    windows = PerfectWindows(np.zeros((20, 30, 30), int))
    for clicks in ([], [((3, 3, 3), 0)]):
        found = segment_clicked(windows, VoxelPrompts.of(clicks), is_label, BACKGROUND)  # type: ignore[arg-type]
        assert not found
        assert not windows.clicks_seen


@pytest.mark.parametrize("seed", range(6))
def test_any_object_is_found_whole(seed: int) -> None:
    """Random blobs, clicked once each somewhere inside: all of them, however large, and the search ends.

    The stand-in denies every part that looks separate in its window and was not clicked there.
    """
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(40, 64, 64)), 5)
    truth = (noise > 0.5 * noise.max()).astype(int)
    components, count = ndimage.label(truth, np.ones((3, 3, 3)))
    clicks: list[tuple[Triple, int]] = []
    for number in range(1, count + 1):
        voxels = np.argwhere(components == number)
        z, y, x = voxels[rng.integers(len(voxels))].tolist()
        clicks.append(((z, y, x), 1))
    result, _, _ = segment(truth, clicks)
    np.testing.assert_array_equal(result, truth)


def test_a_window_that_denied_its_neighbours_lesion_is_asked_again() -> None:
    """Two lesions side by side: the window around the first one's click knows nothing of the second one's."""
    truth = np.zeros((16, 24, 60), int)
    truth[4:12, 8:16, 4:12] = 1
    truth[4:12, 8:16, 14:34] = 1
    result, windows, count = segment(truth, [((8, 12, 8), 1), ((8, 12, 30), 1)])
    np.testing.assert_array_equal(result, truth)
    assert count == 3
    assert windows.clicks_seen[:2] == [1, 1]
    assert windows.clicks_seen[-1] == 2


def test_the_order_of_distant_clicks_changes_nothing() -> None:
    truth = np.zeros((40, 60, 60), int)
    truth[2:8, 2:8, 2:8] = 1
    truth[30:36, 50:56, 50:56] = 2
    clicks = [((4, 4, 4), 1), ((33, 53, 53), 2)]
    np.testing.assert_array_equal(segment(truth, clicks)[0], segment(truth, clicks[::-1])[0])


class Recording(PerfectWindows):
    """Also keeps the clicks that each window was given."""

    def __init__(self, truth: NDArray[np.int64]) -> None:
        super().__init__(truth)
        self.given: list[tuple[Triple, list[tuple[Triple, int]]]] = []

    def logits(self, start: Triple, prompts: VoxelPrompts) -> NDArray[np.float32]:
        self.given.append((start, prompts.clicks()))
        return super().logits(start, prompts)


@pytest.mark.parametrize(
    "spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 0.7), (5.0, 1.0, 1.0), (1.0, 4.0, 1.0), (3.0, 0.5, 2.0)]
)
@pytest.mark.parametrize("seed", range(3))
def test_an_implied_click_is_on_the_deepest_voxel_in_mm(spacing: tuple[float, float, float], seed: int) -> None:
    """A long blob of several windows: all windows but the first get a click that nobody made."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((16, 24, 120), int)
    noise = ndimage.gaussian_filter(rng.normal(size=truth.shape), 2)
    truth[2:14, 3:21, 6:114] = (noise / noise.std() > -1)[2:14, 3:21, 6:114]
    truth[7:9, 11:13, 6:114] = 1  # in one piece
    windows = Recording(truth)
    clicks = VoxelPrompts.of([((8, 12, 10), 1)])
    segment_clicked(windows, clicks, is_label, BACKGROUND, spacing)  # type: ignore[arg-type]
    implied = []
    for start, given in windows.given:
        box = tuple(slice(a, a + n) for a, n in zip(start, SIZE, strict=True))
        for voxel, _ in given:
            if voxel != (8, 12, 10):
                implied.append((start, box, voxel))
    assert implied
    start, box, voxel = implied[0]
    known = np.zeros(truth.shape, int)
    first = windows.given[0][0]
    seen = tuple(slice(a, a + n) for a, n in zip(first, SIZE, strict=True))
    known[seen] = truth[seen]
    high = first[2] + SIZE[2]  # of what is known
    part = known[box][:, :, : high - start[2]] > 0
    numbers, _ = ndimage.label(part, np.ones((3, 3, 3)))
    local = tuple(np.subtract(voxel, start))
    own = numbers == numbers[local]
    depth = ndimage.distance_transform_edt(np.pad(own, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    assert depth[local] == pytest.approx(depth.max())


def test_equal_spacing_changes_no_implied_click() -> None:
    """Which of several equally deep voxels it is must not depend on rounding in mm."""
    truth = np.zeros((16, 24, 120), int)
    truth[1:15, 2:22, 6:114] = 1
    given = []
    for spacing in ((1.0, 1.0, 1.0), (0.7, 0.7, 0.7), (1 / 3, 1 / 3, 1 / 3)):
        windows = Recording(truth)
        clicks = VoxelPrompts.of([((8, 12, 10), 1)])
        segment_clicked(windows, clicks, is_label, BACKGROUND, spacing)  # type: ignore[arg-type]
        given.append(windows.given)
    assert given[0] == given[1] == given[2]
    assert len(given[0]) > 1
