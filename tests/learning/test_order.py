"""Which case is next: that on which the model's answers disagree most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnsam3d.inference.model import Model
from nnsam3d.learning import order
from nnsam3d.learning.order import FILE, disagreement, read_order, write_order
from nnsam3d.learning.record import Record, Round

from ..inference.conftest import write_model
from .test_learn import write_case


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("order") / "own", labels={"background": 0, "core": 1, "rim": 2})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for n in range(4):
        write_case(tmp_path / "raw", f"case_{n}", n)
    return tmp_path / "raw" / "imagesTr"


def test_disagreement_is_between_0_and_1_and_replays(own: Path, images: Path) -> None:
    model = Model(own, None, mirroring=False)
    found = [disagreement(model, "case_0", [str(images / "case_0_0000.nii.gz")]) for _ in range(2)]
    assert found[0] == found[1]
    assert 0 <= found[0] <= 1


def test_equal_answers_agree_and_nothing_found_is_the_largest_doubt(
    own: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, file = Model(own, None, mirroring=False), [str(images / "case_0_0000.nii.gz")]

    class Answers:
        label_map = np.zeros((20, 30, 26), np.uint8)

    monkeypatch.setattr(order.PreparedImage, "segment", lambda *_: Answers)
    assert disagreement(model, "case_0", file) == 1
    Answers.label_map[5:9, 5:9, 5:9] = 1
    assert disagreement(model, "case_0", file) == 0


def test_finished_cases_are_left_out_and_the_largest_comes_first(
    own: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubts = {"case_1": 0.2, "case_2": 0.9, "case_3": 0.5}
    monkeypatch.setattr(order, "disagreement", lambda model, name, files: doubts[name])
    finished = tmp_path / "Dataset600"
    (finished / "labelsTr").mkdir(parents=True)
    (finished / "labelsTr" / "case_0.nii.gz").touch()
    assert write_order(images, finished, own, "cpu") == [], "before it has learned anything"
    Record("m", "0", (), (Round("now", 1, 1.0, 1, None, None, True),)).write(own)
    assert write_order(images, finished, own, "cpu") == ["case_2", "case_3", "case_1"]
    assert read_order(own) == ["case_2", "case_3", "case_1"]


def test_a_case_that_cannot_be_read_does_not_stop_the_others(
    own: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Record("m", "0", (), (Round("now", 1, 1.0, 1, None, None, True),)).write(own)
    (images / "case_1_0000.nii.gz").write_bytes(b"no image")
    monkeypatch.setattr(order, "MOST_CASES", 2)
    assert write_order(images, tmp_path, own, "cpu") == ["case_0"]


@pytest.mark.parametrize("text", [None, "{", "1"])
def test_without_an_order_there_is_none(tmp_path: Path, text: Any) -> None:
    if text is not None:
        (tmp_path / FILE).write_text(text)
    assert read_order(tmp_path) == []
    (tmp_path / FILE).write_text(json.dumps({"b": 1, "a": 0.5}))
    assert read_order(tmp_path) == ["b", "a"]
