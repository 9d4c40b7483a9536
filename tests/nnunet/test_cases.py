"""Which prompt file belongs to which case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnsam3d.errors import UserError
from nnsam3d.nnunet.cases import case_name, check_all_prompts, find_prompt_file, read_case_prompts
from nnsam3d.prompts import PromptError

LABELS = {"background": 0, "lesion": 1}
GOOD = {"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [1, 2, 3], "label": "lesion"}]}


def test_case_name() -> None:
    assert case_name("/data/liver_003_0000.nii.gz", ".nii.gz") == "liver_003"
    assert case_name("/data/a b_0000.mha", ".mha") == "a b"


def test_beside_the_image_or_in_the_named_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "case_0000.nrrd"
    assert find_prompt_file(image, ".nrrd") is None
    beside = tmp_path / "case.json"
    beside.touch()
    assert find_prompt_file(image, ".nrrd") == beside
    folder = tmp_path / "prompts"
    folder.mkdir()
    monkeypatch.setenv("nnsam3d_prompts", str(folder))
    assert find_prompt_file(image, ".nrrd") is None, "the named folder replaces the images' own"
    monkeypatch.setenv("nnsam3d_prompts", str(tmp_path / "missing"))
    with pytest.raises(UserError, match="no such folder"):
        find_prompt_file(image, ".nrrd")


def test_a_dangling_link_is_an_error_not_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "case.json").symlink_to(tmp_path / "gone.json")
    path = find_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz")
    assert path is not None
    with pytest.raises(PromptError, match=r"case\.json"):
        read_case_prompts(path, None, LABELS)


def test_nnunets_own_json_beside_tiff_images_is_no_prompt_file(tmp_path: Path) -> None:
    image, side = tmp_path / "case_0000.tif", tmp_path / "case.json"
    side.write_text(json.dumps({"spacing": [1, 1, 1]}), encoding="utf-8")
    assert find_prompt_file(image, ".tif") is None
    side.write_text(json.dumps(GOOD), encoding="utf-8")
    with pytest.raises(PromptError, match=r"nnU-Net takes case\.json for the file with the spacing.*--prompts"):
        find_prompt_file(image, ".tif")


@pytest.mark.parametrize("suffix", [".json", ".mrk.json", ".fcsv", ".csv", ".npz"])
def test_all_suffixes_are_found(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"case{suffix}"
    if suffix == ".npz":
        np.savez(path, clicks=[{"fg": [], "bg": []}])
    else:
        path.touch()
    (tmp_path / "case_10.json").touch()
    (tmp_path / "cas.json").touch()
    assert find_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz") == path


def test_two_prompt_files_for_one_case_are_an_error_that_names_both(tmp_path: Path) -> None:
    image = tmp_path / "case_0000.nii.gz"
    image.touch()
    for name in ("case.json", "case.mrk.json"):
        (tmp_path / name).write_text(json.dumps(GOOD), encoding="utf-8")
    for look in (lambda: find_prompt_file(image, ".nii.gz"), lambda: check_all_prompts(tmp_path, ".nii.gz", LABELS)):
        with pytest.raises(PromptError, match=r"case case has several prompt files: case\.mrk\.json, case\.json"):
            look()


def test_nnunets_probabilities_are_no_prompts(tmp_path: Path) -> None:
    """An output folder may be the next step's prompts folder."""
    np.savez(tmp_path / "case.npz", probabilities=np.zeros((2, 3, 3, 3), np.float16))
    assert find_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz") is None
    (tmp_path / "case.npz").write_bytes(b"PK but damaged")
    assert find_prompt_file(tmp_path / "case_0000.nii.gz", ".nii.gz") == tmp_path / "case.npz"


def test_other_json_files_are_no_prompts(tmp_path: Path) -> None:
    image = tmp_path / "case_0000.nii.gz"
    image.touch()
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert find_prompt_file(image, ".nii.gz") is None
    assert "for 0 of 1 cases" in check_all_prompts(tmp_path, ".nii.gz", LABELS)


def test_the_report_says_what_was_found_and_what_belongs_to_no_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, prompts = tmp_path / "images", tmp_path / "prompts"
    images.mkdir()
    prompts.mkdir()
    for name in ("case_0000.nii.gz", "other_0000.nii.gz", "other_0001.nii.gz", "case_0000.json", "dataset.json"):
        (images / name).touch()
    (images / "case.json").write_text(json.dumps(GOOD), encoding="utf-8")
    said = check_all_prompts(images, ".nii.gz", LABELS)
    assert "for 1 of 2 cases" in said
    assert "case_0000.json" in said
    assert "dataset.json" not in said
    monkeypatch.setenv("nnsam3d_prompts", str(prompts))
    (prompts / "cas.json").touch()
    said = check_all_prompts(images, ".nii.gz", LABELS)
    assert "for 0 of 2 cases" in said
    assert "cas.json" in said
