"""The demo's parts: phantoms, prompts, table, pictures. The demo itself is run by CI as `make demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.evaluation import demo
from nnsam3d.evaluation.overlay import Panel, write_overlay
from nnsam3d.evaluation.phantom import DATASET_NAME, PhantomCase, make_case, write_dataset
from nnsam3d.geometry import ImageGrid, xyz_to_zyx
from nnsam3d.prompts import clicks_to_index, read_prompts


@pytest.fixture(scope="module")
def case() -> PhantomCase:
    return make_case(np.random.default_rng(4))


def test_two_lesions_that_only_a_click_can_tell_apart(case: PhantomCase) -> None:
    image = sitk.GetArrayFromImage(case.image)
    assert not (case.target_DHW & case.lookalike_DHW).any()
    assert abs(image[case.target_DHW].mean() - image[case.lookalike_DHW].mean()) < 15
    assert not np.allclose(np.abs(np.reshape(case.image.GetDirection(), (3, 3))), np.eye(3)), "oblique"
    assert len(set(case.image.GetSpacing())) == 2, "anisotropic"


def test_the_same_seed_gives_the_same_set(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_dataset(tmp_path / name, num_training=1, num_test=1, seed=7)
    files = [sorted((tmp_path / name / DATASET_NAME).rglob("*.nii.gz")) for name in ("a", "b")]
    assert len(files[0]) == 3
    for first, second in zip(*files, strict=True):
        np.testing.assert_array_equal(*(sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (first, second)))


def test_each_arm_clicks_what_it_says(tmp_path: Path, case: PhantomCase) -> None:
    grid = ImageGrid.from_sitk(case.image)
    for arm in demo.ARMS:
        demo.write_arm_prompts(tmp_path, arm, {"test": case})
        file = tmp_path / "prompts" / arm.name / "test.json"
        if arm.name == "no_click":
            assert not file.exists()
            continue
        prompts = read_prompts(file, image=grid, labels={"background": 0, "lesion": 1})
        voxels = np.rint(xyz_to_zyx(clicks_to_index(prompts, grid))).astype(int)
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
    assert "1 click on the target" in demo.dice_table(scores, 1)
    assert demo.clicks_decide(scores)
    blind = demo.mean_dice(tests, {name: {"test": perfect["no_click"]} for name in perfect})
    assert not demo.clicks_decide(blind), "a network that ignores its clicks does not pass"


def test_dice_of_empty_masks() -> None:
    nothing, something = np.zeros((2, 2, 2), bool), np.ones((2, 2, 2), bool)
    assert demo.dice(nothing, nothing) == 1.0
    assert demo.dice(nothing, something) == 0.0


def test_overlay_is_a_picture(tmp_path: Path, case: PhantomCase) -> None:
    panels = [Panel("no click", case.target_DHW, []), Panel("a click", ~case.target_DHW, [(np.array([9, 9, 9]), 0)])]
    write_overlay(tmp_path / "a.png", case, panels)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not empty"):
            demo.main(argparse.Namespace(output=tmp_path, overwrite=overwrite, epochs=1))
    assert (tmp_path / "thesis.tex").exists()
