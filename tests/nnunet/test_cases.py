"""Which prompt file belongs to which case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnsam3d.errors import UserError
from nnsam3d.nnunet.cases import case_name, check_all_prompts, open_prompt_file, read_case_prompts, strays
from nnsam3d.prompts import PromptError, PromptWarning
from nnsam3d.prompts.listing import list_folder

from .plans import LABELS, PROMPTS


def test_case_name() -> None:
    assert case_name("/data/liver_003_0000.nii.gz", ".nii.gz") == "liver_003"
    assert case_name("/data/a b_0000.mha", ".mha") == "a b"


def test_beside_the_image_or_in_the_named_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "case_0000.nrrd"
    assert open_prompt_file(image, ".nrrd")[0] is None
    beside = tmp_path / "case.json"
    beside.touch()
    assert open_prompt_file(image, ".nrrd")[0] == beside
    folder = tmp_path / "prompts"
    folder.mkdir()
    monkeypatch.setenv("nnsam3d_prompts", str(folder))
    assert open_prompt_file(image, ".nrrd")[0] is None, "the named folder replaces the images' own"
    monkeypatch.setenv("nnsam3d_prompts", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="no such folder"):
        open_prompt_file(image, ".nrrd")[0]


def test_a_dangling_link_is_an_error_not_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "case.json").symlink_to(tmp_path / "gone.json")
    path = open_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz")[0]
    assert path is not None
    with pytest.raises(PromptError, match=r"case\.json"):
        read_case_prompts(path, None, LABELS)


def test_nnunets_own_json_beside_tiff_images_is_no_prompt_file(tmp_path: Path) -> None:
    image, side = tmp_path / "case_0000.tif", tmp_path / "case.json"
    side.write_text(json.dumps({"spacing": [1, 1, 1]}), encoding="utf-8")
    assert open_prompt_file(image, ".tif")[0] is None
    side.write_text(PROMPTS)
    with pytest.raises(
        PromptError, match=r"nnU-Net treats case\.json beside a TIFF image as the file with the spacing.*--prompts"
    ):
        open_prompt_file(image, ".tif")[0]


@pytest.mark.parametrize("suffix", [".json", ".mrk.json", ".fcsv", ".csv", ".npz"])
def test_all_suffixes_are_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"case{suffix}"
    if suffix == ".npz":
        np.savez(path, clicks=[{"fg": [], "bg": []}])
    elif suffix == ".csv":
        path.write_text("index,axis-0,axis-1,axis-2\n0,1,2,3\n", encoding="utf-8")
    else:
        path.touch()
    (tmp_path / "case_10.json").touch()
    (tmp_path / "cas.json").touch()
    assert open_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz")[0] == path


@pytest.mark.parametrize("name", ["case.JSON", "case.Mrk.Json", "case.FCSV", "case.Csv"])
def test_suffixes_in_capitals(tmp_path: Path, name: str) -> None:
    text = "index,axis-0,axis-1,axis-2\n0,1,2,3\n" if name.lower().endswith(".csv") else PROMPTS
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert open_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz")[0] == tmp_path / name


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    composed, decomposed = "F\u00e4lle", "Fa\u0308lle"
    (tmp_path / f"{decomposed}.json").write_text(PROMPTS)
    (tmp_path / f"{composed}_0000.nii.gz").touch()
    assert open_prompt_file(tmp_path / f"{composed}_0000.nii.gz", ".nii.gz")[0] == tmp_path / f"{decomposed}.json"
    said = check_all_prompts(tmp_path, ".nii.gz", LABELS)
    assert "for 1 of 1 cases" in said
    assert "matches no image" not in said


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("case.json", '{"Modality": "MR", "EchoTime": 0.01}'),
        ("case.csv", "feature,value\nvolume,3.5\n"),
        ("case.csv", "a;b\n1;2\n"),
    ],
)
def test_somebody_elses_file_beside_an_image_is_a_warning_that_names_the_way_out(
    tmp_path: Path, name: str, text: str
) -> None:
    image = tmp_path / "case_0000.nii.gz"
    image.touch()
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.warns(PromptWarning, match=rf"{name} is not a prompt file and is ignored.*--prompts"):
        assert open_prompt_file(image, ".nii.gz")[0] is None
    with pytest.warns(PromptWarning):
        assert "for 0 of 1 cases" in check_all_prompts(tmp_path, ".nii.gz", LABELS)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / name).write_text(text, encoding="utf-8")
    found = open_prompt_file(image, ".nii.gz", list_folder(tmp_path / "prompts"))[0]
    assert found is not None
    with pytest.raises(PromptError, match=name):  # in a folder of prompts it is meant to be one
        read_case_prompts(found, None, LABELS)


def test_a_prompt_file_of_no_case_names_the_nearest(tmp_path: Path) -> None:
    for name in ("liver_003_0000.nii.gz", "liver_104_0000.nii.gz"):
        (tmp_path / name).touch()
    for name in ("liver_03.json", "liver_104_0000.json", "zzz.fcsv"):
        (tmp_path / name).write_text(PROMPTS)
    lines = check_all_prompts(tmp_path, ".nii.gz", LABELS).splitlines()[1:]
    assert len(lines) == 3
    assert "did you mean liver_003.json?" in lines[0]
    assert "did you mean liver_104.json?" in lines[1]
    assert "its name must be <case>.json" in lines[2]


def test_no_name_is_suggested_where_several_are_as_near(tmp_path: Path) -> None:
    for name in ("case_001_0000.nii.gz", "case_002_0000.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "case_009.json").write_text(PROMPTS)
    assert check_all_prompts(tmp_path, ".nii.gz", LABELS).endswith("its name must be <case>.json")


def test_prompt_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    images, prompts = tmp_path / "images", tmp_path / "prompts"
    for folder in (images, prompts):
        folder.mkdir()
    (images / "case.json").write_text(PROMPTS)
    (prompts / "case.json.txt").write_text(PROMPTS)
    (prompts / "notes.txt").write_text("case: looked at", encoding="utf-8")
    told = list(strays(images, {"case"}, prompts))
    assert len(told) == 2
    assert "is beside the images, but prompt files are read from" in told[0]
    assert "case.json.txt ends in .txt and is not read" in told[1]


def test_what_macos_keeps_beside_files_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "case_0000.nii.gz").touch()
    (tmp_path / "._case_0000.nii.gz").touch()
    (tmp_path / "case.json").write_text(PROMPTS)
    (tmp_path / "._case.json").write_bytes(b"\x00\x05\x16\x07")
    assert open_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz")[0] == tmp_path / "case.json"
    assert check_all_prompts(tmp_path, ".nii.gz", LABELS).splitlines()[0].startswith("nnsam3d: prompt files for 1 of 1")


def test_two_prompt_files_for_one_case_are_an_error_that_names_both(tmp_path: Path) -> None:
    image = tmp_path / "case_0000.nii.gz"
    image.touch()
    for name in ("case.json", "case.mrk.json"):
        (tmp_path / name).write_text(PROMPTS)
    for look in (lambda: open_prompt_file(image, ".nii.gz")[0], lambda: check_all_prompts(tmp_path, ".nii.gz", LABELS)):
        with pytest.raises(PromptError, match=r"case case has several prompt files: case\.json, case\.mrk\.json"):
            look()


def test_nnunets_probabilities_are_no_prompts(tmp_path: Path) -> None:
    """An output folder may be the next step's prompts folder."""
    np.savez(tmp_path / "case.npz", probabilities=np.zeros((2, 3, 3, 3), np.float16))
    assert open_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz")[0] is None
    (tmp_path / "case.npz").write_bytes(b"PK but damaged")
    assert open_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz")[0] == tmp_path / "case.npz"


def test_the_report_says_what_was_found_and_what_belongs_to_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, prompts = tmp_path / "images", tmp_path / "prompts"
    images.mkdir()
    prompts.mkdir()
    for name in ("case_0000.nii.gz", "other_0000.nii.gz", "other_0001.nii.gz", "case_0000.json"):
        (images / name).touch()
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):
        (images / name).write_text("{}", encoding="utf-8")
    (images / "case.json").write_text(PROMPTS)
    said = check_all_prompts(images, ".nii.gz", LABELS)
    assert "for 1 of 2 cases" in said
    assert "case_0000.json" in said
    assert not {name for name in ("dataset.json", "plans.json", "args.json") if name in said}
    monkeypatch.setenv("nnsam3d_prompts", str(prompts))
    (prompts / "cas.json").touch()
    said = check_all_prompts(images, ".nii.gz", LABELS)
    assert "for 0 of 2 cases" in said
    assert "cas.json" in said
