"""What grows with the number of cases: files are listed once for all of them, and opened once each."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.inference.cases import find_cases, listed_cases
from nnsam3d.inference.header_check import header_remarks
from nnsam3d.nnunet import strays as strays_module
from nnsam3d.nnunet.cases import check_all_prompts, open_prompt_file, strays
from nnsam3d.prompts import PromptCodec, read_prompts
from nnsam3d.prompts.convert import Stated, convert
from nnsam3d.prompts.from_labels import Simulation, simulate_folder
from nnsam3d.prompts.listing import list_folder

from .plans import LABELS, PROMPTS

LISTINGS = ("os.scandir", "os.listdir")
MODEL: Any = SimpleNamespace(
    file_ending=".nii.gz",
    num_channels=1,
    labels=LABELS,
    file_labels=LABELS,
    reader_name="SimpleITKIO",
    codec=PromptCodec(),
    plans_of_spacing={"original_median_spacing_after_transp": [1, 1, 1]},
    folder=Path("/nowhere"),
)
_seen: list[Counter[tuple[str, str]]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen and event in ("open", *LISTINGS) and isinstance(arguments[0], (str, os.PathLike)):
        _seen[-1][event, os.fspath(arguments[0])] += 1


sys.addaudithook(_watch)


@contextmanager
def watched() -> Iterator[Counter[tuple[str, str]]]:
    """Counts what Python opens and lists: (event, path) -> number."""
    counts: Counter[tuple[str, str]] = Counter()
    _seen.append(counts)
    try:
        yield counts
    finally:
        _seen.pop()


def listings(counts: Counter[tuple[str, str]], folder: Path) -> int:
    return sum(number for (event, path), number in counts.items() if event in LISTINGS and Path(path) == folder)


def opened(counts: Counter[tuple[str, str]], folder: Path) -> dict[str, int]:
    """How often each file of a folder was opened, except for images."""
    files = {Path(path): number for (event, path), number in counts.items() if event == "open"}
    return {path.name: number for path, number in files.items() if path.parent == folder and path.suffix != ".gz"}


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each header was read."""
    counts: Counter[str] = Counter()
    read = sitk.ImageFileReader.ReadImageInformation

    def counted(self: sitk.ImageFileReader) -> None:
        counts[Path(self.GetFileName()).name] += 1
        read(self)

    monkeypatch.setattr(sitk.ImageFileReader, "ReadImageInformation", counted)
    return counts


def write_cases(folder: Path, count: int, prompts: Path | None = None) -> Path:
    folder.mkdir(parents=True)
    image = sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16))
    for number in range(count):
        sitk.WriteImage(image, str(folder / f"case_{number:03d}_0000.nii.gz"))
        where = prompts or folder
        where.mkdir(exist_ok=True)
        (where / f"case_{number:03d}.json").write_text(PROMPTS)
    settle(folder)
    return folder


def settle(*folders: Path) -> None:
    """As if nothing had changed in the folders for a while."""
    for folder in folders:
        os.utime(folder, (1e9, 1e9))


Looking = Callable[[Path], Any]


@pytest.mark.parametrize(
    "look",
    [
        lambda images: find_cases(images, MODEL),
        lambda images: check_all_prompts(images, ".nii.gz", LABELS, "SimpleITKIO"),
    ],
    ids=["predict", "nnUNetv2_predict"],
)
@pytest.mark.parametrize("new", [False, True])
def test_the_header_check_lists_once_and_opens_each_file_once(
    tmp_path: Path, headers: Counter[str], look: Looking, new: bool
) -> None:
    numbers = set()
    for count in (5, 25):
        images = write_cases(tmp_path / f"images{count}", count)
        if new:  # files that were written a moment ago
            os.utime(images)
        with watched() as counts:
            look(images)
        numbers.add(listings(counts, images))
        assert opened(counts, images) == {f"case_{number:03d}.json": 1 for number in range(count)}
    assert headers == {f"case_{number:03d}_0000.nii.gz": 1 + (number < 5) for number in range(25)}
    assert len(numbers) == 1


def test_what_the_model_knows_is_read_once_for_all_headers(tmp_path: Path) -> None:
    """Its file grows with the number of training cases."""
    images, folder = write_cases(tmp_path / "images", 6), tmp_path / "model"
    folder.mkdir()
    (folder / "dataset_fingerprint.json").write_text(json.dumps({"spacings": [[1, 1, 1]] * 9}), encoding="utf-8")
    model: Any = SimpleNamespace(**vars(MODEL) | {"folder": folder})
    with watched() as counts:
        header_remarks(find_cases(images, model), model)
    assert opened(counts, folder) == {"dataset_fingerprint.json": 1}


def test_workers_that_look_for_one_case_each_list_once_and_notice_changes(tmp_path: Path) -> None:
    images = write_cases(tmp_path / "images", 12)
    with watched() as counts:
        for number in range(12):
            path = open_prompt_file(images / f"case_{number:03d}_0000.nii.gz", ".nii.gz")[0]
            assert path == images / f"case_{number:03d}.json"
    assert listings(counts, images) == 1
    late = images / "late_0000.nii.gz"
    assert open_prompt_file(late, ".nii.gz")[0] is None
    (images / "late.json").write_text(PROMPTS)
    assert open_prompt_file(late, ".nii.gz")[0] == images / "late.json"
    (images / "late.json").rename(images / "late.JSON")
    assert open_prompt_file(late, ".nii.gz")[0] == images / "late.JSON"
    (images / "late.JSON").unlink()
    assert open_prompt_file(late, ".nii.gz")[0] is None


def test_changes_within_one_tick_of_the_file_system_are_noticed(tmp_path: Path) -> None:
    """Its clock may be as coarse as two seconds: the folder's time stays the same."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    before = folder.stat().st_mtime_ns
    assert not list_folder(folder).prompts_of("case")
    (folder / "case.json").touch()
    os.utime(folder, ns=(before, before))
    assert list_folder(folder).prompts_of("case") == [folder / "case.json"]


def test_a_part_opens_only_what_belongs_to_it(tmp_path: Path, headers: Counter[str]) -> None:
    prompts = tmp_path / "prompts"
    images = write_cases(tmp_path / "images", 12, prompts)
    for path in prompts.iterdir():  # copies in the wrong place, and in the wrong form
        (images / path.name).write_text(path.read_text(), encoding="utf-8")
        (prompts / f"{path.name}.txt").write_text(path.read_text(), encoding="utf-8")
    for name in ("other.json", "another.json"):
        (prompts / name).write_text(PROMPTS)
    whole, told = set(), []
    for part in range(4):
        listed = listed_cases(images, MODEL)
        own = listed[part::4]
        names = {case.name for case in own}
        with watched() as counts:
            assert [case.name for case in find_cases(images, MODEL, prompts, own)] == sorted(names)
            told += list(strays(images, {case.name for case in listed}, prompts, names, others=part == 0))
        read = {*opened(counts, images), *opened(counts, prompts)}
        expected = {f"{name}{ending}" for name in names for ending in (".json", ".json.txt")}
        assert read == expected | ({"other.json", "another.json"} if part == 0 else set())
        whole |= read
    assert len(whole) == 26
    assert headers == {f"case_{number:03d}_0000.nii.gz": 1 for number in range(12)}
    assert sorted(told) == sorted(strays(images, {case.name for case in listed}, prompts))


def test_the_owner_of_a_text_file_is_the_longest_case(tmp_path: Path) -> None:
    (tmp_path / "case_10.json.txt").write_text(PROMPTS)
    cases = {"case_1", "case_10"}
    assert not list(strays(tmp_path, cases, own={"case_1"}))
    assert len(list(strays(tmp_path, cases, own={"case_10"}))) == 1


def test_many_strays_among_many_cases_are_not_compared_in_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    whole = difflib.SequenceMatcher.set_seq1
    monkeypatch.setattr(difflib.SequenceMatcher, "set_seq1", lambda self, a: (compared.append(a), whole(self, a))[1])
    monkeypatch.setattr(strays_module, "MAX_COMPARED", 500)
    cases = [f"patient_{number:03d}" for number in range(200)]
    for number in range(200):
        (tmp_path / f"Patient-{number}.fcsv").touch()
        (tmp_path / f"unlike{number}.fcsv").touch()
    (tmp_path / "patient_1_2.fcsv").touch()
    told = list(strays(tmp_path, cases))
    assert len(told) == 401
    assert len(compared) < 600
    for number in range(200):
        (line,) = [line for line in told if f"Patient-{number}.fcsv" in line]
        assert f"did you mean patient_{number:03d}.json?" in line
    assert not any("did you mean" in line for line in told if "unlike" in line or "patient_1_2" in line)


def test_a_folder_of_prompt_files_is_converted_without_listing_the_images_for_each(tmp_path: Path) -> None:
    images = write_cases(tmp_path / "images", 9, tmp_path / "prompts")
    with watched() as counts:
        files = sorted((tmp_path / "prompts").iterdir())
        counts.clear()
        convert(files, tmp_path / "out", Stated(image=images), "slicer")
    assert listings(counts, images) == 1
    assert len(list((tmp_path / "out").iterdir())) == 9


@pytest.mark.parametrize("in_place", [False, True])
def test_clicks_are_added_to_a_folder_that_is_listed_once(tmp_path: Path, in_place: bool) -> None:
    truths, prompts = tmp_path / "labelsTr", tmp_path / "prompts"
    truths.mkdir()
    prompts.mkdir()
    array = np.zeros((4, 5, 6), np.uint8)
    array[1:3, 1:4, 1:4] = 1
    for number in range(7):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(truths / f"case_{number}.nii.gz"))
        (prompts / f"case_{number}.json").write_text(PROMPTS)
    settle(prompts)
    output = prompts if in_place else tmp_path / "out"
    dataset = {"labels": LABELS, "file_ending": ".nii.gz"}
    with watched() as counts:
        assert simulate_folder(truths, output, dataset, Simulation(2, "uniform", 0, None, prompts), True)
    assert listings(counts, prompts) == 1
    assert [len(read_prompts(output / f"case_{number}.json").clicks) for number in range(7)] == [3] * 7
