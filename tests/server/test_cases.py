"""The folder of cases and the dataset that grows: reopening, saving twice, two people, images of the same name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.errors import UserError
from nnsam3d.inference import Session
from nnsam3d.inference.cases import find_cases
from nnsam3d.inference.folder import FolderOptions, predict_folder
from nnsam3d.inference.model import Model
from nnsam3d.inference.saved import MASKS_FOLDER
from nnsam3d.nnunet.cases import strays
from nnsam3d.nnunet.datasets import STARTER
from nnsam3d.prompts import Click, Paint, read_prompts
from nnsam3d.server.cases import Cases
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.refusal import Refusal

from ..inference.conftest import read
from .conftest import AT, SHAPE, write_cases


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_cases(tmp_path / "images", geometry="oblique")


@pytest.fixture
def cases(images: Path, served_model: Model, tmp_path: Path) -> Cases:
    return Cases(images, served_model, tmp_path / "Dataset600_Clicked")


def opened(cases: Cases, model: Model, case: str = "a") -> Conversation:
    talk = Conversation(lambda: model, 2**30)
    talk.open_files(cases.files(case), case)
    cases.reopen(case, talk)
    return talk


def clicked(cases: Cases, model: Model, case: str = "a") -> Conversation:
    """A case that is open, with a click."""
    talk = opened(cases, model, case)
    talk.session.add([Click(AT, "lesion")], "voxel")
    return talk


def dataset(cases: Cases) -> Path:
    assert cases.output is not None
    return cases.output


def label_map(cases: Cases, case: str = "a") -> np.ndarray:
    return read(dataset(cases) / "labelsTr" / f"{case}.nii.gz")


def replayed(cases: Cases, model: Model, output: Path) -> np.ndarray:
    """What `predict` makes of the saved clicks."""
    there = find_cases(dataset(cases) / "imagesTr", model, dataset(cases) / "clicks")
    assert not [case.problem for case in there if case.problem]
    assert not list(strays(dataset(cases) / "imagesTr", [case.name for case in there], dataset(cases) / "clicks"))
    outcomes, _ = predict_folder(model, there, output, FolderOptions())
    assert {outcome.status for outcome in outcomes} == {"done"}
    return read(output / "a.nii.gz")


def edit(cases: Cases, case: str = "a") -> np.ndarray:
    """As another program changes a saved mask: voxels that no clicks give."""
    file = dataset(cases) / "labelsTr" / f"{case}.nii.gz"
    image = sitk.ReadImage(str(file))
    array = sitk.GetArrayFromImage(image)
    array[:] = 0
    array[2:6, 25:36, 2:9] = 2
    array[14:18, 3:9, 3:9] = 1
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(file))
    return array


def test_a_saved_case_opens_with_its_clicks_again_and_again(cases: Cases, served_model: Model, tmp_path: Path) -> None:
    talk = opened(cases, served_model)
    cases.reopen("a", talk)
    assert not talk.session.started
    talk.session.add([Click(AT, "lesion")], "voxel")
    talk.session.add([Click((20, 18, 10), "organ"), Click((22, 18, 10), "organ")], "voxel")
    cases.save(talk)
    clicks = talk.session.clicks
    for number, (position, label) in enumerate((((5, 30, 4), "lesion"), ((14, 21, 9), "background"))):
        again = opened(cases, served_model)
        assert again.session.clicks == clicks
        np.testing.assert_array_equal(again.session.segmentation, label_map(cases))
        assert set(again.volumes()) == {"lesion", "organ"}
        assert (again.session.can_undo, again.session.can_redo, again.session.started) == (True, False, False)
        again.session.add([Click(position, label)], "voxel")
        cases.save(again)
        clicks = again.session.clicks
        np.testing.assert_array_equal(label_map(cases), again.session.segmentation)
        np.testing.assert_array_equal(replayed(cases, served_model, tmp_path / f"out{number}"), label_map(cases))
    assert len(clicks) == 5
    again = opened(cases, served_model)
    while again.session.undo():
        clicks = clicks[:-1]
        assert again.session.clicks == clicks
    assert clicks == ()
    assert not (dataset(cases) / "clicks" / MASKS_FOLDER).exists()


@pytest.mark.parametrize("how", ["edited", "no clicks", "damaged clicks"])
def test_where_the_clicks_do_not_give_the_mask_the_mask_is_what_counts(
    cases: Cases, served_model: Model, tmp_path: Path, how: str
) -> None:
    talk = clicked(cases, served_model)
    cases.save(talk)
    file = dataset(cases) / "clicks" / "a.json"
    if how == "edited":
        edit(cases)
    elif how == "no clicks":
        file.unlink()
    else:
        file.write_text("{")
    start = label_map(cases)
    again = opened(cases, served_model)
    assert (again.session.clicks, again.session.started, again.session.can_undo) == ((), True, False)
    np.testing.assert_array_equal(again.session.segmentation, start)
    again.session.add([Click((20, 18, 10), "organ")], "voxel")
    cases.save(again)
    for number in range(2):  # and the mask that it started from stays, however often it is opened and saved
        np.testing.assert_array_equal(label_map(cases), again.session.segmentation)
        assert read_prompts(file).masks[0].path == f"{MASKS_FOLDER}/a.nii.gz"
        np.testing.assert_array_equal(read(file.parent / MASKS_FOLDER / "a.nii.gz"), start)
        np.testing.assert_array_equal(replayed(cases, served_model, tmp_path / f"out{number}"), label_map(cases))
        again = opened(cases, served_model)
        assert len(again.session.clicks) == number + 1
        assert again.session.started
        again.session.add([Click((10 + number, 30, 12), 0)], "voxel")
        cases.save(again)
    np.testing.assert_array_equal(replayed(cases, served_model, tmp_path / "last"), again.session.segmentation)


def test_nothing_stale_stays_after_a_reset(cases: Cases, served_model: Model, tmp_path: Path) -> None:
    talk = opened(cases, served_model)
    start = np.zeros(SHAPE, np.uint8)
    start[2:5, 2:8, 2:8] = 1
    talk.start_from(start)
    talk.session.add([Click(AT, "lesion")], "voxel")
    cases.save(talk)
    assert (dataset(cases) / "clicks" / MASKS_FOLDER / "a.nii.gz").is_file()
    talk.reset()
    written = cases.save(talk)
    assert [path for path in written if path.startswith("clicks")] == []
    assert [path for path in (dataset(cases) / "clicks").rglob("*") if path.is_file()] == []
    assert not label_map(cases).any()
    talk.session.undo()  # and what was reset can still be brought back, and saved
    cases.save(talk)
    np.testing.assert_array_equal(replayed(cases, served_model, tmp_path / "out"), label_map(cases))


def test_the_second_of_two_people_is_told(cases: Cases, served_model: Model) -> None:
    first, second = clicked(cases, served_model), opened(cases, served_model)
    second.session.add([Click((20, 18, 10), "organ")], "voxel")
    cases.save(first)
    saved = label_map(cases)
    with pytest.raises(Refusal, match="saved elsewhere") as refused:
        cases.save(second)
    assert refused.value.status == 409
    np.testing.assert_array_equal(label_map(cases), saved)
    cases.save(first)  # one's own saving is not somebody else's
    cases.save(second, overwrite=True)
    np.testing.assert_array_equal(label_map(cases), second.session.segmentation)
    cases.save(second)
    with pytest.raises(Refusal, match="saved elsewhere"):
        cases.save(first)
    third = opened(cases, served_model)
    edit(cases)
    with pytest.raises(Refusal, match="saved elsewhere"):
        cases.save(third)


def test_another_image_of_the_same_name_and_size_is_refused(
    cases: Cases, images: Path, served_model: Model, tmp_path: Path
) -> None:
    talk = clicked(cases, served_model)
    there = dataset(cases) / "imagesTr" / "a_0000.nii.gz"
    there.parent.mkdir(parents=True)
    content = bytearray((images / "a_0000.nii.gz").read_bytes())
    content[len(content) // 2] ^= 1
    there.write_bytes(content)
    with pytest.raises(Refusal, match=r"a_0000\.nii\.gz: the dataset already contains a different image") as refused:
        cases.save(talk)
    assert refused.value.status == 400
    assert there.read_bytes() == content
    assert not (dataset(cases) / "labelsTr" / "a.nii.gz").exists()
    there.write_bytes((images / "a_0000.nii.gz").read_bytes())
    cases.save(talk)
    cases.save(talk)


def test_copies_do_not_share_their_content_with_the_source(images: Path, served_model: Model, tmp_path: Path) -> None:
    for copy in (False, True):
        cases = Cases(images, served_model, tmp_path / f"out{copy}", copy=copy)
        talk = clicked(cases, served_model)
        cases.save(talk)
        made, source = dataset(cases) / "imagesTr" / "a_0000.nii.gz", images / "a_0000.nii.gz"
        assert made.read_bytes() == source.read_bytes()
        if copy:
            assert not made.samefile(source)
        cases.save(talk)


def test_what_cannot_be_written_is_named(cases: Cases, served_model: Model) -> None:
    talk = clicked(cases, served_model)
    dataset(cases).mkdir()
    (dataset(cases) / "clicks").write_text("in the way")
    with pytest.raises(Refusal, match=r"Dataset600_Clicked/clicks: the case cannot be saved: File exists") as refused:
        cases.save(talk)
    assert refused.value.status == 500


@pytest.mark.parametrize("at", ["clicks", "dataset.json", "annotation.csv"])
def test_a_save_that_fails_half_way_loses_nothing_and_can_be_repeated(
    cases: Cases, served_model: Model, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    talk = opened(cases, served_model)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:6, 4:12, 3:9] = 2
    talk.start_from(mask)
    cases.keep_draft(talk)

    def full(*given: Any, **_: Any) -> None:
        raise OSError(28, "No space left on device", at)

    usual = Session.save_prompts
    with monkeypatch.context() as patch:
        if at == "clicks":
            patch.setattr(
                Session, "save_prompts", lambda one, path: (full if path.parent.name == at else usual)(one, path)
            )
        elif at == "dataset.json":
            patch.setattr("nnsam3d.server.cases.write_json", full)
        else:
            patch.setattr(cases.journal, "change", full)
        with pytest.raises(Refusal, match=f"{at}: the case cannot be saved: No space left"):
            cases.save(talk)
    assert cases.row("a")["draft"]
    again = opened(cases, served_model)
    np.testing.assert_array_equal(again.session.segmentation, mask)
    assert again.session.started
    cases.save(talk)  # nobody else has saved it
    np.testing.assert_array_equal(label_map(cases), mask)
    assert cases.row("a")["state"] == "done"


def test_the_list_of_two_thousand_cases_opens_no_file(
    tmp_path: Path, served_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, output = tmp_path / "images", tmp_path / "out"
    (output / "labelsTr").mkdir(parents=True)
    images.mkdir()
    for number in range(2000):
        (images / f"case_{number:04d}_0000.nii.gz").touch()
        (images / f"case_{number:04d}.json").write_text("{")
        if number % 2:
            (output / "labelsTr" / f"case_{number:04d}.nii.gz").touch()
    cases = Cases(images, served_model, output)
    listings: list[str] = []
    for name in ("scandir", "listdir"):
        original = getattr(os, name)

        def counted(path: Any = ".", original: Any = original) -> Any:
            listings.append(str(path))
            return original(path)

        monkeypatch.setattr(os, name, counted)

    def refused(*given: Any, **more: Any) -> Any:
        raise AssertionError(f"opened {given}")

    monkeypatch.setattr("builtins.open", refused)
    monkeypatch.setattr("io.open", refused)
    overview = cases.overview()
    following = cases.following("case_1998")
    files = cases.files("case_1999")
    monkeypatch.undo()
    assert len(overview) == 2000
    assert sum(case["saved"] for case in overview) == 1000
    assert following == "case_0000"
    assert files == (images / "case_1999_0000.nii.gz",)
    assert len(listings) <= 8


def test_only_complete_cases_are_listed(images: Path, served_model: Model, tmp_path: Path) -> None:
    (images / "c_0001.nii.gz").touch()
    (images / "._d_0000.nii.gz").touch()
    cases = Cases(images, served_model)
    assert [case["case"] for case in cases.overview()] == ["a", "b"]
    assert cases.following("b") == "a"
    assert cases.following("") == "a"
    assert cases.following("", ["a"]) == "b", "another annotator has the first one"
    assert cases.following("b", ["a"]) == "a", "nothing else is left"
    for case in ("../a", "c", "._d", "", "a_0000"):
        with pytest.raises(Refusal, match="no case"):
            cases.files(case)
    with pytest.raises(UserError, match="no such folder"):
        Cases(tmp_path / "none", served_model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"<case>_0000\.nii\.gz"):
        Cases(tmp_path / "empty", served_model)


def test_names_that_are_not_utf8_are_left_out(
    images: Path, served_model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (b"d\xff", "\u00e4\u3000b".encode()):
        os.link(images / "a_0000.nii.gz", os.fsencode(images) + b"/" + name + b"_0000.nii.gz")
    cases = Cases(images, served_model)
    assert "rename them: no UTF-8 in the name: 'd\\udcff'" in caplog.text
    assert [row["case"] for row in cases.overview()] == ["a", "b", "\u00e4\u3000b"]
    assert cases.following("b") == "\u00e4\u3000b"
    json.dumps(cases.overview(), ensure_ascii=False).encode()
    with pytest.raises(Refusal, match="no case"):
        cases.files("d\udcff")


def test_every_step_is_kept_as_a_draft_until_the_case_is_saved(
    cases: Cases, served_model: Model, tmp_path: Path
) -> None:
    talk = opened(cases, served_model)
    assert cases.row("a")["state"] == "todo"
    talk.session.add([Click(AT, "lesion")], "voxel")
    cases.keep_draft(talk)
    assert [row["state"] for row in cases.overview()] == ["draft", *["todo"] * (len(cases.overview()) - 1)]
    again = opened(cases, served_model)
    assert again.session.clicks == talk.session.clicks
    np.testing.assert_array_equal(again.session.segmentation, talk.session.segmentation)
    again.session.add([Paint([(3, 3, 3)], "organ")], "voxel")
    cases.keep_draft(again)
    assert opened(cases, served_model).session.prompts == again.session.prompts
    cases.save(again)
    assert cases.row("a")["state"] == "done"
    assert not list((dataset(cases) / "drafts").iterdir())
    # a saved case that is worked on again is a draft, and a reset one is not
    again.session.add([Click((5, 30, 4), "lesion")], "voxel")
    cases.keep_draft(again)
    assert cases.row("a")["state"] == "draft"
    again.reset()
    cases.keep_draft(again)
    assert cases.row("a")["state"] == "done"


def test_a_draft_remembers_the_mask_it_starts_from(cases: Cases, served_model: Model) -> None:
    talk = opened(cases, served_model)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:6, 4:12, 3:9] = 2
    talk.start_from(mask)
    cases.keep_draft(talk)
    np.testing.assert_array_equal(opened(cases, served_model).session.segmentation, mask)
    cases.save(talk)
    assert not list((dataset(cases) / "drafts").rglob("*.nii.gz"))
    np.testing.assert_array_equal(label_map(cases), mask)
    again = opened(cases, served_model)
    assert again.session.started
    np.testing.assert_array_equal(again.session.segmentation, mask)
    # what was saved can be asked for instead of a draft
    again.reset()
    again.session.add([Click(AT, "lesion")], "voxel")
    cases.keep_draft(again)
    other = Conversation(lambda: served_model, 2**30)
    other.open_files(cases.files("a"), "a")
    label_file = dataset(cases) / "labelsTr" / "a.nii.gz"
    saved = label_file.read_bytes()
    label_file.write_bytes(saved[:99])
    with pytest.raises(UserError):
        cases.reopen("a", other, draft=False)
    assert cases.row("a")["state"] == "draft", "it is not lost before what was saved is there"
    label_file.write_bytes(saved)
    cases.reopen("a", other, draft=False)
    np.testing.assert_array_equal(other.session.segmentation, mask)
    assert cases.row("a")["state"] == "done"


def test_a_damaged_draft_is_left_alone(cases: Cases, served_model: Model) -> None:
    (dataset(cases) / "drafts").mkdir(parents=True)
    (dataset(cases) / "drafts" / "a.json").write_text("{")
    talk = opened(cases, served_model)
    assert talk.session.prompts == ()
    assert (dataset(cases) / "drafts" / "a.json").read_text() == "{"


def test_where_no_draft_can_be_kept_the_user_is_told(cases: Cases, served_model: Model) -> None:
    dataset(cases).mkdir()
    (dataset(cases) / "drafts").write_text("")  # a file in the way
    talk = clicked(cases, served_model)
    cases.keep_draft(talk)
    assert "no draft is kept" in talk.warnings[0]


def test_the_table_counts_the_work(cases: Cases, served_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("nnsam3d.server.conversation.time.monotonic", lambda: now[0])
    talk = opened(cases, served_model)
    now[0] += 20
    talk.session.add([Click(AT, "lesion")], "voxel")
    talk.is_worked_on()
    now[0] += 3600  # lunch
    talk.is_worked_on()
    now[0] += 5
    cases.save(talk, annotator="Ada")
    assert cases.journal is not None
    note = cases.journal.note("a")
    assert (note.annotator, note.prompts, note.seconds) == ("Ada", 1, 20 + 60 + 5)
    now[0] += 7
    cases.save(talk)
    assert cases.journal.note("a").seconds == 20 + 60 + 5 + 7
    assert cases.journal.note("a").annotator == "Ada"


def test_saving_keeps_what_was_written_to_the_table_by_hand(cases: Cases, served_model: Model) -> None:
    talk = clicked(cases, served_model)
    cases.save(talk, annotator="Ada")
    file = dataset(cases) / "annotation.csv"
    file.write_text(file.read_text().replace('"Ada"', '"Grace"').replace('"a",""', '"a","unsure"'))
    assert cases.row("a")["state"] == cases.overview()[0]["state"] == "unsure"
    file.write_text(file.read_text().replace('"unsure"', '"skipped"'))
    assert cases.following("b") is None
    file.write_text(file.read_text().replace('"skipped"', '"unsure"'))
    cases.save(talk)
    assert cases.journal is not None
    note = cases.journal.note("a")
    assert (note.mark, note.annotator) == ("unsure", "Grace")


def test_a_skipped_case_is_passed_over_until_it_is_saved(cases: Cases, served_model: Model) -> None:
    assert cases.journal is not None
    first, second = (row["case"] for row in cases.overview()[:2])
    cases.journal.change(second, mark="skipped")
    assert cases.following(first) != second
    talk = clicked(cases, served_model, second)
    cases.save(talk)
    assert cases.row(second)["state"] == "done"
    cases.journal.change(second, mark="unsure", comment='says "why", in\ntwo lines', flagged=True)
    row = Cases(cases.images, served_model, dataset(cases)).row(second)
    assert (row["state"], row["flagged"], row["comment"]) == ("unsure", True, 'says "why", in\ntwo lines')


def test_the_starters_labels_are_those_of_the_dataset(images: Path, tmp_path: Path) -> None:
    model = Model(STARTER, None, objects=["node", "vessel"])
    cases = Cases(images, model, tmp_path / "Dataset601_Nodes")
    talk = opened(cases, model)
    talk.session.add([Paint([(3, 3, 3)], "vessel")], "voxel")
    cases.save(talk)
    declared = json.loads((tmp_path / "Dataset601_Nodes" / "dataset.json").read_text())
    assert declared["labels"] == {"background": 0, "node": 1, "vessel": 2}


def test_a_model_that_learns_may_say_which_case_is_next(images: Path, served_model: Model, tmp_path: Path) -> None:
    for name in ("c", "d"):
        os.link(images / "a_0000.nii.gz", images / f"{name}_0000.nii.gz")
    learned = tmp_path / "learned"
    cases = Cases(images, served_model, tmp_path / "out", learned=learned)
    assert cases.following("a") == "b"
    learned.mkdir()
    (learned / "next.json").write_text('{"d": 0.9, "b": 0.1}')
    assert cases.following("a") == "d"
    assert {row["case"]: row.get("rank") for row in cases.overview()} == {"a": None, "b": 1, "c": None, "d": 0}


def test_a_draft_never_replaces_what_somebody_else_has_saved(cases: Cases, served_model: Model) -> None:
    first, second = clicked(cases, served_model), opened(cases, served_model)
    cases.keep_draft(first)
    second.session.add([Click((5, 30, 4), "lesion")], "voxel")
    cases.save(second, overwrite=True)
    first.session.add([Click((3, 3, 3), "background")], "voxel")
    cases.keep_draft(first)
    assert "saved elsewhere" in first.warnings[0]
    assert cases.row("a")["state"] == "done"
    # a draft that was begun before: it opens, and saving it asks
    third = clicked(cases, served_model)
    cases.keep_draft(third)
    edit(cases)
    again = opened(cases, served_model)
    assert len(again.session.clicks) == 2
    with pytest.raises(Refusal, match="saved elsewhere"):
        cases.save(again)
    cases.save(again, overwrite=True)
    assert cases.row("a")["draft"] is False


def test_a_draft_never_replaces_somebody_elses_draft(cases: Cases, served_model: Model) -> None:
    second, first = opened(cases, served_model), clicked(cases, served_model)
    cases.keep_draft(first)
    file = dataset(cases) / "drafts" / "a.json"
    theirs = file.read_bytes()
    second.session.add([Click((5, 30, 4), "lesion")], "voxel")
    for _ in range(2):  # what is done, and when it is taken back
        cases.keep_draft(second)
        assert "somebody else has a newer draft" in second.warnings[0]
        assert file.read_bytes() == theirs
        with pytest.raises(Refusal, match="newer draft of case a") as refused:
            cases.save(second)
        assert refused.value.status == 409
        second.reset()
    first.session.add([Click((20, 18, 10), "organ")], "voxel")
    cases.keep_draft(first)  # one's own draft is not somebody else's
    assert first.warnings == ()
    before = first.snapshot()
    first.open_files(cases.files("b"), "b")
    first.restore(before)  # as if another case could not be opened
    cases.keep_draft(first)
    assert first.warnings == ()
    third = opened(cases, served_model)
    assert third.session.prompts == first.session.prompts
    third.session.undo()
    cases.keep_draft(third)
    cases.keep_draft(first)
    assert "newer draft" in first.warnings[0]
    cases.save(first, overwrite=True)
    np.testing.assert_array_equal(label_map(cases), first.session.segmentation)
    assert not list((dataset(cases) / "drafts").iterdir())


def test_a_case_with_a_draft_can_be_skipped_and_marked(cases: Cases, served_model: Model) -> None:
    assert cases.journal is not None
    talk = clicked(cases, served_model, "b")
    cases.keep_draft(talk)
    assert cases.following("a") == "b"
    for mark in ("skipped", "unsure"):
        cases.journal.change("b", mark=mark)
        assert (cases.row("b")["state"], cases.row("b")["draft"]) == (mark, True)
    assert cases.following("a") is None


def test_a_dataset_with_other_labels_is_not_continued(cases: Cases, images: Path, served_model: Model) -> None:
    talk = clicked(cases, served_model)
    cases.save(talk)
    Cases(images, served_model, dataset(cases))
    with pytest.raises(UserError, match=r"dataset\.json: the dataset has the labels .*lesion"):
        Cases(images, Model(STARTER, None, objects=["organ", "lesion"]), dataset(cases))
    (dataset(cases) / "dataset.json").write_text("[]")
    with pytest.raises(UserError, match="damaged"):
        Cases(images, served_model, dataset(cases))
