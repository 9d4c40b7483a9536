"""The model that comes with nnsam3d: used without a model, at any spacing, for any object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nnsam3d.files import file_sha256
from nnsam3d.inference import Session
from nnsam3d.inference.model import Model
from nnsam3d.inference.scale import FINER, WANTED, first_spacing, next_spacing
from nnsam3d.nnunet.datasets import FINAL, STARTER, WEIGHTS, common_ending
from nnsam3d.prompts.kinds import Box, Click, Lasso, Line, Scribble

SHAPE = (40, 90, 90)


def ball(centre_ZYX: tuple[int, int, int], radius_mm: float, spacing_ZYX: tuple[float, ...]) -> NDArray[np.bool_]:
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    squares = [((a - c) * s) ** 2 for a, c, s in zip(axes, centre_ZYX, spacing_ZYX, strict=True)]
    return np.asarray(sum(squares) < radius_mm**2)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_objects_of_any_size_are_found_and_kept_apart(scale: float) -> None:
    spacing = (2 * scale, scale, scale)
    large, small = ball((20, 45, 40), 15 * scale, spacing), ball((20, 45, 72), 8 * scale, spacing)
    image = np.random.default_rng(0).normal(0, 0.2, SHAPE).astype(np.float32) + large + small
    session = Session(device="cpu")
    session.set_image(image, spacing=spacing)
    assert not session.segmentation.any(), "without a prompt there is nothing"
    session.add_click((40, 45, 20), "liver")
    session.add_click((72, 45, 20), "node")
    found = session.segmentation
    assert session.labels == {"background": 0, "liver": 1, "node": 2}
    assert dice(found == 1, large) > 0.6
    assert (small & (found == 1)).sum() <= 0.02 * small.sum()
    assert (large & (found == 2)).sum() <= 0.02 * large.sum()
    session.reset()
    session.add_box((25, 30, 13), (55, 60, 27), "liver")
    assert dice(session.segmentation == 1, large) > 0.85


@pytest.mark.parametrize("kind", ["box", "lasso", "line", "scribble"])
def test_objects_with_names_take_every_kind(kind: str) -> None:
    """Found by the benchmark: with two names, everything but clicks ended in an error."""
    model = Model(STARTER, None, FINAL, torch.device("cpu"), mirroring=False, objects=["liver", "node"])
    large, small = ball((20, 45, 40), 15, (2, 1, 1)), ball((20, 45, 72), 8, (2, 1, 1))
    image = np.random.default_rng(0).normal(0, 0.2, SHAPE).astype(np.float32) + large + small
    session = Session(model)
    session.set_image(image, spacing=(2, 1, 1))
    for label, x, r, truth in (("liver", 40, 14, large), ("node", 72, 7, small)):
        value = session.labels[label]
        corners = ((x - r, 45 - r, 20), (x + r, 45 - r, 20), (x + r, 45 + r, 20), (x - r, 45 + r, 20))
        drawn = {
            "box": Box((x - r, 45 - r, 20 - r // 2), (x + r, 45 + r, 20 + r // 2), label),
            "lasso": Lasso(corners, label),
            "line": Line((x - r, 45, 20), (x + r, 45, 20), label),
            "scribble": Scribble(((x - r, 45, 20), (x, 45, 20), (x + r, 45, 20)), label),
        }
        session.add([drawn[kind]])
        assert dice(session.segmentation == value, truth) > 0.6, label


def test_a_line_at_the_end_of_a_long_object_does_not_hold_back_later_clicks() -> None:
    axes = np.ogrid[:40, :90, :90]
    long = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, (20, 45, 45), (9, 12, 40), strict=True)) < 1
    image = np.random.default_rng(0).normal(0, 0.2, SHAPE).astype(np.float32) + long
    line, clicks = Line((12, 38, 20), (12, 52, 20), "liver"), [(45, 45, 20), (78, 45, 20)]
    session, clicked = Session(device="cpu"), Session(device="cpu")
    for one in (session, clicked):
        one.set_image(image, spacing=(2, 1, 1))
    session.add([line])
    short = session.segmentation.sum()
    for position in clicks:
        session.add_click(position, "liver")
    assert session.segmentation.sum() > 2 * short
    assert dice(session.segmentation == 1, long) > 0.6
    clicked.add([Click(position, "liver") for position in clicks])
    clicked.add(Line((12, 38, 20), (12, 52, 20), "liver").as_clicks())
    np.testing.assert_array_equal(session.segmentation, clicked.segmentation)
    near = Session(device="cpu")  # clicks that the line reaches leave it as it is
    near.set_image(image, spacing=(2, 1, 1))
    near.add([line, Click((14, 45, 20), "liver")])
    assert near.segmentation.sum() < session.segmentation.sum() / 2


def test_a_box_says_how_fine_the_grid_is() -> None:
    for edge in (10.0, 40.0, 160.0):
        end = edge - 1
        drawn = [
            Box((0, 0, 0), (end, 4, 8), 1),
            Lasso(((0, 0, 3), (end, 0, 3), (end, 9, 3), (0, 9, 3)), 1),
            Line((0, 5, 3), (end, 5, 3), 1),
            Scribble(((0, 5, 3), (end, 5, 3)), 1),
        ]
        for one in drawn:
            shape = one.shape(one.points("voxel")[:, ::-1], 1)
            spacing = first_spacing((400, 400, 400), (1.0, 1.0, 1.0), [shape])
            outlined = edge if one.kind == "box" else end  # a box has the whole of its last voxel
            assert abs(np.log2(spacing / max(1 / FINER, outlined / WANTED))) < 0.3, (one.kind, edge)


def test_a_small_image_gets_a_finer_grid_than_its_own() -> None:
    assert first_spacing((35, 51, 35), (1.0, 1.0, 1.0)) < 1.0
    assert first_spacing((100, 400, 400), (5.0, 1.0, 1.0)) > 1.0


def test_only_answers_of_a_very_different_size_change_the_grid() -> None:
    answer = np.zeros((100, 100, 100), np.uint8)
    whole = (slice(0, 100), slice(0, 100), slice(0, 100))
    assert next_spacing(1.0, answer, [whole], (1, 1, 1)) == 1.0  # nothing says how large it is
    answer[10:30, 10:30, 10:30] = 1
    assert next_spacing(1.0, answer, [whole], (1, 1, 1)) == 1.0
    assert next_spacing(8.0, answer, [whole], (1, 1, 1)) < 8.0
    answer[:90, :90, :90] = 1
    assert next_spacing(1.0, answer, [whole], (1, 1, 1)) == 1.0  # may have leaked: clicks correct it there
    assert next_spacing(0.5, answer, [whole], (1, 1, 1)) > 0.5


def test_background_drawings_do_not_say_how_large_the_object_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("nnsam3d.inference.image.next_spacing", lambda now, *answer: asked.append(now) or now)
    session = Session(device="cpu")
    session.set_image(np.random.default_rng(0).normal(0, 1, (20, 30, 30)).astype(np.float32), spacing=(2, 1, 1))
    session.add_click((8, 8, 10), 1)
    session.add_scribble([(20, 20, 10), (25, 20, 10)], "background")
    assert session.segmentation is not None
    assert asked, "only a drawing on the object itself decides"
    asked.clear()
    session.add_scribble([(6, 8, 10), (10, 8, 10)], 1)
    assert session.segmentation is not None
    assert not asked


def test_the_card_belongs_to_the_weights() -> None:
    weights = STARTER / "fold_0" / WEIGHTS
    assert weights.stat().st_size < 8e6
    assert file_sha256(weights) in (STARTER / "CARD.md").read_text(encoding="utf-8")


def test_the_starter_takes_the_ending_that_a_folder_has(tmp_path: Path) -> None:
    for name in ("a_0000.nrrd", "b_0000.nrrd", "c_0000.nii.gz", "a.json"):
        (tmp_path / name).touch()
    assert common_ending(tmp_path, [".nii.gz", ".nrrd", ".mha"]) == ".nrrd"
    assert common_ending(tmp_path / "none", [".nrrd"]) is None
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a_0000.nii").touch()
    model = Model(STARTER, None, FINAL, torch.device("cpu"), mirroring=False)
    model.take_ending_of(tmp_path / "plain")
    assert model.file_ending == ".nii"
