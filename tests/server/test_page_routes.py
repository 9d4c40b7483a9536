"""The page's routes: files of many geometries, steps, saving, the dataset that grows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.geometry import ImageGrid
from nnsam3d.inference import Session
from nnsam3d.inference.cases import find_cases
from nnsam3d.inference.folder import FolderOptions, predict_folder
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model
from nnsam3d.prompts import Click
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.server.cases import Cases

from ..inference.conftest import opened, read
from .conftest import AT, GEOMETRIES, SHAPE, Running, Start, click, write_cases


def painted(change: tuple[dict, np.ndarray], mask: np.ndarray | None = None) -> np.ndarray:
    """A viewer's mask (z, y, x) after a change; it is empty before the first one."""
    mask = np.zeros(SHAPE, np.uint8) if mask is None else mask
    told, voxels = change
    if told["part"] is not None:
        (i0, i1), (j0, j1), (k0, k1) = told["part"]
        mask[k0:k1, j0:j1, i0:i1] = voxels.reshape(k1 - k0, j1 - j0, i1 - i0)
    return mask


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_masks_are_the_sessions_and_land_where_the_click_was(
    start: Start, served_model: Model, tmp_path: Path, geometry: str
) -> None:
    images = write_cases(tmp_path / "images", geometry=geometry)
    running = start(cases=Cases(images, served_model))
    info = running.ask("POST", "/api/claim").json()
    assert (info["folder"], info["upload"], info["saves"]) == (True, True, False)
    lease = info["lease_token"]
    info = running.ask("POST", "/api/open", {"case": "a"}, lease).json()
    assert (info["shape"], info["channels"]) == (list(SHAPE), ["a_0000.nii.gz"])
    file = images / "a_0000.nii.gz"
    assert running.ask("GET", f"/api/image/0/a.nii.gz?lease={lease}").body == file.read_bytes()
    ras = ImageGrid.from_file(file).index_to_world([AT], "ras")[0].tolist()
    session = opened(served_model, file)
    mask = np.zeros(SHAPE, np.uint8)
    change = running.change("/api/prompt", click(ras, "lesion", "ras"), lease)
    session.add_click(AT, "lesion")
    np.testing.assert_array_equal(painted(change, mask), session.segmentation)
    assert mask[AT[::-1]] == 1
    told = change[0]
    np.testing.assert_allclose(told["prompts"][0]["entry"]["position"], AT, atol=1e-6)
    np.testing.assert_allclose(told["prompts"][0]["ras"][0], ras, atol=1e-6)
    assert told["facts"]["lesion"]["ml"] == pytest.approx((mask == 1).sum() * 3 / 1000)
    change = running.change("/api/prompt", click((14, 22, 9), "background"), lease)
    session.add_click((14, 22, 9), 0)
    np.testing.assert_array_equal(painted(change, mask), session.segmentation)
    for step in ("undo", "undo", "redo", "reset"):
        change = running.change(f"/api/{step}", {}, lease)
        getattr(session, step)()
        np.testing.assert_array_equal(painted(change, mask), session.segmentation)
    assert (change[0]["can_undo"], change[0]["prompts"], change[0]["facts"]) == (True, [], {}), "a reset can be undone"
    stored = tmp_path / "mask.nii.gz"
    stored.write_bytes(running.ask("GET", f"/api/mask/a.nii.gz?lease={lease}").body)
    assert gzip.decompress(stored.read_bytes())
    shown = sitk.ReadImage(str(stored))
    assert shown.GetDirection() == pytest.approx(sitk.ReadImage(str(file)).GetDirection())
    assert not sitk.GetArrayFromImage(shown).any()


def test_a_day_of_clicking_ends_as_a_dataset_that_predict_replays(
    serve_cases: Start, served_model: Model, tmp_path: Path
) -> None:
    running, output = serve_cases(saves=True), tmp_path / "out"
    lease = running.claim()
    for case, following in (("a", "b"), ("b", None)):
        running.ask("POST", "/api/open", {"case": case}, lease)
        running.change("/api/prompt", click(AT, "lesion"), lease)
        running.change("/api/prompt", click((20, 18, 10), "organ"), lease)
        saved = running.ask("POST", "/api/save", {}, lease).json()
        assert running.ask("GET", "/api/next", lease=lease).json() == {"next": following}
        assert f"labelsTr/{case}.nii.gz" in saved["saved"]
    assert [case["saved"] for case in running.ask("GET", "/api/cases", lease=lease).json()] == [True, True]
    told = json.loads((output / "dataset.json").read_text())
    assert told["numTraining"] == 2
    assert told["labels"] == {"background": 0, "lesion": 1, "organ": 2}
    cases = find_cases(output / "imagesTr", served_model, output / "clicks")
    assert all(case.prompts for case in cases)
    predict_folder(served_model, cases, tmp_path / "replayed", FolderOptions())
    for case in "ab":
        label_map, replayed = (
            read(folder / f"{case}.nii.gz") for folder in (output / "labelsTr", tmp_path / "replayed")
        )
        assert label_map.any()
        np.testing.assert_array_equal(label_map, replayed)


def test_an_uploaded_image_and_a_segmentation_to_correct(running: Running, served_model: Model, tmp_path: Path) -> None:
    file = write_cases(tmp_path / "images", geometry="oblique") / "a_0000.nii.gz"
    lease = running.claim()
    assert running.ask("POST", "/api/upload?name=../../etc/SMITH.nii.gz", file.read_bytes(), lease).status == 200
    session = opened(served_model, file)
    start = np.zeros(SHAPE, np.uint8)
    start[8:13, 15:25, 10:20] = 2
    session.start_from(start)
    stored = tmp_path / "start.nii.gz"
    session.save_segmentation(stored)
    mask = painted(running.change("/api/segmentation?name=start.nii.gz", stored.read_bytes(), lease))
    np.testing.assert_array_equal(mask, start)
    change = running.change("/api/prompt", click(AT, "lesion"), lease)
    session.add_click(AT, "lesion")
    np.testing.assert_array_equal(painted(change, mask), session.segmentation)
    assert running.ask("POST", "/api/save", {}, lease).status == 400
    for name, body, words in (
        ("x.txt", b"", "unsupported file type"),
        ("x.nii.gz", b"no image", "x.nii.gz is not an image"),
        ("x.nii.gz", stored.read_bytes()[:100], "truncated"),
    ):
        reply = running.ask("POST", f"/api/upload?name={name}", body, lease)
        assert reply.status == 400
        assert words in reply.json()["detail"]
    # and nothing was lost by it
    change = running.change("/api/undo", {}, lease)
    np.testing.assert_array_equal(painted(change, mask), start)


def test_only_cases_of_the_folder_are_opened(serve_cases: Start, tmp_path: Path) -> None:
    running = serve_cases()
    (tmp_path / "secret_0000.nii.gz").write_bytes(b"")
    lease = running.claim()
    for case in ("../secret", "/etc/passwd", "a_0000", None, ["a"]):
        assert running.ask("POST", "/api/open", {"case": case}, lease).status == 404
    assert running.ask("GET", f"/api/image/0/x?lease={lease}").status == 404
    assert running.ask("POST", "/api/prompt", click([1, 2, 3], "lesion"), lease).status == 400


def test_a_file_of_clicks_replaces_the_clicks_or_changes_nothing(
    running: Running, served_model: Model, tmp_path: Path
) -> None:
    file = write_cases(tmp_path / "images") / "a_0000.nii.gz"
    lease = running.claim()
    running.ask("POST", "/api/upload?name=a.nii.gz", file.read_bytes(), lease)
    running.change("/api/prompt", click(AT, "organ"), lease)
    session = opened(served_model, file)
    session.add_click(AT, "organ")
    before = session.segmentation.copy()
    clicks = {"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [999, 0, 0], "label": "lesion"}]}
    reply = running.ask("POST", "/api/prompts?name=../bad.json", json.dumps(clicks).encode(), lease)
    assert reply.status == 400
    assert "bad.json" in reply.reason
    assert "/tmp" not in reply.reason
    kept = running.change("/api/redo", {}, lease)[0]["prompts"]
    assert [one["label"] for one in kept] == ["organ"]
    clicks["clicks"] = [{"position": AT, "label": "lesion"}, {"position": [20, 18, 10], "label": "background"}]
    large = json.dumps(clicks).encode() + b" " * 2**20  # as a file with a few scribbles of thousands of voxels
    change = running.change("/api/prompts?name=good.json", large, lease)
    assert [(one["entry"]["position"], one["label"]) for one in change[0]["prompts"]] == [
        (list(AT), "lesion"),
        ([20, 18, 10], "background"),
    ]
    session.reset()
    session.add_click(AT, "lesion")
    session.add_click((20, 18, 10), "background")
    np.testing.assert_array_equal(painted(change, before), session.segmentation)
    assert len(running.change("/api/undo", {}, lease)[0]["prompts"]) == 1


def test_a_file_that_unpacks_to_more_than_is_taken(start: Start, tmp_path: Path) -> None:
    """However little of it is sent, and whatever its header says."""
    running = start(array_bytes=2**20)
    lease = running.claim()
    image = sitk.GetImageFromArray(np.zeros((10, 10, 10), np.int16))
    sitk.WriteImage(image, str(tmp_path / "small.nii"))
    large = sitk.GetImageFromArray(np.zeros((100, 100, 100), np.int16))
    sitk.WriteImage(large, str(tmp_path / "large.nrrd"), True)
    for name, content in (
        ("bomb.nii.gz", gzip.compress((tmp_path / "small.nii").read_bytes() + bytes(2**22))),
        ("large.nrrd", (tmp_path / "large.nrrd").read_bytes()),
    ):
        assert len(content) < 2**16
        reply = running.ask("POST", f"/api/upload?name={name}", content, lease)
        assert (reply.status, "more than" in reply.reason) == (413, True)
    assert running.ask("POST", "/api/upload?name=small.nii", (tmp_path / "small.nii").read_bytes(), lease).status == 200


# ---------------------------------------------------------------------- prompts of all kinds

DRAWN = [
    {"type": "box", "low": [5, 24, 8], "high": [12, 32, 13], "label": "lesion"},
    {"type": "line", "start": [14, 10.5, 9], "end": [20, 15, 9], "label": "organ"},
    {"type": "lasso", "points": [[14, 18, 9], [22, 18, 9], [22, 25, 9]], "label": 1},
    {"type": "scribble", "points": [[2, 2, 2], [9, 4, 2]], "label": "background"},
    {"type": "scribble", "points": [[20, 30, 12], [21, 30, 12]], "label": "organ", "joined": False},
    {"type": "click", "position": list(AT), "label": "lesion"},
]


def added(session: Session, entry: dict[str, Any]) -> None:
    values = {key: value for key, value in entry.items() if key != "type"}
    session.add([KINDS[entry["type"]].parse(values)])


@pytest.mark.parametrize("geometry", ["oblique", pytest.param("flipped", marks=pytest.mark.slow)])
def test_prompts_of_all_kinds_are_drawn_listed_removed_and_saved(
    serve_cases: Start, drawing_model: Model, tmp_path: Path, geometry: str
) -> None:
    running, file = serve_cases(drawing_model, saves=True, geometry=geometry), tmp_path / "images" / "a_0000.nii.gz"
    info = running.ask("POST", "/api/claim").json()
    assert info["model"]["kinds"] == list(KINDS)
    lease = info["lease_token"]
    running.ask("POST", "/api/open", {"case": "a"}, lease)
    session, mask = opened(drawing_model, file), np.zeros(SHAPE, np.uint8)
    grid = session.grid
    for entry in DRAWN:
        change = running.change("/api/prompt", {**entry, "space": "voxel"}, lease)
        added(session, entry)
        np.testing.assert_array_equal(painted(change, mask), session.segmentation)
    told = change[0]["prompts"]
    for one, entry, prompt in zip(told, DRAWN, session.prompts, strict=True):
        assert one["entry"] == json.loads(json.dumps({"type": prompt.kind, **prompt.entry()}))
        assert one["text"] == prompt.describe()
        assert (one["value"], one["label"]) == ({"background": 0, "organ": 2}.get(entry["label"], 1), one["label"])
        assert info["model"]["labels"][one["label"]] == one["value"]
    # as drawn on the planes: the faces of a box lie half a voxel beyond its corners
    corners = grid.to_index(np.array(told[0]["ras"]), "ras")
    faces = [[4.5, 23.5, 7.5], [12.5, 32.5, 13.5]]
    np.testing.assert_allclose([corners.min(axis=0), corners.max(axis=0)], faces, atol=1e-3)
    np.testing.assert_allclose(grid.to_index(np.array(told[1]["ras"]), "ras"), [[14, 10.5, 9], [20, 15, 9]], atol=1e-3)

    change = running.change("/api/remove", {"number": 1}, lease)
    session.remove(1)
    np.testing.assert_array_equal(painted(change, mask), session.segmentation)
    assert [one["type"] for one in change[0]["prompts"]] == ["box", "lasso", "scribble", "scribble", "click"]
    for number in (-1, 5, True, None, "1"):
        assert running.ask("POST", "/api/remove", {"number": number}, lease).status == 400
    change = running.change("/api/undo", {}, lease)
    session.undo()
    np.testing.assert_array_equal(painted(change, mask), session.segmentation)
    other = {"type": "click", "position": [5, 6, 7], "label": "lesion"}
    change = running.change("/api/replace", {"number": 1, **other, "space": "voxel"}, lease)
    session.replace(1, [Click((5, 6, 7), "lesion")])
    np.testing.assert_array_equal(painted(change, mask), session.segmentation)
    assert change[0]["prompts"][1]["entry"] == other
    assert change[0]["prompts"][:1] + change[0]["prompts"][2:] == told[:1] + told[2:]
    for wrong in ({"number": 9, **other}, other, {"number": 1}, {"number": 1, **other, "position": [99, 6, 7]}):
        assert running.ask("POST", "/api/replace", {"space": "voxel", **wrong}, lease).status == 400
    change = running.change("/api/undo", {}, lease)
    session.undo()
    np.testing.assert_array_equal(painted(change, mask), session.segmentation)
    assert "clicks/a.json" in running.ask("POST", "/api/save", {}, lease).json()["saved"]
    again = running.ask("POST", "/api/open", {"case": "a"}, lease).json()
    assert again["prompts"] == told
    cases = find_cases(tmp_path / "out" / "imagesTr", drawing_model, tmp_path / "out" / "clicks")
    predict_folder(drawing_model, cases, tmp_path / "replayed", FolderOptions())
    np.testing.assert_array_equal(read(tmp_path / "replayed" / "a.nii.gz"), session.segmentation)


def test_a_prompt_in_place_of_the_last_one(serve_cases: Start, drawing_model: Model) -> None:
    running = serve_cases(drawing_model)
    lease = running.claim("a")
    box = {**DRAWN[0], "space": "voxel"}
    running.change("/api/prompt", {**box, "low": [5, 24, 13]}, lease)
    told = running.change("/api/prompt", {**box, "replace": True}, lease)[0]
    assert [one["entry"]["low"] for one in told["prompts"]] == [[5, 24, 8]]
    # what cannot be done leaves the last one
    outside = {**box, "low": [99, 99, 99], "high": [99, 99, 99], "replace": True}
    assert running.ask("POST", "/api/prompt", outside, lease).status == 400
    told = running.change("/api/undo", {}, lease)[0]
    assert (told["prompts"], told["can_undo"]) == ([], False)
    reply = running.ask("POST", "/api/prompt", {**box, "replace": True}, lease)
    assert (reply.status, "was not the last step" in reply.reason) == (409, True)
    assert running.change("/api/redo", {}, lease)[0]["prompts"]


def test_what_is_no_prompt_is_refused_with_words(serve_cases: Start) -> None:
    running = serve_cases()
    info = running.ask("POST", "/api/claim").json()
    assert info["model"]["kinds"] == ["click"]
    lease = info["lease_token"]
    running.ask("POST", "/api/open", {"case": "a"}, lease)
    for body, words in (
        ({**DRAWN[0], "space": "voxel"}, "type click, not box"),
        ({"position": [1, 2, 3], "label": "lesion"}, "must have a type: click, scribble, box, line, lasso"),
        ({"type": "mask", "path": "/etc/passwd", "label": 1}, "must have a type"),
        ({"type": ["click"], "position": [1, 2, 3], "label": "lesion"}, "must have a type"),
        ({"type": "line", "start": [1, 2, 3], "label": "lesion"}, "of type line must have end"),
        ({"type": "click", "position": [1, 2], "label": "lesion"}, "three finite numbers"),
        ({"type": "click", "position": [1, 2, 3], "label": "liver", "space": "voxel"}, "unknown label"),
        ({"type": "click", "position": [1, 2, 3], "label": "lesion", "space": "mm"}, "unknown space"),
        ({"type": "scribble", "points": [[1, 2, 3]] * 20_000, "label": "lesion"}, "1 to 10000"),
        ({"type": "lasso", "points": {"a": 1}, "label": "lesion"}, "list of positions"),
    ):
        reply = running.ask("POST", "/api/prompt", body, lease)
        assert reply.status == 400, body["type"]
        assert words in reply.json()["detail"]
    assert not running.change("/api/undo", {}, lease)[0]["can_redo"]


def test_a_step_that_fails_is_no_draft(serve_cases: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = serve_cases(saves=True)
    lease = running.claim("a")
    running.change("/api/prompt", click(AT, "lesion"), lease)
    draft = (tmp_path / "out" / "drafts" / "a.json").read_text()
    with monkeypatch.context() as broken:

        def fails(*_: Any, **__: Any) -> Any:
            raise RuntimeError("out of memory")

        broken.setattr(PreparedImage, "segment", fails)
        assert running.ask("POST", "/api/prompt", click((5, 30, 4), "lesion"), lease).status == 500
    assert (tmp_path / "out" / "drafts" / "a.json").read_text() == draft
    told = running.ask("POST", "/api/open", {"case": "a"}, lease).json()
    assert (told["draft"], len(told["prompts"])) == (True, 1)


def test_a_draft_keeps_a_loaded_segmentation(serve_cases: Start, tmp_path: Path) -> None:
    running = serve_cases(saves=True)
    lease = running.claim("a")
    mask = np.zeros(SHAPE, np.uint8)
    mask[8:13, 15:25, 10:20] = 2
    image = sitk.GetImageFromArray(mask)
    image.CopyInformation(sitk.ReadImage(str(tmp_path / "images" / "a_0000.nii.gz")))
    sitk.WriteImage(image, str(tmp_path / "start.nii.gz"))
    content = (tmp_path / "start.nii.gz").read_bytes()
    change = running.change("/api/segmentation?name=start.nii.gz", content, lease)
    np.testing.assert_array_equal(painted(change), mask)
    running.ask("POST", "/api/release", b"", lease)
    again = running.claim()
    told = running.ask("POST", "/api/open", {"case": "a"}, again).json()
    assert (told["draft"], told["started"]) == (True, True)
    (tmp_path / "shown.nii.gz").write_bytes(running.ask("GET", "/api/mask/a.nii.gz", lease=again).body)
    np.testing.assert_array_equal(read(tmp_path / "shown.nii.gz"), mask)


def test_notes_are_checked_and_come_back(serve_cases: Start, served_model: Model, tmp_path: Path) -> None:
    running = serve_cases(saves=True)
    lease = running.claim()
    assert running.ask("POST", "/api/note", {"mark": "unsure"}, lease).status == 400, "no case is open"
    running.ask("POST", "/api/open", {"case": "a"}, lease)
    for wrong in ({}, {"mark": "lost"}, {"mark": 1}, {"flagged": "yes"}, {"annotator": "x"}, {"comment": "x" * 3000}):
        assert running.ask("POST", "/api/note", wrong, lease).status == 400, wrong
    row = running.ask("POST", "/api/note", {"mark": "unsure", "comment": "a\rb\ud800", "flagged": True}, lease).json()
    assert (row["state"], row["flagged"], row["comment"]) == ("unsure", True, "a b ")
    reread = Cases(tmp_path / "images", served_model, tmp_path / "out").row("a")
    assert (reread["state"], reread["comment"]) == ("unsure", "a b ")


def test_the_answer_without_prompts_is_a_step(serve_cases: Start, served_model: Model, tmp_path: Path) -> None:
    running = serve_cases()
    lease = running.claim()
    assert running.ask("POST", "/api/open", {"case": "a"}, lease).json()["automatic"] is True
    change = running.change("/api/automatic", {}, lease)
    session = opened(served_model, tmp_path / "images" / "a_0000.nii.gz")
    session.start_automatically()
    np.testing.assert_array_equal(painted(change), session.segmentation)
    assert change[0]["started"]
    assert not running.change("/api/undo", {}, lease)[0]["started"]


@pytest.fixture
def images_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are read by models, in order."""
    names: list[str] = []
    usual = Model.read

    def noted(self: Model, images: Sequence[Any]) -> Any:
        names.append(Path(images[0]).name[0])
        return usual(self, images)

    monkeypatch.setattr(Model, "read", noted)
    return names


def test_the_next_case_is_read_ahead_and_a_file_that_changes_meanwhile_is_read_again(
    serve_cases: Start, served_model: Model, tmp_path: Path, images_read: list[str]
) -> None:
    running, images = serve_cases(names=("a", "b", "c")), tmp_path / "images"
    lease = running.claim("a")
    assert running.ask("GET", f"/api/ahead/b_0000.nii.gz?lease={lease}").status == 404
    conversation = running.app.leases.find(lease).conversation
    before = conversation.nbytes
    told = running.ask("POST", "/api/ahead", {}, lease).json()
    assert (told["next"], told["file"]) == ("b", "b_0000.nii.gz")
    assert running.ask("POST", "/api/ahead", {}, lease).json() == told
    assert conversation.nbytes - before == 4 * np.prod(SHAPE), "the memory counts"
    file = images / "b_0000.nii.gz"
    assert running.ask("GET", f"/api/ahead/b_0000.nii.gz?lease={lease}").body == file.read_bytes()
    assert running.ask("POST", "/api/open", {"case": "b"}, lease).json()["version"] == told["version"]
    assert images_read == ["a", "b"], "once each"
    session = opened(served_model, file)
    session.add_click(AT, "lesion")
    mask = painted(running.change("/api/prompt", click(AT, "lesion"), lease))
    np.testing.assert_array_equal(mask, session.segmentation)

    told = running.ask("POST", "/api/ahead", {}, lease).json()
    assert told["next"] == "c"
    (images / "c_0000.nii.gz").write_bytes((images / "a_0000.nii.gz").read_bytes())
    assert running.ask("POST", "/api/open", {"case": "c"}, lease).json()["version"] != told["version"]
    session.set_image(images / "a_0000.nii.gz")
    session.add_click(AT, "lesion")
    mask = painted(running.change("/api/prompt", click(AT, "lesion"), lease))
    np.testing.assert_array_equal(mask, session.segmentation)


def test_a_guess_harms_nobody(serve_cases: Start, tmp_path: Path) -> None:
    running = serve_cases()
    leases = running.app.leases
    lease = running.claim("a")
    conversation = leases.find(lease).conversation
    budget, leases.budget = leases.budget, 8 * int(np.prod(SHAPE))
    assert running.ask("POST", "/api/ahead", {}, lease).json() == {"next": None}, "no memory is free"
    leases.budget = budget
    assert running.ask("POST", "/api/ahead", {}, lease).json()["next"] == "b"
    before = conversation.nbytes
    leases.budget = before - 1
    leases.make_room()
    assert before - conversation.nbytes == 4 * np.prod(SHAPE), "it goes first"
    leases.budget = budget
    (tmp_path / "images" / "b_0000.nii.gz").write_bytes(b"damaged")
    assert running.ask("POST", "/api/ahead", {}, lease).json() == {"next": None}
    mask = painted(running.change("/api/prompt", click(AT, "lesion"), lease))
    assert mask[AT[::-1]] == 1, "the open case goes on"
    assert running.ask("POST", "/api/open", {"case": "b"}, lease).status == 400
