"""Files as other programs and their users leave them."""

from __future__ import annotations

import codecs
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnsam3d.prompts import Click, PromptError, PromptWarning, read_prompts
from nnsam3d.prompts.labels import whole_labels

LABELS = {"background": 0, "lesion": 1}
ROW = "1,-10.5,20.25,30,0,0,0,1,1,1,0,lesion-1,,vtkMRMLScalarVolumeNode1"
COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
HEADER = "# Markups fiducial file version = 5.6\n# CoordinateSystem = LPS\n"
POINT = (Click((-10.5, 20.25, 30), "lesion"),)


def save(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}{COLUMNS}\n{ROW}\n",
        f"{HEADER}{ROW}\n",
        "\n".join(line + ",,,,," for line in f"{HEADER}{COLUMNS}\n{ROW}".splitlines()),
        f"{HEADER}{COLUMNS}\n{ROW},2,0\n",
        f"{HEADER}{COLUMNS}\n{ROW}\n2,0,0,0,0,0,0,1,1,1,0,lesion-2,,,0,0\n",
        f"{HEADER}{COLUMNS}\n{ROW}\n2,0,0,0,0,0,0,1,1,1,0,lesion-2,,,1,0\n",
        f"{HEADER}{COLUMNS}\n".replace(",", ";") + ROW.replace(",", ";").replace(".", ",") + "\n",
        f"{HEADER}{COLUMNS}\n{ROW}\n".replace(",", "\t"),
        "\n".join(f'"{line}"' if line.startswith("#") else line for line in f"{HEADER}{COLUMNS}\n{ROW}".splitlines()),
    ],
    ids=["Slicer", "no columns", "trailing commas", "placed", "unplaced", "preview", "semicolons", "tabs", "quotes"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_fiducials_however_they_were_saved(tmp_path: Path, text: str, encoding: str) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        prompts = read_prompts(save(tmp_path, "c.fcsv", text, encoding), labels=LABELS)
    assert (prompts.space, prompts.clicks) == ("lps", POINT)
    unplaced = "lesion-2" in text
    assert len(told) == unplaced
    if unplaced:
        assert told[0].category is PromptWarning
        assert "point 2 'lesion-2' has not been placed" in str(told[0].message)


def test_fiducial_lists_of_slicer_3_do_not_say_their_space(tmp_path: Path) -> None:
    head = "# Fiducial List file L.fcsv\n# name = L\n# numPoints = 1\n"
    text = head + "# columns = label,x,y,z,sel,vis\nlesion-1,1,2,3,1,1\n"
    path = save(tmp_path, "c.fcsv", text)
    with pytest.raises(PromptError, match="does not state the space"):
        read_prompts(path, labels=LABELS)
    assert read_prompts(path, labels=LABELS, space="ras").clicks == (Click((1, 2, 3), "lesion"),)


@pytest.mark.parametrize(("letters", "space"), [("l,p,s", "lps"), ("r,a,s", "ras")])
def test_the_table_that_slicer_exports(tmp_path: Path, letters: str, space: str) -> None:
    head = f"label,{letters},defined,selected,visible,locked,description\n"
    text = head + "lesion-1,1,2,3,1,1,1,0,\nlesion-2,0,0,0,0,1,1,0,\n"
    with pytest.warns(PromptWarning, match="'lesion-2' has not been placed"):
        prompts = read_prompts(save(tmp_path, "c.csv", text), labels=LABELS)
    assert (prompts.space, prompts.clicks) == (space, (Click((1, 2, 3), "lesion"),))


@pytest.mark.parametrize("kind", ["Multiple points", "Multiple Points", "MULTIPLE POINTS", "Point"])
def test_capital_letters_in_a_type_and_a_single_point(tmp_path: Path, kind: str) -> None:
    point = {"name": "lesion", "point": [1, 2, 3]}
    content = {"type": kind, **(point if kind == "Point" else {"points": [point]}), "version": {"major": 1, "minor": 0}}
    path = save(tmp_path, "c.json", json.dumps(content))
    assert read_prompts(path, labels=LABELS, space="voxel").clicks == (Click((1, 2, 3), "lesion"),)


@pytest.mark.parametrize("word", ["1", "1.0", " 1.0 ", "lesion"])
def test_integer_features_of_napari_are_labels(tmp_path: Path, word: str) -> None:
    path = save(tmp_path, "c.csv", f"index,axis-0,axis-1,axis-2,label\n0.0,3.0,2.0,1.0,{word}\n")
    (click,) = read_prompts(path, labels=LABELS).clicks
    assert click.position == (1, 2, 3)
    assert click.label in ("lesion", 1)


@pytest.mark.parametrize("word", ["", "nan", "2", "7"])
def test_features_of_napari_that_are_no_labels_are_refused(tmp_path: Path, word: str) -> None:
    path = save(tmp_path, "c.csv", f"index,axis-0,axis-1,axis-2,label\n0.0,3.0,2.0,1.0,{word}\n")
    with pytest.raises(PromptError, match=r"label is missing|not in this dataset"):
        read_prompts(path, labels=LABELS)
    assert read_prompts(path, labels=LABELS, label="lesion").clicks[0].label == "lesion"


def test_text_that_does_not_say_its_encoding_gets_the_cure(tmp_path: Path) -> None:
    path = save(tmp_path, "c.fcsv", f"{HEADER}{COLUMNS}\n{ROW}é\n", "latin-1")
    with pytest.raises(PromptError, match="save it again as UTF-8"):
        read_prompts(path)
    path.write_bytes(codecs.BOM_UTF16_LE + b"\x00")
    with pytest.raises(PromptError, match="save it again as UTF-8"):
        read_prompts(path)


@given(
    position=st.tuples(*[st.floats(-999, 999).map(lambda value: round(value, 3))] * 3),
    status=st.sampled_from(["", "0", "1", "2", "3"]),
    commas=st.integers(0, 5),
    separator=st.sampled_from([",", ";", "\t"]),
)
def test_every_way_of_saving_gives_the_point_or_leaves_it_out(
    tmp_path_factory: pytest.TempPathFactory, position: tuple, status: str, commas: int, separator: str
) -> None:
    rest = ["0", "0", "0", "1", "1", "1", "0", "lesion-1", "", "node", *([status, "0"] if status else [])]
    cells = ["1", *map(str, position), *rest]
    if separator == ";":
        cells = [cell.replace(".", ",") for cell in cells]
    lines = [*HEADER.splitlines(), COLUMNS.replace(",", separator), separator.join(cells)]
    text = "\n".join(line + separator * (commas if line.startswith("#") else 0) for line in lines)
    path = save(tmp_path_factory.mktemp("c"), "c.fcsv", text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clicks = read_prompts(path, labels=LABELS).clicks
    assert clicks == (() if status in ("0", "1", "3") else (Click(position, "lesion"),))


TWO = {"background": 0, "organ": 1, "tumour": 2}


def written(folder: Path, program: str, words: list[str | None]) -> Path:
    """Points (n, 2, 3) in Slicer's or grand-challenge's file, with these words as labels; None: no label at all."""
    if program == "slicer-fcsv":
        rows = [f"{n},{n},2,3,0,0,0,1,1,1,0,{word or ''},,\n" for n, word in enumerate(words)]
        return save(folder, "c.fcsv", f"{HEADER}{COLUMNS}\n" + "".join(rows))
    if program == "slicer-table":
        rows = [f"{word or ''},{n},2,3,1,1,1,0,\n" for n, word in enumerate(words)]
        return save(folder, "c.csv", "label,l,p,s,defined,selected,visible,locked,description\n" + "".join(rows))
    key, place = ("label", "position") if program == "slicer" else ("name", "point")
    points = [{place: [n, 2, 3]} | ({} if word is None else {key: word}) for n, word in enumerate(words)]
    if program == "slicer":
        content: dict = {"markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}]}
        return save(folder, "c.mrk.json", json.dumps(content))
    content = {"type": "Multiple points", "points": points, "version": {"major": 1, "minor": 0}}
    return save(folder, "c.json", json.dumps(content))


PROGRAMS = ["slicer", "slicer-fcsv", "slicer-table", "grand-challenge"]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("labels", [LABELS, TWO], ids=["one class", "two classes"])
def test_bare_numbers_are_the_programs_own(tmp_path: Path, program: str, labels: dict[str, int]) -> None:
    words: list[str | None] = ["0", "1", "3", "2-7", "1.0"]  # 0 is not background, and 1 not the first label
    path = written(tmp_path, program, words)
    space = "voxel" if program == "grand-challenge" else None
    with pytest.raises(
        PromptError,
        match=r"'0' is a number assigned by the program(.|\n)*'1' is a number(.|\n)*'2-7' is not(.|\n)*'1.0' is a n",
    ):
        read_prompts(path, labels=labels, space=space)
    stated = list(labels)[-1]
    clicks = read_prompts(path, labels=labels, space=space, label=stated).clicks
    assert [click.label for click in clicks] == [stated] * 5, "the stated label wins for all"
    each = dict.fromkeys(["0", "1", "3", "2-7"], "lesion" if labels is LABELS else "organ")
    clicks = read_prompts(path, labels=labels, space=space, label=each).clicks
    assert {click.label for click in clicks} == {*each.values()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_with_any_label_the_points_of_a_list_are_one_object(tmp_path: Path, program: str) -> None:
    """As for class-agnostic models. grand-challenge's names are the users' own."""
    words: list[str | None] = ["tumour-1", "tumour-12", "F-1", "background-3", "lesion", "2-1", "kidney-1-2"]
    space, own = ("voxel", True) if program == "grand-challenge" else (None, False)
    clicks = read_prompts(written(tmp_path, program, words), space=space).clicks
    stems = ["tumour", "tumour", "F", "background", "lesion", "2", "kidney-1"]
    assert [click.label for click in clicks] == [
        word if own and stem != "background" else stem for word, stem in zip(words, stems, strict=True)
    ]
    for word in ("1", "0", "1.0", None):
        with pytest.raises(PromptError, match=r"(is a number assigned by the program|is missing)(.|\n)*--label LABEL"):
            read_prompts(written(tmp_path, program, [word]), space=space)
    assert read_prompts(written(tmp_path, program, ["1"]), space=space, label={"1": "F"}).clicks[0].label == "F"


def test_with_any_label_other_programs_keep_their_names(tmp_path: Path) -> None:
    monai = save(tmp_path, "c.json", json.dumps({"kidney-1": [[1, 2, 3]], "kidney-2": [[4, 5, 6]]}))
    assert [click.label for click in read_prompts(monai).clicks] == ["kidney-1", "kidney-2"]
    napari = save(tmp_path, "c.csv", "index,axis-0,axis-1,axis-2,label\n0,3,2,1,kidney-1\n1,6,5,4,2\n")
    assert [click.label for click in read_prompts(napari).clicks] == ["kidney-1", 2]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("word", [None, "", "nan", " "])
def test_missing_labels_are_what_a_stated_label_answers(tmp_path: Path, program: str, word: str | None) -> None:
    path = written(tmp_path, program, [word])
    space = "voxel" if program == "grand-challenge" else None
    with pytest.raises(PromptError, match=r"label is missing(.|\n)*--label"):
        read_prompts(path, labels=LABELS, space=space)
    assert read_prompts(path, labels=LABELS, space=space, label="lesion").clicks[0].label == "lesion"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_stated_label_wins_over_every_word_but_background(tmp_path: Path, program: str) -> None:
    words = ["0", "1", "2", "17", "F-1", "organ", "tumour-2", "", "nan", "x"]
    path = written(tmp_path, program, [*words, "background", "background-2"])
    space = "voxel" if program == "grand-challenge" else None
    clicks = read_prompts(path, labels=TWO, space=space, label="tumour").clicks
    assert [click.label for click in clicks] == ["tumour"] * len(words) + ["background"] * 2


@given(values=st.lists(st.integers(0, 5), min_size=1), noise=st.floats(-9e-4, 9e-4))
def test_labels_that_are_nearly_whole_are_rounded_with_a_word(values: list[int], noise: float) -> None:
    array = np.array(values, np.float64) + noise
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = whole_labels(array, "map.nii.gz")
    assert found.tolist() == values
    assert found.dtype.kind in "iu"
    assert bool(told) == bool((array != values).any())
    assert all("map.nii.gz" in str(one.message) for one in told)


@pytest.mark.parametrize("value", [0.5, 0.99, 1.002, float("nan"), float("inf")])
def test_labels_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(PromptError, match=r"map\.nii\.gz: contains values that are not labels"):
        whole_labels(np.array([0.0, 1.0, value]), "map.nii.gz")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32"])
@pytest.mark.parametrize("name", ["c.fcsv", "c.json"])
def test_wide_encodings_without_a_mark(tmp_path: Path, encoding: str, name: str) -> None:
    ours = json.dumps({"nnsam3d_prompts": 1, "space": "lps", "clicks": [{"position": POINT[0].position, "label": 1}]})
    text = f"{HEADER}{COLUMNS}\n{ROW}\n" if name == "c.fcsv" else ours
    assert read_prompts(save(tmp_path, name, text, encoding), labels=LABELS).clicks[0].position == POINT[0].position


@pytest.mark.parametrize("first", ["", "sep=;\n", '"sep=;"\n'])
@pytest.mark.parametrize("head", ["index;axis-0;axis-1;axis-2", "label;s;p;l;defined"])
def test_decimal_commas_do_not_decide_the_separator(tmp_path: Path, first: str, head: str) -> None:
    cells = "0;3,5;2,5;1,5" if "axis" in head else "lesion-1;3,5;2,5;1,5;1"
    (click,) = read_prompts(save(tmp_path, "c.csv", f"{first}{head}\n{cells}\n"), labels=LABELS).clicks
    assert click.position == (1.5, 2.5, 3.5)


@pytest.mark.parametrize("defined", ["0", "0.0", "FALSE", "False", "false", "no"])
def test_unplaced_points_of_a_table_however_they_are_written(tmp_path: Path, defined: str) -> None:
    text = f"label,l,p,s,defined\nlesion-1,1,2,3,TRUE\nlesion-2,0,0,0,{defined}\n"
    with pytest.warns(PromptWarning, match="'lesion-2' has not been placed"):
        assert len(read_prompts(save(tmp_path, "c.csv", text), labels=LABELS).clicks) == 1


@pytest.mark.parametrize("status", ["0", "0.0", "1", "3", "3.0"])
def test_unplaced_points_of_a_list_that_a_spreadsheet_saved(tmp_path: Path, status: str) -> None:
    text = f"{HEADER}{COLUMNS}\n{ROW},2,0\n2,0,0,0,0,0,0,1,1,1,0,lesion-2,,,{status},0\n"
    with pytest.warns(PromptWarning, match="'lesion-2' has not been placed"):
        assert read_prompts(save(tmp_path, "c.fcsv", text), labels=LABELS).clicks == POINT


@pytest.mark.parametrize(
    "region",
    [
        {"center": [0, 0, 0], "size": [0, 0, 0], "controlPoints": []},
        {"center": [0, 0, 0], "size": [9, 9, 9], "controlPoints": [{"label": "lesion", "positionStatus": "undefined"}]},
    ],
)
def test_a_region_that_was_never_placed_is_no_box(tmp_path: Path, region: dict) -> None:
    point = {"label": "lesion", "position": [1, 2, 3]}
    markups = [
        {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": [point]},
        {"type": "ROI", "coordinateSystem": "LPS", **region},
    ]
    path = save(tmp_path, "c.mrk.json", json.dumps({"markups": markups}))
    with pytest.warns(PromptWarning, match=r"ROI\) has not been placed"):
        assert read_prompts(path, labels=LABELS).prompts == (Click((1, 2, 3), "lesion"),)


def test_columns_of_napari_that_say_nothing_here_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, "c.csv", "index,axis-0,axis-1,axis-2,polarity\n0.0,3.0,2.0,1.0,negative\n")
    with pytest.warns(PromptWarning, match="polarity.*only the column named label"):
        assert read_prompts(path, labels=LABELS).clicks == (Click((1, 2, 3), "lesion"),)


@pytest.mark.parametrize("word", ["1", "1.0"])
def test_a_mapping_of_a_number_holds_however_it_is_written(tmp_path: Path, word: str) -> None:
    path = save(tmp_path, "c.csv", f"index,axis-0,axis-1,axis-2,label\n0.0,3.0,2.0,1.0,{word}\n")
    assert read_prompts(path, labels=TWO, label={"1": "tumour"}).clicks[0].label == "tumour"


@pytest.mark.parametrize("word", ["background", "Background", "BACKGROUND-3"])
def test_background_in_capitals_is_background(tmp_path: Path, word: str) -> None:
    path = written(tmp_path, "slicer-fcsv", [word])
    assert read_prompts(path, labels=LABELS, label="lesion").clicks[0].label == "background"
