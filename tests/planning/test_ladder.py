"""The planner's rule, with a rough estimate in place of the measured one; the measured one at the end."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nnsam3d.errors import UserError
from nnsam3d.network import PRESETS, SAM3D
from nnsam3d.network.cost import on_shapes
from nnsam3d.planning.facts import DatasetFacts, shipped_facts
from nnsam3d.planning.ladder import (
    FROM_GB,
    LONGEST,
    SIZES,
    choose,
    full_batch,
    full_grid,
    grids,
    ladder,
    max_clicks,
    rung_config,
)
from nnsam3d.planning.memory import estimate_gb
from nnsam3d.training.plans import token_stride, window_edge

BUDGETS = (8.0, 12.0, 16.0, 24.0, 40.0, 80.0)
RANK = {name: rank for rank, name in enumerate(PRESETS)}


def make_facts(spacing=(1.0, 1.0, 1.0), shape=(150, 200, 200), **overrides) -> DatasetFacts:
    values = {"name": "made", "cases": 100, "channels": 1, "heads": 2, "click_labels": 2} | overrides
    return DatasetFacts(spacing_DHW=spacing, shape_DHW=shape, **values)


FACTS = st.builds(
    make_facts,
    spacing=st.tuples(st.floats(0.5, 8.0), st.floats(0.4, 4.0), st.floats(0.4, 4.0)),
    shape=st.tuples(st.integers(4, 600), st.integers(16, 600), st.integers(16, 600)),
    cases=st.integers(1, 2000),
)


def amounts(choice) -> tuple[int, int, int]:
    return RANK[choice.preset], math.prod(choice.config.patch_size), choice.batch


@given(FACTS)
def test_no_rung_has_less_of_anything_than_the_one_below(facts: DatasetFacts) -> None:
    rungs = ladder(facts)
    for low, high in pairwise(rungs):
        assert RANK[low.preset] <= RANK[high.preset]
        assert all(a <= b for a, b in zip(low.grid_DHW, high.grid_DHW, strict=True))
        assert low.batch <= high.batch
        assert low != high


@given(FACTS)
def test_patches_suit_the_images(facts: DatasetFacts) -> None:
    stride = token_stride(facts.spacing_DHW)
    for axis, tokens in enumerate(full_grid(facts)):
        size = tokens * stride[axis]
        if tokens < LONGEST:
            assert size >= facts.shape_DHW[axis], "the whole image"
            assert SIZES[0] == tokens or SIZES[SIZES.index(tokens) - 1] * stride[axis] < facts.shape_DHW[axis]
    for grid in grids(facts):
        assert all(tokens % window_edge(tokens) == 0 for tokens in grid), "whole attention windows"
    assert full_batch(facts) >= 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(FACTS, st.lists(st.floats(3.0, 100.0), min_size=2, max_size=5))
def test_more_memory_never_gives_less(quick_estimate, facts: DatasetFacts, budgets: list[float]) -> None:
    found = [choose(facts, budget) for budget in sorted(budgets)]
    for low, high in pairwise(found):
        assert all(a <= b for a, b in zip(amounts(low), amounts(high), strict=True))
    for choice in found:
        assert choice.estimate_gb <= choice.budget_gb + 0.005
        assert FROM_GB[choice.preset] <= choice.budget_gb


def test_recomputation_only_as_far_as_needed(quick_estimate) -> None:
    modes = [choose(make_facts(), budget).config.checkpointing for budget in (8.0, 39.0)]
    assert modes == ["blocks", "none"]
    assert "cheap" in {choose(make_facts(), budget).config.checkpointing for budget in range(8, 39)}


def test_the_paper_s_patch_is_the_full_one() -> None:
    assert full_grid(make_facts()) == (32, 32, 32)
    assert full_grid(make_facts(spacing=(3.3, 1.0, 1.0), shape=(59, 148, 150))) == (32, 32, 32)
    assert full_grid(make_facts(shape=(36, 50, 35))) == (10, 14, 10)


def test_small_images_get_a_larger_batch_that_the_dataset_warrants() -> None:
    assert full_batch(make_facts()) == 2
    assert full_batch(make_facts(shape=(36, 50, 35), cases=260)) == 9
    assert full_batch(make_facts(shape=(36, 50, 35), cases=60)) == 2


def test_click_slots_for_every_label() -> None:
    assert [max_clicks(make_facts(click_labels=labels)) for labels in (2, 4, 30)] == [8, 12, 16]


@pytest.mark.parametrize("budget", [0.0, -8.0, math.nan, math.inf])
def test_a_budget_is_a_positive_number(budget: float) -> None:
    with pytest.raises(UserError, match="must be a positive number"):
        choose(make_facts(), budget)


def test_an_impossible_budget_is_told_what_would_do(quick_estimate) -> None:
    with pytest.raises(UserError, match=r"0\.3 GB is too small.*use -gpu_memory_target (\S+) or more") as error:
        choose(make_facts(), 0.3)
    enough = float(str(error.value).split("-gpu_memory_target ")[1].split()[0])
    assert choose(make_facts(), enough).preset == "tiny"


def test_a_single_slice_names_the_way_out() -> None:
    with pytest.raises(UserError, match=r"single slice.*nnU-Net's own planner"):
        make_facts(shape=(1, 512, 512))


# ---- measured ----


def test_the_paper_s_network_with_two_patches_fits_small_cards() -> None:
    """The issue asks for 12 GB; the paper's own implementation takes 35 GB for one patch."""
    facts = make_facts()
    (rung,) = [one for one in ladder(facts) if one.preset == "vit_b" and one.grid_DHW == (32, 32, 32)]
    config = rung_config(facts, rung, "blocks")
    assert (config.patch_size, rung.batch) == ((128, 128, 128), 2)
    assert estimate_gb(config, rung.batch, half=True) < 8.0


@pytest.mark.slow
@pytest.mark.parametrize("facts", shipped_facts(), ids=lambda facts: facts.name)
def test_every_shipped_dataset_and_budget(facts: DatasetFacts) -> None:
    """The estimate runs a training step of the chosen network on shapes; the network builds as planned."""
    found = [choose(facts, budget) for budget in BUDGETS]
    for low, high in pairwise(found):
        assert all(a <= b for a, b in zip(amounts(low), amounts(high), strict=True))
    for choice in found:
        assert choice.estimate_gb <= choice.budget_gb
        with on_shapes(lambda choice=choice: SAM3D(choice.config)) as net:
            assert net.config.token_grid == choice.config.token_grid
