"""Other programs' prompt files: what they mean, and what is refused rather than guessed."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnsam3d.prompts import (
    Box,
    CasePrompts,
    Click,
    PromptCodec,
    PromptError,
    PromptWarning,
    clicks_to_labels,
    read_prompts,
    write_prompts,
)
from nnsam3d.prompts.formats.detect import recognised
from nnsam3d.prompts.formats.plain_pickle import NotPlain, load_plain

from .by_hand import CLICKS, FCSV_HEADER, GRID, LABELS, WRITERS, fcsv, slicer

TWO = {"background": 0, "liver": 1, "lesion": 2}


def save(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def failure(path: Path, **options: Any) -> str:
    with pytest.raises(PromptError) as caught:
        read_prompts(path, **({"image": GRID, "labels": LABELS} | options))
    assert all(line.startswith(str(path)) for line in str(caught.value).splitlines())
    return str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_clicks(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path, CLICKS, GRID)
    space = "voxel" if name == "grand_challenge" else None
    prompts = read_prompts(path, GRID, LABELS, space=space)
    assert prompts.case == "case"
    index, values = prompts.points.to("voxel", GRID).values_N3, clicks_to_labels(prompts, LABELS)
    found = [(label, *np.round(row, 6)) for label, row in zip(values, index, strict=True)]
    expected = [(LABELS[label], *position) for position, label in CLICKS]
    is_ordered = name.startswith(("ours", "slicer", "fcsv", "chall", "nap")) and name != "slicer_two_lists"
    assert found == expected if is_ordered else sorted(found) == sorted(expected)
    if path.suffix != ".npz":
        text = path.read_text()
        assert len(recognised("json", json.loads(text)) if path.suffix == ".json" else recognised("text", text)) == 1


@pytest.mark.parametrize("name", WRITERS)
def test_files_without_clicks_are_read(tmp_path: Path, name: str) -> None:
    """An empty list of clicks is a fact; what to do with it is the caller's decision."""
    path = WRITERS[name](tmp_path, [], GRID)
    space = "voxel" if name == "grand_challenge" else None
    assert read_prompts(path, GRID, LABELS, space=space).clicks == ()


@pytest.mark.parametrize("format", ["nnsam3d", "slicer", "grand-challenge"])
@pytest.mark.parametrize("space", ["voxel", "lps", "ras"])
def test_what_is_written_is_read_back(tmp_path: Path, format: str, space: str) -> None:
    position = tuple(GRID.index_to_world([CLICKS[0][0]], space)[0]) if space != "voxel" else CLICKS[0][0]
    prompts = CasePrompts("case", space, (Click(position, "lesion"), Click(position, 0)))  # type: ignore[arg-type]
    path = tmp_path / ("case.mrk.json" if format == "slicer" else "case.json")
    write_prompts(path, prompts, format=format, image=GRID)
    stated = space if format == "grand-challenge" else None
    back = read_prompts(path, GRID, LABELS, space=stated)
    assert np.abs(back.points.to(space, GRID).values_N3 - position).max() < 1e-9
    assert clicks_to_labels(back, LABELS).tolist() == [1, 0]


def test_writing_what_cannot_be_written(tmp_path: Path) -> None:
    prompts = CasePrompts("case", "voxel", (Click((1, 2, 3), 1),))
    with pytest.raises(PromptError, match="needs the image"):
        write_prompts(tmp_path / "case.mrk.json", prompts, format="slicer")
    with pytest.raises(PromptError, match="cannot be written; possible: nnsam3d, slicer, grand-challenge"):
        write_prompts(tmp_path / "case.csv", prompts, format="napari")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- which format


def test_ambiguous_and_unknown_files_name_the_candidates(tmp_path: Path) -> None:
    both = save(tmp_path, "case.json", {"markups": [], "nnsam3d_prompts": 1, "space": "voxel", "clicks": []})
    message = failure(both)
    assert "the format could be nnsam3d, slicer" in message
    assert "--format" in message
    message = failure(save(tmp_path, "dataset.json", {"labels": {"background": 0}, "file_ending": ".nii.gz"}))
    assert "contains no known prompts (its keys: 'labels', 'file_ending')" in message
    known = "nnsam3d, slicer, slicer-fcsv, slicer-table, autopet, challenge-npz, grand-challenge, monai-label, napari"
    assert known in message
    assert "not a known list of points" in failure(save(tmp_path, "case.csv", "a,b,c\n1,2,3\n"))
    with pytest.raises(PromptError, match="unknown prompt format 'gimp'"):
        read_prompts(both, format="gimp")


def test_a_stated_format_is_taken_at_its_word(tmp_path: Path) -> None:
    path = save(tmp_path, "case.json", {"tumor": [[51, 7, 30]], "background": []})
    assert read_prompts(path, GRID, LABELS).clicks[0].label == "lesion"
    assert "label 'tumor' is not in this dataset" in failure(path, format="monai-label")
    assert 'missing "nnsam3d_prompts"' in failure(path, format="nnsam3d")


def test_the_suffix_does_not_matter_the_content_does(tmp_path: Path) -> None:
    path = slicer(tmp_path, CLICKS, GRID).rename(tmp_path / "liver_003.json")
    assert read_prompts(path, GRID, LABELS).case == "liver_003"
    path = fcsv(tmp_path, CLICKS, GRID).rename(tmp_path / "liver_003.txt")
    assert read_prompts(path, GRID, LABELS).case == "liver_003"


# ---------------------------------------------------------------------- spaces


def test_grand_challenge_needs_its_space_stated(tmp_path: Path) -> None:
    path = WRITERS["grand_challenge"](tmp_path, CLICKS, GRID)
    message = failure(path)
    assert "does not state the space" in message
    assert "nnsam3d prompts convert --space voxel" in message
    assert len(read_prompts(path, GRID, LABELS, space="voxel").clicks) == 3
    assert "outside the image" in failure(path, space="lps")


def test_fcsv_without_its_header_is_refused(tmp_path: Path) -> None:
    text = fcsv(tmp_path, CLICKS, GRID).read_text()
    path = save(tmp_path, "case.fcsv", re.sub("# Coordinate.*\n", "", text))
    assert "does not state the space" in failure(path)
    assert len(read_prompts(path, GRID, LABELS, space="lps").clicks) == 3
    bare = save(tmp_path, "case.fcsv", re.sub("# columns.*\n", "", text))
    assert len(read_prompts(bare, GRID, LABELS).clicks) == 3, "Slicer's own columns"
    assert "unknown CoordinateSystem 'XYZ'" in failure(save(tmp_path, "case.fcsv", text.replace("= LPS", "= XYZ")))


def test_a_stated_space_must_not_contradict_the_file(tmp_path: Path) -> None:
    for name in WRITERS:
        if name != "grand_challenge":
            wrong = "ras" if name in ("ours", "autopet", "challenge_npz", "napari") or "monai" in name else "voxel"
            assert f'"{wrong}" was stated' in failure(WRITERS[name](tmp_path, CLICKS, GRID), space=wrong)


def test_slicers_numeric_codes(tmp_path: Path) -> None:
    """Old Slicer: 0 = RAS, 1 = LPS, 2 = IJK."""
    for code, space in ((0, "ras"), (1, "lps"), ("1", "lps"), (2, "voxel")):
        path = slicer(tmp_path, CLICKS, GRID)
        content = json.loads(path.read_text())
        content["markups"][0]["coordinateSystem"] = code
        assert read_prompts(save(tmp_path, "case.mrk.json", content)).space == space
    for wrong in (7, True, None, "XYZ", [0], 0.0):
        content["markups"][0]["coordinateSystem"] = wrong
        assert "unknown coordinateSystem" in failure(save(tmp_path, "case.mrk.json", content))
    del content["markups"][0]["coordinateSystem"]
    assert read_prompts(save(tmp_path, "case.mrk.json", content)).space == "lps"


# ---------------------------------------------------------------------- Slicer's other traps


def edited(folder: Path, **changes: Any) -> Path:
    """A markups file with changes to its first point ("point_...") or its list."""
    content = json.loads(slicer(folder, CLICKS, GRID).read_text())
    for key, value in changes.items():
        if key.startswith("point_"):
            content["markups"][0]["controlPoints"][0][key.removeprefix("point_")] = value
        else:
            content["markups"][0][key] = value
    return save(folder, "case.mrk.json", content)


def test_points_that_were_not_placed_are_left_out_and_said(tmp_path: Path) -> None:
    path = edited(tmp_path, point_positionStatus="undefined")
    with pytest.warns(PromptWarning, match=r"case\.mrk\.json: markup 1, point 1 'lesion-1' has not been placed"):
        assert len(read_prompts(path, GRID, LABELS).clicks) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "Angle"}, "a markup of type 'Angle' is not a prompt"),
        ({"type": "Plane"}, "point lists (Fiducial), boxes (ROI), lines (Line) and curves"),
        ({"type": "Line"}, "markup 1 (Line): a line has 2 points, this one has 3"),
        ({"type": "Curve", "point_position": [1, 2]}, "markup 1 (Curve): position must be three finite numbers"),
        ({"type": "ClosedCurve", "point_position": [1, 2]}, "markup 1 (ClosedCurve): position must be three finite"),
        ({"coordinateUnits": "um"}, "coordinateUnits 'um'"),
        ({"controlPoints": 5}, '"controlPoints" must be a list, not a number'),
        ({"controlPoints": [5]}, "markup 1, point 1: must be an object"),
        ({"point_position": [1, 2]}, "point 1 'lesion-1': position must be three finite numbers"),
        ({"point_positionStatus": "perhaps"}, "unknown positionStatus 'perhaps'"),
        ({"point_label": ["lesion"]}, "label must be a name"),
    ],
)
def test_bad_markups(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in failure(edited(tmp_path, **changes))


def test_slicers_default_names_tell_what_to_do(tmp_path: Path) -> None:
    path = edited(tmp_path, point_label="F-1")
    message = failure(path)
    assert "markup 1, point 1 'F-1': label 'F-1' is not in this dataset" in message
    assert 'allowed: "background" (0), "lesion" (1)' in message
    assert "--label lesion" in message
    assert "--label 'F-1=lesion'" in message
    assert "rename the point list to the label" in message
    for said in ("lesion", 1, {"F": "lesion"}, {"F-1": 1}):
        prompts = read_prompts(path, GRID, LABELS, label=said)
        assert clicks_to_labels(prompts, LABELS).tolist() == [1, 0, 1]
    assert "the stated label 'x' is not in" in failure(path, label="x")


def test_words_as_labels(tmp_path: Path) -> None:
    for word, value in (("liver", 1), ("liver-12", 1), ("background-1", 0), ("background", 0)):
        prompts = read_prompts(edited(tmp_path, point_label=word), GRID, TWO)
        assert clicks_to_labels(prompts, TWO)[0] == value
    numbered = TWO | {"liver-12": 3}
    prompts = read_prompts(edited(tmp_path, point_label="liver-12"), GRID, numbered)
    assert clicks_to_labels(prompts, numbered)[0] == 3, "a label's full name goes before its numbering"


def test_a_translation_wins_over_the_word(tmp_path: Path) -> None:
    prompts = read_prompts(edited(tmp_path), GRID, TWO, label={"lesion": "liver"})
    assert clicks_to_labels(prompts, TWO).tolist() == [1, 0, 1]


# ---------------------------------------------------------------------- foreground without a name


def test_tumor_is_the_only_foreground_label_or_must_be_translated(tmp_path: Path) -> None:
    path = save(tmp_path, "case.json", {"tumor": [[1, 2, 3]]})
    assert read_prompts(path, GRID, LABELS).clicks == (Click((1, 2, 3), "lesion"),)
    assert read_prompts(path, GRID, TWO | {"tumor": 3}).clicks[0].label == "tumor"
    assert "label 'tumor' is not in" in failure(path, labels=TWO)
    assert read_prompts(path, GRID, TWO, label={"tumor": 2}).clicks[0].label == 2
    assert read_prompts(path).clicks[0].label == "tumor"


def test_positives_survive_without_background_clicks(tmp_path: Path) -> None:
    for content in ({"tumor": [[1, 2, 3]], "background": []}, {"tumor": [[1, 2, 3]]}):
        assert len(read_prompts(save(tmp_path, "case.json", content), GRID, LABELS).clicks) == 1
    content = {"tumor": [], "background": [[1, 2, 3]]}
    assert read_prompts(save(tmp_path, "case.json", content), GRID, LABELS).clicks == (Click((1, 2, 3), "background"),)


def test_deepgrow_without_a_label_and_napari_without_a_column(tmp_path: Path) -> None:
    deepgrow = save(tmp_path, "a.json", {"foreground": [[1, 2, 3]], "background": []})
    napari = save(tmp_path, "a.csv", "index,axis-0,axis-1,axis-2\n0,3,2,1\n")
    for path in (deepgrow, napari):
        assert read_prompts(path, GRID, LABELS).clicks == (Click((1, 2, 3), "lesion"),)
        assert "label 'foreground' is not in" in failure(path, labels=TWO)
        assert read_prompts(path, GRID, TWO, label="liver").clicks[0].label == "liver"


# ---------------------------------------------------------------------- npz


def npz(folder: Path, **parts: Any) -> Path:
    path = folder / "case.npz"
    np.savez(path, **parts)
    return path


def test_npz_with_several_classes(tmp_path: Path) -> None:
    clicks = [{"fg": [[1, 2, 3]], "bg": []}, {"fg": [np.array([4, 5, 6])], "bg": [(7, np.int64(8), 9)]}]
    path = npz(tmp_path, clicks=clicks, clicks_order=np.array([["fg"], ["bg", "fg"]], dtype=object))
    message = failure(path, labels=TWO)
    assert 'class 2, click 1 ("bg"): label \'bg\' means only "not this"' in message
    with pytest.raises(PromptError, match="--label bg=background"):
        read_prompts(path, GRID, TWO, label="liver")  # what is said about all words makes no negative click positive
    assert "class 1, click 1 (\"fg\"): label '1' is a number assigned by the program" in message
    said = {"bg": "background", "1": "lesion", "2": "liver"}
    prompts = read_prompts(path, GRID, TWO, label=said)
    assert prompts.clicks == (Click((3, 2, 1), "lesion"), Click((9, 8, 7), "background"), Click((6, 5, 4), "liver"))


def test_npz_classes_are_what_the_file_calls_them(tmp_path: Path) -> None:
    clicks = [{"fg": [[1, 2, 3]], "bg": []}, {"fg": [[4, 5, 6]], "bg": []}]
    names = np.array({"1": "lesion", "2": "liver", "instance_label": 0}, dtype=object)
    path = npz(tmp_path, clicks=clicks, text_prompts=names)
    assert [click.label for click in read_prompts(path, GRID, TWO).clicks] == ["lesion", "liver"]


@pytest.mark.parametrize("told", [{"2": "lesion", "5": "liver"}, {5: "liver", 2: "lesion"}])
def test_npz_classes_are_in_the_order_of_their_numbers(tmp_path: Path, told: dict) -> None:
    clicks = [{"fg": [[1, 2, 3]], "bg": []}, {"fg": [[4, 5, 6]], "bg": []}]
    path = npz(tmp_path, clicks=clicks, text_prompts=np.array(told, dtype=object))
    assert [click.label for click in read_prompts(path, GRID, TWO).clicks] == ["lesion", "liver"]


def test_npz_with_more_names_than_classes_does_not_tell_which_are_in_the_image(tmp_path: Path) -> None:
    names = np.array({"1": "lesion", "2": "liver", "3": "cyst"}, dtype=object)
    path = npz(tmp_path, clicks=[{"fg": [[1, 2, 3]], "bg": []}, {"fg": [[4, 5, 6]], "bg": []}], text_prompts=names)
    assert "label '1' is a number assigned by the program" in failure(path, labels=TWO)


def test_npz_without_order_or_with_a_wrong_one(tmp_path: Path) -> None:
    clicks = [{"fg": [[1, 2, 3]], "bg": [[4, 5, 6]]}]
    assert len(read_prompts(npz(tmp_path, clicks=clicks), GRID, LABELS).clicks) == 2
    message = failure(npz(tmp_path, clicks=clicks, clicks_order=[["fg"]]))
    assert 'does not match the clicks (1 "fg", 1 "bg")' in message
    assert '"clicks_order" must have one list' in failure(npz(tmp_path, clicks=clicks, clicks_order=[]))


BOX = {"z_min": 1, "z_max": 3, "z_mid": 2, "z_mid_x_min": 7, "z_mid_y_min": 4, "z_mid_x_max": 9, "z_mid_y_max": 6}


def test_npz_boxes_stand_beside_clicks_and_alone(tmp_path: Path) -> None:
    box = Box((7, 4, 1), (9, 6, 3), "lesion")
    both = read_prompts(npz(tmp_path, clicks=[{"fg": [[1, 2, 3]], "bg": []}], boxes=[BOX]), GRID, LABELS)
    assert both.prompts == (box, Click((3, 2, 1), "lesion"))
    assert PromptCodec(("click", "box")).usable(both, "c").prompts == both.prompts
    with pytest.warns(PromptWarning, match="c: this model was trained with prompts of type click, not box: 1 skipped"):
        assert PromptCodec().usable(both, "c").prompts == both.clicks
    assert read_prompts(npz(tmp_path, boxes=[BOX]), GRID, LABELS).prompts == (box,)
    assert "z_mid_x_min, z_mid_y_min" in failure(npz(tmp_path, boxes=[{"z_min": 1}]))
    assert "middle (8, 5, 250)" in failure(npz(tmp_path, boxes=[BOX | {"z_min": 200, "z_max": 300}]))
    assert 'contains no "clicks"' in failure(npz(tmp_path, probabilities=np.zeros(3)))


def test_a_slicer_region_is_a_box(tmp_path: Path) -> None:
    def region(**changes: object) -> Path:
        markup = {
            "type": "ROI", "roiType": "Box", "coordinateSystem": "LPS", "coordinateUnits": "mm",
            "center": [10.0, 20.0, -5.0], "size": [4.0, 6.0, 8.0], "orientation": [1, 0, 0, 0, 1, 0, 0, 0, 1],
            "controlPoints": [{"id": "1", "label": "lesion-1", "position": [10, 20, -5]}],
        }  # fmt: skip
        path = tmp_path / "c.mrk.json"
        path.write_text(json.dumps({"markups": [markup | changes]}), encoding="utf-8")
        return path

    assert read_prompts(region(), labels=LABELS).prompts == (Box((8, 17, -9), (12, 23, -1), "lesion"),)
    ras = read_prompts(region(coordinateSystem="RAS"), labels=LABELS)
    assert (ras.space, ras.prompts) == ("ras", (Box((8, 17, -9), (12, 23, -1), "lesion"),))
    turned = read_prompts(region(orientation=[0, -1, 0, 1, 0, 0, 0, 0, 1]), labels=LABELS)
    assert turned.prompts == (Box((7, 18, -9), (13, 22, -1), "lesion"),)
    assert "the label is missing" in failure(region(controlPoints=[]))
    assert "center, size" in failure(region(size=None))
    assert "is not a box" in failure(region(roiType="Sphere"))


@pytest.mark.parametrize(
    ("clicks", "message"),
    [
        ([5], 'class 1: must be an object with "fg" and "bg", got 5'),
        ([{"fg": 5}], '"fg" must be a list of positions, got 5'),
        ([{"fg": [[1, 2]]}], "three finite numbers"),
        ([{"plus": [[1, 2, 3]]}], "must be an object"),
        ([{"fg": [[1, 2, 300]]}], "outside the image"),
        ([{(1,): []}], "keys are neither text nor numbers"),
        (["x" * 2**21], "larger than 1 MB"),
        (np.zeros(3, "datetime64[s]"), "cannot be used"),
    ],
)
def test_bad_npz(tmp_path: Path, clicks: Any, message: str) -> None:
    objects = clicks if isinstance(clicks, np.ndarray) else np.array(clicks, dtype=object)
    assert message in failure(npz(tmp_path, clicks=objects))


class Evil:
    """What a stranger's pickle may do."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


def test_nothing_in_a_pickle_is_ever_run(tmp_path: Path) -> None:
    trace = tmp_path / "was_here"
    file = npz(tmp_path, clicks=np.array([Evil(trace)], dtype=object))
    assert "refused" in failure(file)
    assert not trace.exists()
    with np.load(file, allow_pickle=True) as archive:
        assert archive["clicks"] is not None
    assert trace.exists(), "the check of the check"


@pytest.mark.parametrize("protocol", [3, 4])
def test_plain_pickles_of_the_protocols_that_numpy_writes(protocol: int) -> None:
    value = [{"fg": [[1, 2.5, 3], (4, 5, 10**20)], "bg": []}, [True, False, None, "ü", b"x"], (), -7]
    assert load_plain(pickle.dumps(value, protocol)) == value
    array = np.array([[1, 2, 3], [4, 5, 6]], ">i2", order="F")
    found = load_plain(pickle.dumps([array, np.float32(0.5), array[:0]], protocol))
    assert found == [array.tolist(), 0.5, []]


@pytest.mark.parametrize(
    "value", [print, {1.5: 2}, {(1,): 2}, {"a"}, complex(1, 2), np.zeros(2, "U3"), bytearray(b"x")]
)
def test_more_than_plain_data_is_refused(value: Any) -> None:
    with pytest.raises(NotPlain):
        load_plain(pickle.dumps(value, 4))


def test_lying_zip_directories_and_bombs(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**60,)})
    with zipfile.ZipFile(tmp_path / "case.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clicks.npy", header.getvalue() + bytes(10))
    assert "cannot be used" in failure(tmp_path / "case.npz")
    with zipfile.ZipFile(tmp_path / "case.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clicks.npy", header.getvalue() + bytes(10**8))
    assert "larger than 1 MB" in failure(tmp_path / "case.npz")


# ---------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("case.csv", "index,axis-0,axis-1\n0,1,2\n", "needs the columns axis-0, axis-1 and axis-2"),
        ("case.csv", "index,axis-0,axis-1,axis-2,axis-3\n0,1,2,3,4\n", "needs the columns"),
        ("case.csv", "index,axis-0,axis-1,axis-2\n0,1,2\n", "row 1: the line is too short, axis-2 missing"),
        ("case.csv", "index,axis-0,axis-1,axis-2\n0,1,two,3\n", "three finite numbers, got [3.0, 'two', 1.0]"),
        ("case.csv", "index,axis-0,axis-1,axis-2\n0,1,nan,3\n", "three finite numbers"),
        ("case.fcsv", FCSV_HEADER.format(system="LPS") + "a,1,2\n", "the line is too short, z missing"),
        ("case.fcsv", FCSV_HEADER.format(system="LPS") + "a,x,2,3,,,,,,,,lesion,,\n", "three finite numbers"),
        ("case.fcsv", "vtkMRMLMarkupsFiducialNode_0,1,2,3,0,0,0,1,1,1,0,F-1,,\n", "does not state the space"),
    ],
)
def test_bad_text(tmp_path: Path, name: str, text: str, message: str) -> None:
    assert message in failure(save(tmp_path, name, text))
