"""What every kind of prompt must do, one suite for all of them: nothing changes between files, spaces and windows."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsam3d.geometry import Points
from nnsam3d.prompts import (
    Box,
    CasePrompts,
    PromptCodec,
    PromptError,
    PromptSimulator,
    VoxelPrompts,
    read_prompts,
    write_prompts,
)
from nnsam3d.prompts.channel import DECIMALS
from nnsam3d.prompts.kinds import KINDS, Shape, Window
from nnsam3d.prompts.kinds.base import Space

from .drawn import EXTENT, GRIDS, LABELS, LEARNT, SHAPE_ZYX, drawn, targets

SPACES: tuple[Space, ...] = ("voxel", "lps", "ras")
CODEC = PromptCodec(tuple(KINDS), labels=3, pitch=(0.75, 0.275, 0.175))
seeds = st.integers(0, 2**31)
every_kind = pytest.mark.parametrize("kind", KINDS)
every_extent = pytest.mark.parametrize("kind", EXTENT)
every_simulated = pytest.mark.parametrize("kind", LEARNT[1:])  # clicks: nnsam3d.prompts.simulation
every_target = pytest.mark.parametrize("name", targets())


def on_array(prompts: CasePrompts, grid_name: str = "straight") -> VoxelPrompts:
    """The shapes of a case's prompts on the image's array."""
    grid = GRIDS[grid_name]
    shapes = []
    for prompt in prompts.prompts:
        points = Points(prompt.points(prompts.space), prompts.space).to("array", grid).values_N3
        shapes.append(prompt.shape(np.round(points, DECIMALS), LABELS[prompt.label]))  # as for a prediction
    return VoxelPrompts.of((), shapes)


def one_on_array(kind: str, seed: int, label: str = "tumour") -> VoxelPrompts:
    return on_array(CasePrompts("c", "voxel", [drawn(kind, np.random.default_rng(seed), label)]))


def says(prompts: VoxelPrompts, size: Any = SHAPE_ZYX) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """All that a network hears: maps, and for each shape its clicks and the voxels of which it speaks, sorted."""
    clicks, voxels = [], []
    for shape in prompts.shapes:
        kind = KINDS[shape.kind]
        clicks.append(kind.clicks(shape.points_N3, shape.label, CODEC.pitch))
        found = kind.inside(shape.points_N3, size)
        voxels.append(found[np.lexsort(found.T)])
    return CODEC.dense(size, prompts), clicks, voxels


# ---------------------------------------------------------------------- files


@every_kind
@given(seed=seeds, space=st.sampled_from(SPACES), label=st.sampled_from(["tumour", "background", 0, 7]))
def test_a_file_holds_it_exactly(
    kind: str, seed: int, space: Space, label: int | str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("kinds") / "c.json"
    rng = np.random.default_rng(seed)
    others = [drawn(EXTENT[i], rng, label) for i in rng.integers(len(EXTENT), size=3)]
    written = CasePrompts("c", space, [drawn(kind, rng, label), *others, drawn(kind, rng, label)])
    write_prompts(path, written)
    read = read_prompts(path)
    assert read == written
    assert [prompt.describe() for prompt in read.prompts] == [prompt.describe() for prompt in written.prompts]


@every_kind
def test_its_keys_are_those_of_its_entry(kind: str) -> None:
    for seed in range(20):
        entry = drawn(kind, np.random.default_rng(seed)).entry()
        assert set(entry) <= set(KINDS[kind].keys)
        assert set(KINDS[kind].keys) - set(KINDS[kind].optional) <= set(entry)


json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from([1e308, 5e-324]),
        st.sampled_from([[1, 2, 3], [[1, 2, 3]] * 3, [[1, 2, 3], [4, 5, 6], [7, 9, 9]], "tumour", 10**400]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=12,
)  # fmt: skip


@every_kind
@settings(max_examples=150)
@given(seed=seeds, data=st.data())
def test_any_value_of_any_key_is_read_or_refused_with_words(kind: str, seed: int, data: st.DataObject) -> None:
    prompt = drawn(kind, np.random.default_rng(seed))
    values = {key: prompt.entry().get(key) for key in KINDS[kind].keys if key in prompt.entry()}
    for key in data.draw(st.sets(st.sampled_from(KINDS[kind].keys), min_size=1)):
        values[key] = data.draw(json_values)
    try:
        read = KINDS[kind].parse(values)
        shape = read.shape(read.points("voxel"), 1) if kind in EXTENT else None
    except PromptError:
        return
    assert read.describe()
    again = KINDS[kind].parse(json.loads(json.dumps(read.entry())))
    assert again == read
    if shape is not None and np.abs(shape.points_N3).max() < 1e4:
        assert all(np.isfinite(values).all() for values in says(VoxelPrompts.of((), [shape]))[:1])


@every_extent
@pytest.mark.parametrize("huge", [1e5, -1e9, 1e12, 1e155, 1.7e308, 5e-324])
def test_huge_numbers_are_refused_or_harmless(kind: str, huge: float) -> None:
    for seed, space in itertools.product(range(10), SPACES):
        entry = drawn(kind, np.random.default_rng(seed)).entry()
        for key in KINDS[kind].keys:
            value = np.array(entry.get(key, 0), dtype=object)
            if key in ("label", "joined") or value.ndim == 0:
                continue
            value.reshape(-1)[seed % value.size] = huge
            try:
                read = KINDS[kind].parse({**entry, key: value.tolist()})
                shape = read.shape(read.points(space), seed % 2)
            except PromptError:
                continue
            assert read.describe()
            low, high = KINDS[shape.kind].bounds(shape.points_N3)
            assert np.isfinite([low, high]).all()
            assert np.isfinite(says(VoxelPrompts.of((), [shape]))[0]).all()


# ---------------------------------------------------------------------- spaces


@every_extent
@pytest.mark.parametrize("grid_name", GRIDS)
@settings(max_examples=12)
@given(seed=seeds)
def test_it_is_the_same_in_every_space(kind: str, grid_name: str, seed: int) -> None:
    grid = GRIDS[grid_name]
    first = CasePrompts("c", "voxel", [drawn(kind, np.random.default_rng(seed))])
    maps, clicks, voxels = says(on_array(first, grid_name))
    chain = [first]
    for space in ("lps", "ras", "lps", "voxel"):
        chain.append(chain[-1].to(space, grid))  # type: ignore[arg-type]
        own_maps, own_clicks, own_voxels = says(on_array(chain[-1], grid_name))
        np.testing.assert_allclose(own_maps, maps, atol=10 * 10.0**-DECIMALS)
        for own, other in zip(own_clicks, clicks, strict=True):
            np.testing.assert_allclose(own, other, atol=1e-6)
        for own, other in zip(own_voxels, voxels, strict=True):
            assert len(own) == len(other)
    last = chain[-1].prompts[0]
    (before,) = first.prompts
    if kind == "box":
        corners, own = before.corners_in("voxel"), last.corners_in("voxel")
        apart = np.linalg.norm(corners[:, None] - own[None], axis=2)
        assert apart.min(axis=0).max() < 1e-6
        assert apart.min(axis=1).max() < 1e-6, "the same box, not a larger one"
        assert (last.axes is None) == (before.axes is None)  # type: ignore[attr-defined]
    else:
        np.testing.assert_allclose(last.points("voxel"), before.points("voxel"), atol=1e-6)
    assert last.label == before.label


@pytest.mark.parametrize("grid_name", GRIDS)
@pytest.mark.parametrize("size", [(4, 6, 0), (0, 6, 4), (5, 0, 0), (0, 0, 0)])
def test_a_box_without_thickness_in_mm_can_be_used(grid_name: str, size: tuple) -> None:
    grid = GRIDS[grid_name]
    middle = grid.index_to_world([(9, 8, 6)], "ras")[0]
    first = CasePrompts("c", "ras", [Box(middle - np.array(size) / 2, middle + np.array(size) / 2, "tumour")])
    maps, _, voxels = says(on_array(first, grid_name))
    assert np.isfinite(maps).all()
    assert len(voxels[0])
    back = first.to("voxel", grid).to("lps", grid).to("ras", grid).prompts[0]
    corners, own = first.prompts[0].corners_in("ras"), back.corners_in("ras")
    if grid_name.startswith("oblique") and any(size):  # parallel boxes are at least a voxel thick in voxels
        assert np.linalg.norm(corners[:, None] - own[None], axis=2).min(axis=1).max() < 5e-3


# ---------------------------------------------------------------------- windows of an array


@every_extent
@given(
    seed=seeds,
    label=st.sampled_from(["tumour", "background"]),
    start=st.tuples(*[st.one_of(st.integers(-6, 12), st.sampled_from([-200, 300]))] * 3),
    size=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_maps_of_a_window_are_the_window_of_the_maps(
    kind: str, seed: int, label: str, start: tuple, size: tuple
) -> None:
    prompts = one_on_array(kind, seed, label)
    (shape,) = prompts.shapes
    local = says(prompts.cropped(start, size), size)
    for name, values in KINDS[shape.kind].render(shape.points_N3, Window(start, size, CODEC.pitch)).items():
        expected = values if shape.label else np.zeros(size)
        np.testing.assert_allclose(local[0][CODEC.maps.index((name, 1))], expected, atol=2e-5)
    # on an array that holds both the image and the window
    before = [max(0, -low) for low in start]
    if max(*before, *start) > 50:
        return
    whole_size = tuple(
        b + max(n, low + length) for b, n, low, length in zip(before, SHAPE_ZYX, start, size, strict=True)
    )
    whole = says(prompts.shifted(before), whole_size)
    part = tuple(slice(b + low, b + low + n) for b, low, n in zip(before, start, size, strict=True))
    np.testing.assert_allclose(local[0], whole[0][(slice(None), *part)], atol=2e-5)
    inside = np.zeros(whole_size, bool)
    inside[tuple(whole[2][0].T)] = True
    assert {tuple(row) for row in local[2][0].tolist()} == {tuple(row) for row in np.argwhere(inside[part]).tolist()}
    np.testing.assert_allclose(local[1][0] + start, whole[1][0] - before, atol=1e-6)


@every_extent
@given(seed=seeds, axes=st.sets(st.integers(0, 2)))
def test_mirrored_maps_are_maps_of_the_mirrored(kind: str, seed: int, axes: set) -> None:
    prompts = one_on_array(kind, seed)
    maps, clicks, _ = says(prompts)
    flipped, flipped_clicks, _ = says(prompts.mirrored(axes, SHAPE_ZYX))
    np.testing.assert_allclose(flipped, np.flip(maps, [axis + 1 for axis in axes]), atol=2e-5)
    ends = np.array(SHAPE_ZYX) - 1
    back = [np.where([a in axes for a in range(3)], ends - own, own) for own in flipped_clicks]
    for own, other in zip(back, clicks, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-6)


@every_extent
@given(seed=seeds, order=st.permutations(range(3)))
def test_transposed_maps_are_maps_of_the_transposed(kind: str, seed: int, order: list) -> None:
    (shape,) = one_on_array(kind, seed).shapes
    rendered = KINDS[shape.kind].render(shape.points_N3, Window((0, 0, 0), SHAPE_ZYX, CODEC.pitch))
    size, pitch = (tuple(np.array(values)[order].tolist()) for values in (SHAPE_ZYX, CODEC.pitch))
    turned = KINDS[shape.kind].render(shape.points_N3[:, order], Window((0, 0, 0), size, pitch))
    assert rendered.keys() == turned.keys()
    for name, values in rendered.items():
        np.testing.assert_allclose(turned[name], values.transpose(order), atol=2e-5)


@every_extent
@given(seed=seeds)
def test_maps_are_bounded_and_every_name_is_declared(kind: str, seed: int) -> None:
    (shape,) = one_on_array(kind, seed).shapes
    rendered = KINDS[shape.kind].render(shape.points_N3, Window((0, 0, 0), SHAPE_ZYX, CODEC.pitch))
    assert set(rendered) <= set(KINDS[kind].maps)
    for values in rendered.values():
        assert values.dtype == np.float32
        assert values.shape == SHAPE_ZYX
        assert np.abs(values).max() <= 1


@every_extent
@given(seed=seeds)
def test_it_lies_within_its_bounds(kind: str, seed: int) -> None:
    (shape,) = one_on_array(kind, seed).shapes
    own = KINDS[shape.kind]
    low, high = own.bounds(shape.points_N3)
    assert (low <= high).all()
    voxels = own.inside(shape.points_N3, SHAPE_ZYX)
    assert ((voxels >= low - 0.5 - 1e-6) & (voxels <= high + 0.5 + 1e-6)).all()


@every_extent
@given(seed=seeds)
def test_on_a_coarser_array_it_still_speaks_of_a_voxel(kind: str, seed: int) -> None:
    """Nothing that was asked for is removed, because it fell between the voxels' centres."""
    prompts = on_array(CasePrompts("c", "voxel", [drawn(kind, np.random.default_rng(seed))]))
    (shape,) = prompts.shapes
    middle = np.mean(KINDS[shape.kind].bounds(shape.points_N3), axis=0)
    coarse = (shape.points_N3 - middle) / 25 + (1.3, 1.4, 1.2)
    assert len(KINDS[shape.kind].inside(coarse, (4, 4, 4)))


# ---------------------------------------------------------------------- simulation

DRAWS = 20


@every_simulated
@every_target
@pytest.mark.parametrize("spacing", [(3.0, 1.1, 0.7), (0.5, 0.5, 8.0)])
def test_simulated_prompts_mean_their_target(kind: str, name: str, spacing: tuple) -> None:
    target = targets()[name]
    codec = PromptCodec(tuple(KINDS), labels=2, pitch=(0.25, 0.25, 0.25))
    rng, hits, count = np.random.default_rng(0), 0, 0
    for _ in range(DRAWS):
        shape = KINDS[kind].simulate(target, rng, spacing)
        if shape is None:
            continue
        assert shape.label == 1
        assert np.isfinite(shape.points_N3).all()
        low, high = KINDS[shape.kind].bounds(shape.points_N3)
        where = np.argwhere(target)
        assert (high >= where.min(axis=0) - 2).all()
        assert (low <= where.max(axis=0) + 2).all(), "it touches what it means"
        voxels = KINDS[shape.kind].inside(shape.points_N3, target.shape)
        hits += int(target[tuple(voxels.T)].sum())
        count += len(voxels)
        maps = codec.dense(target.shape, VoxelPrompts.of((), [shape]))
        assert np.isfinite(maps).all()
    solid = {"a ball", "everything", "a slab at the border", "one slice"}
    if name in solid:
        assert count, "a target of this size can be drawn around"
        # of a box around a ball, less than half is the ball
        assert hits > (0.25 if kind == "box" else 0.7) * count


@every_simulated
@given(seed=seeds)
def test_targets_in_several_parts_can_be_drawn_or_are_left(kind: str, seed: int) -> None:
    """Whatever falls into the gaps between the parts, a training goes on."""
    rng = np.random.default_rng(seed)
    target = np.zeros((12, 16, 16), dtype=bool)
    for _ in range(int(rng.integers(1, 4))):
        place = tuple(slice(start, start + int(rng.integers(1, 5))) for start in rng.integers(0, 12, 3))
        target[place] = True
    for _ in range(4):
        shape = KINDS[kind].simulate(target, rng, (2.0, 1.0, 1.0))
        assert shape is None or (len(shape.points_N3) and np.isfinite(shape.points_N3).all())


@every_simulated
@every_target
def test_simulation_replays(kind: str, name: str) -> None:
    target = targets()[name]
    one, other = ([KINDS[kind].simulate(target, rng, (2.0, 1.0, 1.0)) for _ in range(5)] for rng in both(4))
    assert keys(one) == keys(other)
    if name == "a ball":
        assert len({str(key) for key in keys(one)}) > 1, "and differs from draw to draw"


def both(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    return np.random.default_rng(seed), np.random.default_rng(seed)


def keys(shapes: list[Shape | None]) -> list[Any]:
    return [VoxelPrompts.of((), [shape] if shape else []).key() for shape in shapes]


@pytest.mark.parametrize("name", targets())
def test_the_simulator_draws_around_labels_that_occur(name: str) -> None:
    segmentation = np.where(targets()[name], 2, 0)
    segmentation[0, 0, 5] = 9  # to be ignored
    simulator = PromptSimulator((1, 2), ignore_label=9, kinds=tuple(KINDS), extent_share=1.0)
    kinds = set()
    first, again = ([simulator.extent(segmentation, rng, LEARNT[1:]) for _ in range(30)] for rng in both(1))
    for one, other in zip(first, again, strict=True):
        assert keys([one]) == keys([other])
        if one is not None:
            assert one.label == 2
            kinds.add(one.kind)
            kind = KINDS[one.kind]
            assert len(kind.clicks(one.points_N3, one.label, CODEC.pitch)) <= kind.most_clicks
    assert kinds, "something can be drawn around every target"
    assert simulator.extent(np.zeros(SHAPE_ZYX), np.random.default_rng(0), LEARNT[1:]) is None
