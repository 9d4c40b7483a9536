"""Prompts of every kind: in files, in other spaces, and what becomes of those that a network does not take."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from nnsam3d.geometry import ImageGrid
from nnsam3d.nnunet.cases import read_case_prompts
from nnsam3d.prompts import (
    Box,
    CasePrompts,
    Click,
    MaskPrompt,
    PromptCodec,
    PromptError,
    PromptWarning,
    read_prompts,
    write_prompts,
)

LABELS = {"background": 0, "tumour": 1}
STRAIGHT = ImageGrid((40, 30, 20), (1.0, 2.0, 3.0), (5.0, -7.0, 11.0), ((1, 0, 0), (0, 1, 0), (0, 0, 1)))


@pytest.mark.parametrize(
    ("prompts", "version"),
    [([], 1), ([Click((1, 2, 3), "tumour")], 1), ([Click((1, 2, 3), 1), MaskPrompt("before.nii.gz")], 2)],
)
def test_version_1_is_written_wherever_it_suffices(tmp_path: Path, prompts: list, version: int) -> None:
    write_prompts(tmp_path / "c.json", CasePrompts("c", "voxel", prompts))
    assert json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["nnsam3d_prompts"] == version


def test_a_file_of_version_2_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    entries = [
        {"type": "mask", "path": "before.nii.gz"},
        {"type": "box", "low": [9, 8, 7], "high": [1, 2, 3], "label": "tumour"},
        {"type": "click", "position": [4, 5, 6], "label": 0},
    ]
    path.write_text(json.dumps({"nnsam3d_prompts": 2, "space": "voxel", "prompts": entries}), encoding="utf-8")
    prompts = read_prompts(path, STRAIGHT, LABELS)
    assert prompts.prompts == (MaskPrompt("before.nii.gz"), Box((1, 2, 3), (9, 8, 7), "tumour"), Click((4, 5, 6), 0))
    assert prompts.kinds == ("mask", "box", "click")
    assert prompts.clicks == (Click((4, 5, 6), 0),)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"type": "polygon"}, "prompt 1: unknown 'polygon'"),
        ({"position": [1, 2, 3], "label": 1}, 'prompt 1: missing "type"'),
        ({"type": "box", "low": [1, 2, 3], "label": 1}, 'missing "high"'),
        ({"type": "box", "low": [1, 2, 3], "high": [1, 2], "label": 1}, "three finite numbers"),
        ({"type": "box", "low": [50, 2, 3], "high": [99, 2, 3], "label": 1}, "middle (74.5, 2, 3)"),
        ({"type": "box", "low": [1, 2, 3], "high": [1, 2, 3], "label": 1, "axes": [[1, 0, 0]]}, "three half edges"),
        ({"type": "mask", "path": 3}, "path of an image file"),
        ({"type": "mask", "path": "a", "label": "spleen"}, "unknown label 'spleen'"),
        ({"type": "click", "position": [1, 2, 3], "label": 1, "low": 3}, 'unknown key "low"'),
    ],
)
def test_mistakes_in_version_2(tmp_path: Path, entry: dict, told: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"nnsam3d_prompts": 2, "space": "voxel", "prompts": [entry]}), encoding="utf-8")
    with pytest.raises(PromptError) as error:
        read_prompts(path, STRAIGHT, LABELS)
    assert told in str(error.value)
    assert "c.json" in str(error.value)


def test_in_another_space_masks_stay_and_nothing_stays_nothing() -> None:
    prompts = CasePrompts("c", "voxel", [Click((7, 8, 9), 1), MaskPrompt("m.nii.gz")])
    assert prompts.to("ras", STRAIGHT).masks == (MaskPrompt("m.nii.gz"),)
    assert prompts.to("ras", STRAIGHT).to("voxel", STRAIGHT) == prompts
    assert CasePrompts("c", "voxel").to("lps", STRAIGHT) == CasePrompts("c", "lps")


def test_what_a_network_does_not_take_is_refused_or_left_out_with_words(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    box, click = Box((1, 2, 3), (4, 5, 6), 1), Click((1, 2, 3), 1)
    write_prompts(path, CasePrompts("c", "voxel", [box]))
    codec = PromptCodec()
    with pytest.raises(PromptError, match=r"c\.json: this model was trained with prompts of type click, not box"):
        read_case_prompts(path, STRAIGHT, LABELS, codec)
    assert read_case_prompts(path, STRAIGHT, LABELS, PromptCodec(("click", "box"))).prompts == (box,)
    write_prompts(path, CasePrompts("c", "voxel", [box, click]))
    with pytest.warns(PromptWarning, match="1 skipped"):
        assert read_case_prompts(path, STRAIGHT, LABELS, codec).prompts == (click,)
    write_prompts(path, CasePrompts("c", "voxel", [click]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_case_prompts(path, STRAIGHT, LABELS, codec).prompts == (click,)
    with pytest.raises(PromptError, match=r"c\.json: this model was trained with prompts of type none, not click"):
        read_case_prompts(path, STRAIGHT, LABELS, PromptCodec(()))


def test_what_other_formats_do_not_hold_is_refused_with_words(tmp_path: Path) -> None:
    box, mask = Box((1, 2, 3), (4, 5, 6), 1), MaskPrompt("before.nii.gz")
    with pytest.raises(PromptError, match=r"c\.json: format 'grand-challenge' cannot hold box"):
        write_prompts(tmp_path / "c.json", CasePrompts("c", "lps", [box]), format="grand-challenge")
    with pytest.raises(PromptError, match=r"c\.mrk\.json: format 'slicer' cannot hold mask"):
        write_prompts(tmp_path / "c.mrk.json", CasePrompts("c", "lps", [box, mask]))
    sheared = ImageGrid((40, 30, 20), (1.0, 2.0, 3.0), (5.0, -7.0, 11.0), ((1, 0.4, 0), (0, 0.9, 0), (0, 0, 1)))
    with pytest.raises(PromptError, match=r"c\.mrk\.json: the edges of a box are not at right angles in mm"):
        write_prompts(tmp_path / "c.mrk.json", CasePrompts("c", "voxel", [box]), image=sheared)
