"""The tools of the page in a browser: box, line, scribble and lasso."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from nnsam3d.inference import Session
from nnsam3d.inference.model import Model
from nnsam3d.prompts.kinds import KINDS

from .test_page import TARGET, Open, Opened
from .test_page import browser as browser
from .test_page import visit as visit
from .test_page import work as work

pytestmark = pytest.mark.browser
FLAT = [(5, 24, 13), (12, 32, 13)]  # i, j, k of two opposite corners on an axial slice
DEPTH = [(6, 28, 11), (10, 28, 16)]  # on a coronal slice that crosses it
LINE = [(8, 25, 11), (8, 31, 15)]  # on a sagittal slice
SCRIBBLE = [(20, 10, 6), (22, 12, 6), (24, 12, 6)]
LASSO = [(4, 24, 14), (12, 24, 14), (12, 32, 14), (4, 32, 14)]


def drag(page: Opened, there: Any, places: list, plane: str = "axial", **how: Any) -> None:
    page.drag([there.ras(place) for place in places], plane, **how)


def agrees(page: Opened, session: Session) -> None:
    """The page's prompts give the mask that it shows."""
    session.reset()
    for entry in page.prompts():
        values = {key: value for key, value in entry.items() if key != "type"}
        session.add([KINDS[entry["type"]].parse(values)])
    np.testing.assert_array_equal(page.labels(), session.segmentation)


def rows(page: Opened) -> list[str]:
    return page.js("() => [...document.querySelectorAll('#clicks .click')].map((row) => row.innerText)")


def marked(page: Opened, ras: list[float], plane: str = "axial") -> bool:
    """Whether something is drawn over the planes there."""
    x, y = page.pixel(ras, plane)
    return page.js(
        """([x, y]) => {
            const canvas = document.getElementById("marks");
            const { left, top } = canvas.getBoundingClientRect();
            const part = new OffscreenCanvas(5, 5).getContext("2d", { willReadFrequently: true });
            part.drawImage(canvas, left + 2 - x, top + 2 - y);
            return part.getImageData(0, 0, 5, 5).data.some((value, n) => n % 4 === 3 && value > 200);
        }""",
        [x, y],
    )


@pytest.mark.parametrize("geometry", ["flipped", "turned"])
def test_strokes_land_where_they_were_drawn(work: Any, visit: Open, drawing_model: Model, geometry: str) -> None:
    there = work(geometry, model=drawing_model)
    page = visit(there.running)
    for key, plane in (("b", "axial"), ("e", "sagittal")):
        page.tab.keyboard.press(key)
        # in turned files, the planes lie across other axes
        across = page.js("(axis) => Math.abs(nnsam3d.viewer.image.permRAS[axis]) - 1", 2 if plane == "axial" else 0)
        first, second = ([n if axis == across else n + by for axis, n in enumerate(TARGET)] for by in (-3, 4))
        drag(page, there, [first, second], plane)
        entry = page.prompts()[-1]
        ends = (entry["low"], entry["high"]) if key == "b" else (entry["start"], entry["end"])
        np.testing.assert_allclose(ends, [first, second], atol=1e-9 if key == "b" else 0.35)
        edge = [n if axis == across or key == "e" else n - 0.5 for axis, n in enumerate(first)]
        assert marked(page, there.ras(edge), plane)
    agrees(page, there.session)


def test_every_tool_draws_and_all_of_it_can_be_taken_back_and_saved(
    work: Any, visit: Open, drawing_model: Model
) -> None:
    there = work("oblique", model=drawing_model)
    page = visit(there.running, expect="status of 410")

    page.tab.keyboard.press("b")
    drag(page, there, FLAT)
    box = {"type": "box", "low": list(FLAT[0]), "high": list(FLAT[1]), "label": "lesion"}
    assert page.prompts() == [box]
    assert marked(page, there.ras((4.5, 28, 13)))
    assert not marked(page, there.ras((4.5, 28, 17)))
    agrees(page, there.session)
    # in another plane, it gets a depth; this replaces it, and is one step with it
    drag(page, there, DEPTH, "coronal")
    deep = {**box, "low": [5, 24, 11], "high": [12, 32, 16]}
    assert page.prompts() == [deep]
    agrees(page, there.session)
    page.press("z")
    assert page.prompts() == []
    page.press("y")
    assert page.prompts() == [deep]
    # drags with other labels are boxes of their own
    for key, places, plane in (("2", FLAT, "axial"), ("1", DEPTH, "coronal")):
        page.tab.keyboard.press(key)
        drag(page, there, places, plane)
    assert [(one["low"], one["label"]) for one in page.prompts()[1:]] == [
        ([5, 24, 13], "organ"),
        ([6, 28, 11], "lesion"),
    ]
    for _ in range(2):
        page.press("z")
    assert page.prompts() == [deep]

    page.tab.keyboard.press("e")
    page.tab.keyboard.press("2")
    drag(page, there, LINE, "sagittal")
    page.tab.keyboard.press("1")
    page.tab.keyboard.press("a")
    drag(page, there, LASSO)
    page.tab.keyboard.press("d")
    page.tab.keyboard.down("Shift")
    drag(page, there, SCRIBBLE)
    page.tab.keyboard.up("Shift")
    page.click(there.ras(TARGET))  # a click is one with every tool
    drawn = page.prompts()
    assert [(one["type"], one["label"]) for one in drawn] == [
        ("box", "lesion"),
        ("line", "organ"),
        ("lasso", "lesion"),
        ("scribble", "background"),
        ("click", "lesion"),
    ]
    np.testing.assert_allclose([drawn[1]["start"], drawn[1]["end"]], LINE, atol=0.35)
    corners = np.array(drawn[2]["points"])
    assert (corners[:, 2] == 14).all()
    np.testing.assert_allclose([corners.min(axis=0), corners.max(axis=0)], [LASSO[0], LASSO[2]], atol=0.35)
    np.testing.assert_allclose(drawn[3]["points"][-1], SCRIBBLE[-1], atol=0.35)
    for place, plane in ((LASSO[1], "axial"), (SCRIBBLE[1], "axial"), (LINE[0], "sagittal")):
        assert marked(page, there.ras(place), plane)
    shown = rows(page)
    assert len(shown) == 5
    for row, one in zip(shown, drawn, strict=True):
        assert one["type"] in row
        assert one["label"] in row
    agrees(page, there.session)

    # a stroke that is given up, and one that says nothing
    drag(page, there, LASSO, ends=False)
    page.tab.keyboard.press("Escape")
    page.tab.mouse.up()
    page.tab.keyboard.press("a")
    drag(page, there, [LASSO[0], LASSO[1], LASSO[0]])
    assert page.text("#status") == "Nothing was drawn: the lasso is too small."
    page.idle()
    assert page.prompts() == drawn

    whole = page.labels()
    page.push("[aria-label='Remove prompt 2']")
    assert page.prompts() == [drawn[0], *drawn[2:]]
    agrees(page, there.session)
    page.press("z")
    assert page.prompts() == drawn
    np.testing.assert_array_equal(page.labels(), whole)

    page.forgotten_by(there.running)
    drag(page, there, [(25, 5, 3), (27, 5, 3), (27, 8, 3)])
    page.tab.click("#notice-action")
    page.idle("nnsam3d.page.prompts.length === 6")
    assert page.prompts()[:5] == drawn
    agrees(page, there.session)

    page.press("s")
    mask, kept = page.labels(), page.prompts()
    np.testing.assert_array_equal(there.saved(), mask)
    file = there.output / "clicks" / "a.json"
    assert [one["type"] for one in json.loads(file.read_text())["prompts"]] == [one["type"] for one in kept]
    page.reload()
    assert page.prompts() == kept
    assert not page.js("() => nnsam3d.page.dirty")
    np.testing.assert_array_equal(page.labels(), mask)
    page.press("z")
    assert page.prompts() == kept[:-1]


def test_tools_without_training_say_why_they_cannot_be_used(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running)
    for tool in ("box", "line", "scribble", "lasso"):
        button = page.tab.locator(f"#tools [data-tool={tool}]")
        assert button.is_disabled()
        assert button.get_attribute("title") == f"This model was not trained with prompts of type {tool}."
    page.tab.keyboard.press("b")
    assert page.text("#status") == "This model was not trained with prompts of type box."
    drag(page, there, FLAT)  # moves the crosshair
    assert page.prompts() == []
    np.testing.assert_allclose(page.js("() => nnsam3d.viewer.mm"), there.ras(FLAT[1]), atol=0.8)


def test_a_brush_paints_and_erases_voxels_that_stay(work: Any, visit: Open, served_model: Model) -> None:
    """Also with a model that knows clicks only."""
    there = work("oblique", model=served_model)
    page = visit(there.running)
    page.tab.keyboard.press("t")
    assert page.tab.locator("#brush").is_visible()
    page.tab.locator("#brush").fill("2")
    first, last = (3, 10, 13), (12, 10, 13)
    drag(page, there, [first, last])
    (entry,) = page.prompts()
    voxels = np.array(entry["points"])
    assert entry["type"] == "paint"
    assert entry["label"] == "lesion"
    assert (voxels == np.round(voxels)).all()
    assert (voxels[:, 2] == 13).all(), "all on the slice"
    assert {tuple(first), tuple(last)} <= set(map(tuple, voxels.tolist()))
    painted = page.labels()
    assert (painted > 0).sum() == len(voxels)
    agrees(page, there.session)
    page.tab.keyboard.down("Shift")
    drag(page, there, [(6, 10, 13), (8, 10, 13)])
    page.tab.keyboard.up("Shift")
    assert page.prompts()[1]["label"] == "background"
    assert page.labels()[13, 10, 7] == 0
    agrees(page, there.session)
    page.press("z")
    np.testing.assert_array_equal(page.labels(), painted)
    # a click with the brush is a dab, not a prompt for the network
    page.click(there.ras((20, 30, 13)))
    assert [one["type"] for one in page.prompts()] == ["paint", "paint"]
    assert page.labels()[13, 30, 20] == 1
    agrees(page, there.session)
    page.press("s")
    np.testing.assert_array_equal(there.saved(), page.labels())
