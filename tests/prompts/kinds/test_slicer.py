"""Prompts of all kinds in 3D Slicer's markups: there and back, and as Slicer writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nnsam3d.prompts import (
    Box,
    CasePrompts,
    Click,
    Lasso,
    Line,
    PromptError,
    PromptWarning,
    Scribble,
    read_prompts,
    write_prompts,
)

from .drawn import GRIDS, LABELS, LEARNT, drawn


@given(seed=st.integers(0, 2**31), grid_name=st.sampled_from(sorted(GRIDS)), space=st.sampled_from(["lps", "ras"]))
def test_there_and_back(seed: int, grid_name: str, space: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path, grid = tmp_path_factory.mktemp("slicer") / "c.mrk.json", GRIDS[grid_name]
    rng = np.random.default_rng(seed)
    kinds = [LEARNT[i] for i in rng.integers(len(LEARNT), size=7)]
    words = [["tumour", "background", "organ"][i] for i in rng.integers(3, size=7)]
    prompts = [drawn(kind, rng, word) for kind, word in zip(kinds, words, strict=True)]
    # Slicer turns boxes in mm, where those that are turned in voxels are sheared
    sheared = any(isinstance(prompt, Box) and prompt.axes for prompt in prompts)
    written = CasePrompts("c", space if sheared else "voxel", prompts).to(space, grid)
    write_prompts(path, written)
    read = read_prompts(path, labels=LABELS)
    assert read.space == space
    assert [(prompt.kind, prompt.label) for prompt in read.prompts] == list(zip(kinds, words, strict=True))
    for before, after in zip(written.prompts, read.prompts, strict=True):
        if not isinstance(before, Box):
            assert after == before
            continue
        own, other = before.corners_in(space), after.corners_in(space)
        apart = np.linalg.norm(own[:, None] - other[None], axis=2)
        allowed = 1e-6 if np.ptp(own, axis=0).any() else 5e-3  # Slicer has no region without a size
        assert max(apart.min(axis=0).max(), apart.min(axis=1).max()) < allowed


def test_voxels_are_written_with_the_image(tmp_path: Path) -> None:
    prompts = CasePrompts("c", "voxel", [Box((3, 4, 5), (9, 8, 7), 1), Line((1, 2, 3), (9, 2, 3), 1)])
    write_prompts(tmp_path / "c.mrk.json", prompts, image=GRIDS["oblique"], labels=LABELS)
    back = read_prompts(tmp_path / "c.mrk.json", GRIDS["oblique"], LABELS).to("voxel", GRIDS["oblique"])
    box, line = back.prompts
    np.testing.assert_allclose([box.low, box.high], [(3, 4, 5), (9, 8, 7)], atol=1e-9)
    assert (box.axes, box.label, line.label) == (None, "tumour", "tumour")
    region, _ = json.loads((tmp_path / "c.mrk.json").read_text(encoding="utf-8"))["markups"]
    matrix = np.reshape(region["orientation"], (3, 3))
    assert np.linalg.det(matrix) == pytest.approx(1), "Slicer's axes are right-handed"
    np.testing.assert_allclose(sorted(region["size"]), sorted([7 * 0.7, 5 * 1.1, 3 * 3.0]))


def markup(kind: str, positions: list, label: str = "tumour", **more: Any) -> dict[str, Any]:
    points = [
        {"id": str(n), "label": f"{label}-{n}", "position": list(position), "positionStatus": "defined"}
        for n, position in enumerate(positions, start=1)
    ]
    return {"type": kind, "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points, **more}


def saved(folder: Path, *markups: dict[str, Any]) -> Path:
    path = folder / "c.mrk.json"
    path.write_text(json.dumps({"markups": list(markups)}), encoding="utf-8")
    return path


CORNERS = [(1.0, 2.0, 3.0), (9.0, 2.0, 3.0), (9.0, 8.0, 3.0)]


def test_what_slicer_draws(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        markup("Fiducial", CORNERS[:1]),
        markup("Line", CORNERS[:2], "organ"),
        markup("Curve", CORNERS),
        markup("ClosedCurve", CORNERS, "background"),
        markup("Line", [(-1, -2, 3), (-9, -2, 3)], coordinateSystem="RAS"),
    )
    assert read_prompts(path, labels=LABELS).prompts == (
        Click(CORNERS[0], "tumour"),
        Line(CORNERS[0], CORNERS[1], "organ"),
        Scribble(CORNERS, "tumour"),
        Lasso(CORNERS, "background"),
        Line(CORNERS[0], CORNERS[1], "tumour"),
    )


@pytest.mark.parametrize("labels", [None, {"background": 0, "lesion": 1, "lesion-2": 2}])
def test_names_that_look_numbered_are_read_as_they_were(tmp_path: Path, labels: dict[str, int] | None) -> None:
    """Slicer's numbering is removed, and bare numbers are refused: neither may concern what was written here."""
    names: list[int | str] = ["lesion", "lesion-2", "lesion"]
    names += [2, "5", "2-7", "background-2", "007"] if labels is None else []
    prompts = [Click(CORNERS[0], name) for name in (*names, 0)]
    for name in names:
        prompts += [
            Box(CORNERS[0], CORNERS[1], name),
            Line(CORNERS[0], CORNERS[1], name),
            Lasso(CORNERS, name),
            Scribble(CORNERS, name, joined=False),
        ]
    write_prompts(tmp_path / "c.mrk.json", CasePrompts("c", "lps", prompts), labels=labels)
    read = read_prompts(tmp_path / "c.mrk.json", labels=labels).prompts
    assert [one.label for one in read] == [str(one.label or "background") for one in prompts]
    points = json.loads((tmp_path / "c.mrk.json").read_text(encoding="utf-8"))["markups"][0]["controlPoints"]
    assert [point["label"] for point in points[:2]] == ["lesion", "lesion-2-2"]


def test_a_turned_region_is_a_turned_box(tmp_path: Path) -> None:
    matrix = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    region = markup("ROI", [(10, 20, -5)], center=[10, 20, -5], size=[4, 6, 8], orientation=matrix.reshape(-1).tolist())
    (box,) = read_prompts(saved(tmp_path, region), labels=LABELS).prompts
    assert isinstance(box, Box)
    np.testing.assert_allclose(np.linalg.norm(box.axes, axis=1), [2, 3, 4])
    np.testing.assert_allclose(box.axes[0], 2 * matrix[:, 0])  # an axis is a column
    mixed = saved(tmp_path, markup("Fiducial", [(-1, -2, 3)], coordinateSystem="RAS"), region)
    _, other = read_prompts(mixed, labels=LABELS).prompts
    np.testing.assert_allclose(other.axes, np.array(box.axes) * [-1, -1, 1])
    np.testing.assert_allclose(other.low, [-10, -20, -5])


def test_the_name_of_a_markup_is_its_label_if_its_points_have_none(tmp_path: Path) -> None:
    line = markup("Line", CORNERS[:2], name="tumour")
    for point in line["controlPoints"]:
        point["label"] = ""
    (read,) = read_prompts(saved(tmp_path, line), labels=LABELS).prompts
    assert read.label == "tumour"
    line["name"] = "tumour-2"  # nobody has numbered it
    assert read_prompts(saved(tmp_path, line)).prompts[0].label == "tumour-2"
    line["name"] = "L"
    with pytest.raises(PromptError, match=r"markup 1 \(Line\).*'L'"):
        read_prompts(saved(tmp_path, line), labels=LABELS)


@pytest.mark.parametrize(("kind", "least"), [("Line", 2), ("Curve", 1), ("ClosedCurve", 3)])
def test_what_is_not_finished_is_left_out_and_said(tmp_path: Path, kind: str, least: int) -> None:
    unfinished = markup(kind, CORNERS[:least])
    unfinished["controlPoints"][-1]["positionStatus"] = "undefined"
    path = saved(tmp_path, markup("Fiducial", CORNERS[:1]), unfinished)
    with pytest.warns(PromptWarning) as told:
        assert read_prompts(path, labels=LABELS).kinds == ("click",)
    assert any(f"markup 2 ({kind}) is not finished: {least - 1} of at least {least}" in str(w.message) for w in told)


def test_a_closed_curve_on_a_line_is_refused_with_its_place(tmp_path: Path) -> None:
    flat = markup("ClosedCurve", [(1, 2, 3), (2, 2, 3), (3, 2, 3)])
    with pytest.raises(
        PromptError, match=r"c\.mrk\.json: markup 1 \(ClosedCurve\): the points of a lasso lie on a line"
    ):
        read_prompts(saved(tmp_path, flat), labels=LABELS)


def test_more_markups_than_a_file_may_hold_are_not_written(tmp_path: Path) -> None:
    lines = [Line((0, 0, 0), (1, 0, n), "tumour") for n in range(1001)]
    with pytest.raises(PromptError, match="1001 markups; at most 1000"):
        write_prompts(tmp_path / "c.mrk.json", CasePrompts("c", "lps", lines))
