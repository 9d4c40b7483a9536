"""The demo's parts: prompts, tables, verdicts, pictures. The demo itself is run by CI as `make demo`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnsam3d.demo import run as demo
from nnsam3d.demo.overlay import Panel, Strip, write_overlay
from nnsam3d.demo.phantom import PhantomCase, make_bridged_case, make_case
from nnsam3d.demo.tables import (
    CorrectionScores,
    correction_table,
    correction_works,
    measure_correction,
)
from nnsam3d.errors import UserError
from nnsam3d.geometry import ImageGrid
from nnsam3d.prompts import read_prompts
from nnsam3d.prompts.components import dice_of

WORKED = CorrectionScores(dice=(0.65, 0.88), taken=(0.95, 0.05), background=5, missed=0, cases=5)


@pytest.fixture(scope="module")
def case() -> PhantomCase:
    return make_case(np.random.default_rng(4))


@pytest.fixture(scope="module")
def bridged() -> PhantomCase:
    return make_bridged_case(np.random.default_rng(4))


def test_each_arm_clicks_what_it_says(tmp_path: Path, case: PhantomCase) -> None:
    grid = ImageGrid.from_sitk(case.image)
    for arm in demo.SCENARIOS:
        demo.write_arm_prompts(tmp_path, arm, {"test": case})
        file = tmp_path / "prompts" / arm.name / "test.json"
        if arm.name == "no_click":
            assert not file.exists()
            continue
        prompts = read_prompts(file, image=grid, labels={"background": 0, "lesion": 1})
        voxels = np.rint(prompts.points.to("array", grid).values_N3).astype(int)
        assert sum(case.target_DHW[tuple(v)] for v in voxels) == arm.target
        assert sum(click.label == "background" for click in prompts.clicks) == arm.negative
        assert len(prompts.clicks) == arm.target + arm.lookalike + arm.negative
        rest = [v for v in voxels if not case.target_DHW[tuple(v)]]
        assert all(case.lookalike_DHW[tuple(v)] for v in rest)


def test_table_and_verdict(case: PhantomCase) -> None:
    tests = {"test": case}
    perfect = {
        "no_click": case.target_DHW | case.lookalike_DHW,
        "one_click": case.target_DHW,
        "lookalike_click": case.lookalike_DHW,
        "three_clicks": case.target_DHW,
    }
    scores = demo.mean_dice(tests, {name: {"test": mask} for name, mask in perfect.items()})
    assert scores["one_click"] == (1.0, 0.0)
    assert scores["lookalike_click"] == (0.0, 1.0)
    assert "1 click on the target" in demo.dice_table({arm.name: arm.title for arm in demo.SCENARIOS}, scores, 1)
    assert demo.clicks_decide(scores)
    blind = demo.mean_dice(tests, {name: {"test": perfect["no_click"]} for name in perfect})
    assert not demo.clicks_decide(blind), "a network that ignores its clicks does not pass"


def test_dice_of_empty_masks() -> None:
    nothing, something = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    assert dice_of(nothing, nothing) == 1.0
    assert dice_of(nothing, something) == 0.0


def test_the_second_click_lies_on_what_is_too_much(tmp_path: Path, bridged: PhantomCase) -> None:
    cases = {"bridged_000": bridged}
    first = demo.first_clicks(cases)
    ((position, label),) = first["bridged_000"]
    assert bridged.target_DHW[tuple(position)]
    assert label == 1
    too_much = bridged.target_DHW | bridged.lookalike_DHW
    both = demo.with_error_clicks(cases, {"bridged_000": too_much}, first)
    assert len(both["bridged_000"]) == 2
    position, label = both["bridged_000"][1]
    assert bridged.lookalike_DHW[tuple(position)]
    assert label == 0
    missed = demo.with_error_clicks(cases, {"bridged_000": np.zeros_like(too_much)}, first)
    assert missed["bridged_000"][1][1] == 1
    assert demo.with_error_clicks(cases, {"bridged_000": bridged.target_DHW}, first) == first


def test_correction_is_measured_against_target_and_neighbour(bridged: PhantomCase) -> None:
    before, after = {"a": bridged.target_DHW | bridged.lookalike_DHW}, {"a": bridged.target_DHW}
    found = measure_correction({"a": bridged}, before, after, {"a": 0})
    assert found.taken == (1.0, 0.0)
    assert found.dice[0] < 0.9
    assert found.dice[1] == 1.0
    assert (found.background, found.missed, found.cases) == (1, 0, 1)
    assert correction_works(found)
    assert not correction_works(measure_correction({"a": bridged}, before, before, {"a": 0}))


@pytest.mark.parametrize(
    "failed",
    [
        {"taken": (0.02, 0.0), "dice": (0.88, 0.88)},  # the first click took nothing too much: nothing is shown
        {"taken": (0.95, 0.60)},  # most of it is still there
        {"dice": (0.65, 0.30)},  # the target went with it
        {"dice": (0.65, 0.66)},
    ],
)
def test_a_correction_that_does_not_correct_fails(failed: dict[str, tuple[float, float]]) -> None:
    assert correction_works(WORKED)
    assert not correction_works(replace(WORKED, **failed))


def test_the_table_says_when_nothing_was_too_much() -> None:
    assert "largest error" not in correction_table(WORKED)
    text = correction_table(replace(WORKED, background=3, missed=1))
    assert "'background' in 3 of 5 cases, 'lesion' in 1" in text
    assert "none in 1" in text
    assert "largest error" in text


@pytest.mark.parametrize("decided", [True, False])
@pytest.mark.parametrize("corrected", [True, False])
def test_both_questions_decide_the_exit_status(
    decided: bool, corrected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert demo._verdict(decided, corrected) == (0 if decided and corrected else 1)
    assert ("moving the click did NOT" in caplog.text) != decided
    assert ("second click did NOT correct" in caplog.text) != corrected


def test_overlays_are_pictures(tmp_path: Path, case: PhantomCase, bridged: PhantomCase) -> None:
    panels = [Panel("no click", case.target_DHW, []), Panel("a click", ~case.target_DHW, [(np.array([9, 9, 9]), 0)])]
    strips = [Strip("test_000", case, panels), Strip("correction_000", bridged, panels[:1])]
    for rows in ([strips[:1]], [strips], [strips[:1], strips[1:]]):
        write_overlay(tmp_path / "a.png", rows)
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not empty"):
            demo.run_demo(tmp_path, overwrite, epochs=1)
    assert (tmp_path / "thesis.tex").exists()
