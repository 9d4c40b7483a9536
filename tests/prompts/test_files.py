"""Our prompt file, version 1."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnsam3d.geometry import GeometryError, ImageGrid
from nnsam3d.prompts import (
    CasePrompts,
    Click,
    PromptError,
    clicks_to_labels,
    files,
    read_prompts,
    write_prompts,
)
from nnsam3d.prompts.formats import detect

LABELS = {"background": 0, "tumour": 1}
GRID = ImageGrid((100, 80, 40), (1.0, 1.0, 2.0), (10.0, 20.0, -30.0), np.eye(3))
GOOD = {"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [1, 2.5, 3], "label": "tumour"}]}

finite = st.floats(-1e9, 1e9)
clicks = st.builds(
    Click,
    st.tuples(finite, finite, finite),
    st.one_of(st.integers(0, 10**6), st.text(min_size=1, max_size=8)),
)
prompts = st.builds(CasePrompts, st.just("case_1"), st.sampled_from(["voxel", "lps", "ras"]), st.lists(clicks))


def save(folder: Path, content: object) -> Path:
    path = folder / "case_1.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def click(position: object = (1, 2, 3), label: object = "tumour", **more: object) -> dict:
    return GOOD | {"clicks": [{"position": position, "label": label} | more]}


def failure(path: Path, **options: object) -> str:
    with pytest.raises(PromptError) as caught:
        read_prompts(path, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_the_example_of_the_design(tmp_path: Path) -> None:
    clicks = [{"position": [99, 70, 20], "label": 1}, {"position": [60, 8, 4], "label": "background"}]
    result = read_prompts(save(tmp_path, GOOD | {"clicks": clicks}), GRID, LABELS)
    assert result == CasePrompts("case_1", "voxel", (Click((99, 70, 20), 1), Click((60, 8, 4), "background")))
    assert result.points.values_N3.tolist() == [[99, 70, 20], [60, 8, 4]]
    assert clicks_to_labels(result, LABELS).tolist() == [1, 0]


def test_no_clicks_are_allowed(tmp_path: Path) -> None:
    result = read_prompts(save(tmp_path, GOOD | {"clicks": []}), GRID, LABELS)
    assert result.clicks == ()
    assert result.points.values_N3.shape == (0, 3)
    assert clicks_to_labels(result, LABELS).shape == (0,)


@settings(max_examples=60)
@given(prompts=prompts)
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, prompts: CasePrompts) -> None:
    path = tmp_path_factory.mktemp("round") / "case_1.json"
    write_prompts(path, prompts)
    assert read_prompts(path) == prompts
    assert os.listdir(path.parent) == ["case_1.json"]


def test_failed_writing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, GOOD)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_prompts(path, CasePrompts("case_1", "lps"))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["case_1.json"]


def test_world_positions_become_indices(tmp_path: Path) -> None:
    for space, position in (("lps", [15, 27, -20]), ("ras", [-15, -27, -20])):
        result = read_prompts(save(tmp_path, click(position) | {"space": space}), GRID, LABELS)
        assert np.allclose(result.points.to("voxel", GRID).values_N3, [[5, 7, 5]])


BAD = {
    "trailing comma": ('{"a": 1,\n }', [r"malformed JSON at line \d, column \d"]),
    "empty file": ("", ["malformed JSON at line 1, column 1"]),
    "list": ("[]", ["one JSON object, not a list"]),
    "null": ("null", ["not null"]),
    "deep": ("[" * 100_000, ["malformed JSON"]),
    "endless number": ('{"nnsam3d_prompts": ' + "1" * 5000 + "}", ["malformed JSON"]),
    "version missing": (
        {k: v for k, v in GOOD.items() if k != "nnsam3d_prompts"},
        ['missing "nnsam3d_prompts"'],
    ),
    "version 3": (GOOD | {"nnsam3d_prompts": 3}, ["unknown version", "3; allowed: 1, 2"]),
    "clicks in version 2": (GOOD | {"nnsam3d_prompts": 2}, ['unknown key "clicks"', 'missing "prompts"']),
    "version true": (GOOD | {"nnsam3d_prompts": True}, ["unknown version"]),
    "version text": (GOOD | {"nnsam3d_prompts": "1"}, ["unknown version"]),
    "space missing": (
        {k: v for k, v in GOOD.items() if k != "space"},
        ['missing "space"', "voxel, lps, ras"],
    ),
    "space unknown": (GOOD | {"space": "mm"}, ["unknown space 'mm'", '"voxel", "lps", "ras"']),
    "space null": (GOOD | {"space": None}, ["unknown space None"]),
    "clicks missing": ({k: v for k, v in GOOD.items() if k != "clicks"}, ['missing "clicks"']),
    "clicks object": (GOOD | {"clicks": {}}, ['"clicks" must be a list, not an object']),
    "click is a list": (GOOD | {"clicks": [[1, 2, 3]]}, ["click 1: must be an object", "not a list"]),
    "unknown key": (GOOD | {"case": "x"}, ['unknown key "case"', '"nnsam3d_prompts", "space", "clicks"']),
    "unknown click key": (click(polarity=1), ['click 1: unknown key "polarity"', '"position", "label"']),
    "repeated key": (
        '{"nnsam3d_prompts": 1, "space": "voxel", "space": "lps", "clicks": []}',
        ['"space" appears'],
    ),
    "repeated click key": (
        '{"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position":[1,1,1],"label":1,"label":0}]}',
        ['"label" appears more than once'],
    ),
    "position missing": (GOOD | {"clicks": [{"label": 1}]}, ['click 1: missing "position"']),
    "label missing": (GOOD | {"clicks": [{"position": [1, 2, 3]}]}, ['click 1: missing "label"']),
    "two numbers": (click([1, 2]), ["click 1: position must be three finite numbers"]),
    "NaN": (click([1, 2, float("nan")]), ["three finite numbers", "nan"]),
    "overflow": (json.dumps(click()).replace("[1, 2, 3]", "[1, 2, 1e999]"), ["three finite numbers"]),
    "position object": (click({"x": 1, "y": 2, "z": 3}), ["three finite numbers"]),
    "label unknown": (
        click(label="tumor"),
        ["click 1: unknown label 'tumor'", r'"background" \(0\), "tumour" \(1\)'],
    ),
    "label number": (click(label=7), ["unknown label 7"]),
    "label null": (click(label=None), ["label must be"]),
    "label NaN": (click(label=float("nan")), ["label must be"]),
    "outside": (
        click([10, 80, 3]),
        [r"click 1: position \(10, 80, 3\)", r"100 x 80 x 40", r"-0.5 <= j < 79.5", "outside the image"],
    ),
    "negative": (click([-0.6, 0, 0]), ["outside the image"]),
    "wrong sign": (
        click([-15, -27, -20]) | {"space": "lps"},
        [r"at index \(-25.0, -47.0, 5.0\)", 'inside in space "ras"'],
    ),
    "voxels called mm": (click([5, 7, 5]) | {"space": "ras"}, ["outside", 'inside in space "voxel"']),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path: Path, name: str) -> None:
    content, patterns = BAD[name]
    path = save(tmp_path, content)
    message = failure(path, image=GRID, labels=LABELS)
    assert len(message) < 1000
    for line in message.splitlines():
        assert line.startswith(str(path))
    for pattern in patterns:
        assert re.search(pattern, message), message


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    entries = [
        {"position": [1, 2, 3], "label": "x"},
        {"position": [500, 0, 0], "label": "y"},
        {"position": 1},
    ]
    lines = failure(save(tmp_path, {"space": "voxel", "clicks": entries}), image=GRID, labels=LABELS).splitlines()
    assert len(lines) == 6  # version, two labels, one outside, position and label of the third
    assert [sum(f"click {n}:" in line for line in lines) for n in (1, 2, 3)] == [1, 2, 2]


def test_thousands_of_problems_are_cut_short(tmp_path: Path) -> None:
    lines = failure(save(tmp_path, GOOD | {"clicks": [0] * 2000})).splitlines()
    assert len(lines) == files.MAX_PROBLEMS + 1
    assert "1950 more" in lines[-1]


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = CasePrompts("case_1", "voxel", (Click((0, 0, 0), 1),) * 10_001)
    with pytest.raises(PromptError, match="at most 10000"):
        write_prompts(tmp_path / "case_1.json", many)
    assert not os.listdir(tmp_path)
    path = save(tmp_path, GOOD | {"clicks": [GOOD["clicks"][0]] * 10_001})
    assert "at most 10000" in failure(path)
    monkeypatch.setattr(detect, "MAX_BYTES", 100)
    assert "larger than" in failure(path)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    assert "nothing.json: the prompt file cannot be read (No such file" in failure(tmp_path / "nothing.json")
    assert "cannot be read" in failure(tmp_path)
    path = tmp_path / "latin.json"
    path.write_bytes(b'{"space": "\xe4"}')
    assert "UTF-8" in failure(path)


def test_byte_order_mark_of_windows_editors(tmp_path: Path) -> None:
    path = save(tmp_path, "\ufeff" + json.dumps(GOOD))
    assert len(read_prompts(path).clicks) == 1


def test_image_as_a_path(tmp_path: Path) -> None:
    import SimpleITK as sitk

    sitk.WriteImage(sitk.Image(4, 4, 4, sitk.sitkUInt8), str(tmp_path / "case_1_0000.nrrd"))
    path = save(tmp_path, GOOD)
    assert read_prompts(path, image=tmp_path / "case_1_0000.nrrd").case == "case_1"
    assert "4 x 4 x 4" in failure(save(tmp_path, click([4, 0, 0])), image=tmp_path / "case_1_0000.nrrd")
    with pytest.raises(GeometryError, match=r"none\.nrrd"):
        read_prompts(path, image=tmp_path / "none.nrrd")


@pytest.mark.parametrize(
    ("name", "format", "written"),
    [
        ("a.json", None, "nnsam3d_prompts"),
        ("a.JSON", None, "nnsam3d_prompts"),
        ("a.mrk.json", None, "markups"),
        ("a.mrk.json", "slicer", "markups"),
        ("a.json", "slicer", "markups"),
        ("a.json", "grand-challenge", "points"),
        ("a.mrk.json", "nnsam3d", None),
        ("a.mrk.json", "grand-challenge", None),
        ("a.txt", None, None),
        ("a.txt", "nnsam3d", None),
        ("a.csv", "slicer", None),
        ("a.fcsv", None, None),
        ("a.npz", None, None),
        ("a", None, None),
        ("a.json.gz", None, None),
    ],
)
def test_the_name_says_the_format(tmp_path: Path, name: str, format: str | None, written: str | None) -> None:
    """A file is found by predictions, and holds what its name says; otherwise nothing is written."""
    prompts = CasePrompts("a", "ras", [Click((1.0, 2.0, 3.0), "tumour"), Click((4.0, 5.0, 6.0), 0)])
    if written is None:
        with pytest.raises(PromptError, match=r"\.json") as caught:
            write_prompts(tmp_path / name, prompts, format=format)
        assert str(tmp_path / name) in str(caught.value)
        assert list(tmp_path.iterdir()) == []
    else:
        write_prompts(tmp_path / name, prompts, format=format)
        assert written in json.loads((tmp_path / name).read_text())


def test_numbers_become_names_where_a_format_has_no_numbers(tmp_path: Path) -> None:
    prompts = CasePrompts("a", "lps", [Click((1.0, 2.0, 3.0), 1), Click((4.0, 5.0, 6.0), 0)])
    labels = {"background": 0, "tumour": 1}
    write_prompts(tmp_path / "a.mrk.json", prompts, labels=labels)
    clicks = read_prompts(tmp_path / "a.mrk.json", labels=labels).clicks
    assert [click.label for click in clicks] == ["tumour", "background"]
