"""Files beside an image: those that say what they want to be are refused, those of other programs are left alone."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from nnsam3d.nnunet.cases import open_prompt_file, read_case_prompts
from nnsam3d.prompts import PromptError, PromptWarning

LABELS = {"background": 0, "tumour": 1}
OURS: dict[str, Any] = {
    "nnsam3d_prompts": 1,
    "space": "voxel",
    "clicks": [{"position": [1, 2, 3], "label": "tumour"}],
}
SLICER = {"markups": [{"type": "Fiducial", "controlPoints": [{"label": "tumour", "position": [1, 2, 3]}]}]}
GRAND = {"type": "Multiple points", "points": [{"name": "tumour", "point": [1, 2, 3]}], "version": {"major": 1}}
WRAPPED: dict[str, Any] = {
    "in a list": [OURS],
    "in two lists": [[OURS]],
    "several": [OURS, OURS],
    "in an object": {"case": OURS},
    "in a list in an object": {"files": [{"name": "a", "content": OURS}]},
    "as text": json.dumps(OURS),
    "without version": [{"space": "voxel", "clicks": OURS["clicks"]}],
    "object of prompts": {"prompts": OURS},
    "object of clicks": {"clicks": {"1": OURS["clicks"][0]}},
    "Slicer's": [SLICER],
    "grand-challenge's": [GRAND],
    "capitals": [{"NNSAM3D_PROMPTS": 1}],
    "one position without brackets": {"tumor": [1, 2, 3]},
}
FOREIGN: dict[str, Any] = {
    "lists of numbers": {"bvals": [0, 1000], "bvecs": [[1, 0, 0], [0, 1, 0]]},
    "a list of positions": {"landmarks": [[1, 2, 3], [4, 5, 6]]},
    "a histogram": {"label": "T1", "histogram": [[1, 2], [3, 4]]},
    "numbers": [1, 2, 3],
    "objects": [{"id": 1, "bbox": [1, 2, 3, 4]}],
    "a volume": {"tumor": 12.5},
    "a share": {"foreground": 0.3},
    "points": {"points": [1, 2, 3]},
    "a count": {"clicks": 3},
    "texts": {"prompts": ["a man"]},
    "a space": {"space": "ras", "values": [1, 2]},
    "statistics": {"background": 0.1, "tumor": 0.2},
    "another space": {"space": "MNI152NLin2009cAsym", "resolution": 1},
    "an affine": {"affine": [[1, 0, 0], [0, 1, 0]], "spacing": [1, 1, 1]},
    "a direction": {"direction": [[1, 0, 0]], "Modality": "MR"},
    "lines of JSON": b'{"a": 1}\n{"a": 2}\n',
    "another encoding": '{"Größe": 1}'.encode("cp1252"),
    "a table in another encoding": "Größe;Wert\n1;2\n".encode("cp1252"),
    "a sidecar": {"Modality": "MR", "SliceTiming": [0.1, 0.2], "ShimSetting": [[1, 2, 3]], "ImageType": ["A", "B"]},
}


def beside(folder: Path, content: Any, name: str = "case.json") -> Path:
    (folder / "case_0000.nii.gz").touch()
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return folder / "case_0000.nii.gz"


def found(image: Path) -> Path | None:
    return open_prompt_file(image, ".nii.gz", labels=LABELS)[0]


@pytest.mark.parametrize("kind", WRAPPED)
def test_clear_intent_is_refused(tmp_path: Path, kind: str) -> None:
    image = beside(tmp_path, WRAPPED[kind])
    path = found(image)
    assert path is not None
    with pytest.raises(PromptError, match=r"case\.json"):
        read_case_prompts(path, None, LABELS)


@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_other_programs_are_a_warning(tmp_path: Path, kind: str) -> None:
    name = "case.csv" if kind.startswith("a table") else "case.json"
    image = beside(tmp_path, FOREIGN[kind], name)
    with pytest.warns(PromptWarning, match=f"{name} is not a prompt file and is ignored"):
        assert found(image) is None


@pytest.mark.parametrize(
    "content",
    [
        OURS,
        SLICER,
        GRAND,
        {"type": "point", "point": [1, 2, 3]},
        {"tumor": [[1, 2, 3]]},
        {"tumour": [[1, 2, 3]]},
        {"Tumor": [[1, 2, 3]], "result_extension": ".nrrd"},  # nearly a label
        {"background": [], "liver": [[1, 2, 3]]},
        {"foreground": [[1, 2, 3]]},
        {"space": "voxel", "points_of_mine": [[1, 2, 3]]},
        {"nnsam3d_prompts": 1},
        {"space": "voxel"},
        b'{"nnsam3d_prompts": 1} {"a"',  # damaged
        b'{"space": "vox',
        '{"clicks": "Größe"}'.encode("cp1252"),
    ],
    ids=str,
)
def test_prompt_files_valid_or_not_are_found(tmp_path: Path, content: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(beside(tmp_path, content)) is not None


@pytest.mark.parametrize("name", ["case.json.gz", "case.mrk.json.gz", "case.JSON.GZ", "case.json"])
def test_compressed_prompt_files_are_refused_and_other_compressed_files_are_not(tmp_path: Path, name: str) -> None:
    image = beside(tmp_path, {"Modality": "MR"}, name)
    (tmp_path / name).write_bytes(gzip.compress(b'{"Modality": "MR"}'))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found(image) is None
    (tmp_path / name).write_bytes(gzip.compress(json.dumps(OURS).encode()))
    path = found(image)
    assert path is not None
    with pytest.raises(PromptError, match="gunzip"):
        read_case_prompts(path, None, LABELS)
    if name.endswith(".gz"):  # a copy of the file beside it
        (tmp_path / "case.json").write_text(json.dumps(OURS))
        assert found(image) == tmp_path / "case.json"
