"""Rounds of learning, with nnU-Net's own training, on phantoms of a few seconds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnsam3d.errors import UserError
from nnsam3d.files import file_sha256
from nnsam3d.inference.model import Model
from nnsam3d.inference.session import Session
from nnsam3d.learning import check
from nnsam3d.learning import learn as learning
from nnsam3d.learning.check import clicked_through, held_back_dice
from nnsam3d.learning.finished import FinishedCase, finished_cases, replayed_cases
from nnsam3d.learning.grow import grow
from nnsam3d.learning.learn import learn
from nnsam3d.learning.record import read_record
from nnsam3d.learning.tune import Tuning, averaged
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.datasets import FINAL, OPTIONS_KEY, STARTER, WEIGHTS

SHAPE = (20, 30, 26)
SHORT = Tuning(seconds=1, seed=0)
LABELS = {"background": 0, "core": 1, "rim": 2}


def write_dataset(folder: Path, count: int = 5, labels: dict[str, int] = LABELS) -> Path:
    """Balls of two labels in noise."""
    for n in range(count):
        write_case(folder, f"case_{n}", n)
    declared = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": count, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(declared))
    return folder


def write_case(folder: Path, name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    far = np.sqrt(((z - rng.integers(8, 12)) * 1.5) ** 2 + (y - rng.integers(10, 20)) ** 2 + (x - 13) ** 2)
    truth = np.where(far < 4, 1, np.where(far < 8, 2, 0)).astype(np.uint8)
    image = rng.normal(size=SHAPE).astype(np.float32) + 3 * truth
    for where, array in (("imagesTr", image), ("labelsTr", truth)):
        (folder / where).mkdir(parents=True, exist_ok=True)
        made = sitk.GetImageFromArray(array)
        made.SetSpacing((1.0, 1.0, 1.5))
        sitk.WriteImage(made, str(folder / where / f"{name}{'_0000' if where == 'imagesTr' else ''}.nii.gz"))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "Dataset600_Clicked")


def weights(model: Path) -> dict[str, torch.Tensor]:
    return open_checkpoint(model / "fold_0" / FINAL)["network_weights"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_starter_grows_into_a_model_of_its_own(dataset: Path, tmp_path: Path) -> None:
    """In one round at a time; a killed one is repeated."""
    own = dataset / "learned"
    command = [sys.executable, "-m", "nnsam3d", "learn", "--cases", str(dataset), "--new", "-device", "cpu"]
    killed = subprocess.Popen([*command, "--seconds", "60"], start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not (own / "work" / "training.txt").is_file() and time.monotonic() < end:
            time.sleep(0.2)
        with pytest.raises(UserError, match="learning already"):
            learn(STARTER, None, dataset, own, SHORT)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert Model(own, None).labels == LABELS, "complete from the beginning"
    first = learn(STARTER, None, dataset, own, SHORT)
    assert (first.cases, first.accepted, first.updates > 0) == (4, True, True)
    assert first.base is None, "a single held-back case does not decide"
    record = read_record(own)
    assert record is not None
    assert record.held_back == ("case_3",)
    # nnU-Net's own view of it: a model with the dataset's labels, which answers without a prompt
    model = Model(own, None)
    assert not model.class_agnostic
    session = Session(model)
    session.set_image(dataset / "imagesTr" / "case_0_0000.nii.gz")
    session.start_automatically()
    assert session.segmentation.shape == SHAPE
    # a further case, and three of an earlier training: only those are prepared, and the weights before are kept
    prepared = own / "work" / "preprocessed" / "Dataset001_Finished" / "nnUNetPlans_3d_fullres"
    before = {file.name: file.stat().st_mtime_ns for file in prepared.iterdir()}
    old = weights(own)
    write_case(dataset, "case_5", 5)
    earlier = write_dataset(tmp_path / "Dataset500_Earlier", count=3)
    second = learn(STARTER, None, dataset, own, replace(SHORT, replay=earlier))
    assert second.cases == 5
    replayed = {file.stem for file in prepared.glob("*.pkl")} - {f"case_{n}" for n in range(6)}
    assert replayed == {f"replayed_case_{n}" for n in range(3)}
    assert before.items() <= {file.name: file.stat().st_mtime_ns for file in prepared.iterdir()}.items()
    assert equal(weights(own), old) != second.accepted
    used = [file_sha256(Model(own, None).checkpoint_files[0])]
    checked = {tuple(key.split()[:2]) for key in read(own, learning.CHECKS)}
    assert checked == {(used[0], "case_3")}, "the next round measures only its own weights"
    kept = [file.name for file in sorted((own / "history").iterdir())]
    assert kept == ["0000.pth", "0001.pth"][: 1 + second.accepted]


def test_the_same_cases_are_replayed_in_every_round(tmp_path: Path) -> None:
    earlier = write_dataset(tmp_path / "Dataset500_Earlier", count=5)
    two, four = ([case.name for case in replayed_cases(earlier, number, LABELS)] for number in (2, 4))
    assert four[:2] == two
    assert len(replayed_cases(earlier, 9, LABELS)) == 5
    with pytest.raises(UserError, match=r"Dataset500_Earlier: has the labels .* cannot be replayed"):
        replayed_cases(earlier, 2, {"background": 0, "node": 1})


@pytest.mark.parametrize("lost", [False, True])
def test_what_is_worse_on_held_back_cases_does_not_stay(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """The training goes on from what it has reached, unless it is lost."""
    own, begins = tmp_path / "own", []

    def spoilt(model: Model, begin: Path, *others: Any) -> tuple[Path, int]:
        begins.append(begin.name)
        others[2].mkdir(exist_ok=True)
        bad = open_checkpoint(model.checkpoint_files[0])
        bad["network_weights"] = {name: torch.ones_like(values) for name, values in bad["network_weights"].items()}
        torch.save(bad, tmp_path / "bad.pth")
        return tmp_path / "bad.pth", 1

    dice = iter([0.8, 0.5 if lost else 0.75] * 2)
    monkeypatch.setattr(learning, "tune", spoilt)
    monkeypatch.setattr(learning, "held_back_dice", lambda *_: next(dice))
    first, second = (learn(STARTER, None, dataset, own, SHORT) for _ in range(2))
    assert not first.accepted
    assert not second.accepted
    old = open_checkpoint(STARTER / "fold_0" / "checkpoint_final.safetensors")["network_weights"]
    assert equal(weights(own), old)
    assert not (own / "history").exists()
    assert "kept the old weights" in first.describe()
    assert begins == [FINAL, learning.TRAINED]
    trained = open_checkpoint(own / learning.TRAINED)["network_weights"]
    assert equal(trained, old) is lost


def test_small_losses_do_not_add_up(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerance counts from the best weights that were in use, measured on the cases of today."""
    own, number = tmp_path / "own", iter(range(1, 9))
    worth: dict[float, float] = {}
    (own / learning.WORK).mkdir(parents=True)

    def tuned(model: Model, *_: Any) -> tuple[Path, int]:
        made = open_checkpoint(model.checkpoint_files[0])
        level = float(next(number))
        made["network_weights"] = {key: torch.full_like(one, level) for key, one in made["network_weights"].items()}
        torch.save(made, tmp_path / "made.pth")
        return tmp_path / "made.pth", 1

    def measured(model: Model, *_: Any) -> float:
        level = float(next(model.predictor.network.parameters()).flatten()[0])
        return worth.get(level, worth[0])

    monkeypatch.setattr(learning, "tune", tuned)
    monkeypatch.setattr(learning, "held_back_dice", measured)
    fast = replace(SHORT, keep=0.0)
    worth |= {0: 0.827, 1: 0.822, 2: 0.821, 3: 0.812}  # as in a notebook, in which all were accepted
    done = [learn(STARTER, None, dataset, own, fast) for _ in range(3)]
    assert [(one.accepted, one.best) for one in done] == [(True, 0.827), (True, 0.827), (False, 0.827)]
    said = "learned from 4 cases: Dice of held-back cases 0.827 -> 0.822, slightly lower, which may be noise"
    assert done[0].describe() == said
    assert done[2].describe().endswith("0.821 -> 0.812; 0.827 with the best earlier weights")
    first = open_checkpoint(own / learning.HISTORY / "0000.pth")["network_weights"]
    assert equal(open_checkpoint(own / learning.BEST)["network_weights"], first)
    worth |= {2: 0.7, 4: 0.71}  # other cases are held back: the last weights are far below, and become better
    assert learn(STARTER, None, dataset, own, fast).accepted
    worth |= {5: 0.83}
    assert learn(STARTER, None, dataset, own, fast).accepted
    assert not (own / learning.BEST).exists(), "the best ones are in use"


def test_the_check_after_a_training_measures_the_new_weights(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that nnU-Net's predictor loads into the network, which are copies on a GPU."""
    (tmp_path / "own" / learning.WORK).mkdir(parents=True)
    new = open_checkpoint(STARTER / "fold_0" / WEIGHTS)
    new["network_weights"] = {name: torch.ones_like(values) for name, values in new["network_weights"].items()}
    torch.save(new, tmp_path / "new.pth")
    measured = []

    def measure(model: Model, *_: Any) -> float:
        model.predictor.list_of_parameters = [{k: v.clone() for k, v in model.predictor.list_of_parameters[0].items()}]
        measured.append(model.predictor.list_of_parameters[0])
        return 0.5

    monkeypatch.setattr(learning, "tune", lambda *_: (tmp_path / "new.pth", 1))
    monkeypatch.setattr(learning, "held_back_dice", measure)
    learn(STARTER, None, dataset, tmp_path / "own", replace(SHORT, keep=0.0))
    before, after = measured
    assert not equal(before, after)
    assert equal(after, weights(tmp_path / "own"))


def test_a_history_of_which_parts_were_deleted_is_not_overwritten(tmp_path: Path) -> None:
    for name, text in (("fold_0/" + FINAL, "old"), ("history/0001.pth", "kept"), ("made.pth", "new")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    learning._take(tmp_path, tmp_path / "made.pth")
    kept = {file.name: file.read_text() for file in (tmp_path / "history").iterdir()}
    assert kept == {"0001.pth": "kept", "0002.pth": "old"}
    assert (tmp_path / "fold_0" / FINAL).read_text() == "new"


def test_the_rival_is_the_fold_that_it_began_as(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, base, compared = tmp_path / "own", tmp_path / "base", []
    (own / learning.WORK).mkdir(parents=True)
    shutil.copytree(STARTER, base)
    shutil.copytree(base / "fold_0", base / "fold_1")
    monkeypatch.setattr(learning, "tune", lambda model, begin, *_: (begin, 1))
    monkeypatch.setattr(learning, "held_back_dice", lambda model, *_: compared.append(model.checkpoint_files[0]) or 0.5)
    learn(base, ["1"], dataset, own, SHORT, new=True)
    assert compared[-1] == base / "fold_1" / WEIGHTS
    shutil.rmtree(base)
    learn(base, ["1"], dataset, own, SHORT)
    assert compared[-1] == STARTER / "fold_0" / WEIGHTS, "it is gone"


def test_averaged_weights_lie_between_the_old_and_the_new() -> None:
    old = {"network_weights": {"a": torch.tensor([1.0, 3.0]), "n": torch.tensor(5)}}
    new = {"network_weights": {"a": torch.tensor([2.0, 7.0]), "n": torch.tensor(6)}, "trainer_name": "T"}
    made = averaged(old, new, 0.75)
    torch.testing.assert_close(made["network_weights"], {"a": torch.tensor([1.25, 4.0]), "n": torch.tensor(6)})
    assert made["trainer_name"] == "T"


def test_the_class_agnostic_model_itself_can_be_tuned(dataset: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    done = learn(STARTER, None, dataset, own, SHORT)
    assert done.base is None
    model = Model(own, None, objects=["core", "rim"])
    assert model.class_agnostic
    assert model.any_spacing
    steps = dict(clicked_through(model, finished_cases(dataset)["case_0"], 2))
    assert steps[0] == {1: 0.0, 2: 0.0}
    assert all(0 <= dice <= 1 for dice in steps[2].values())


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (shutil.rmtree, "no dataset of finished cases"),
        (lambda folder: [file.unlink() for file in (folder / "labelsTr").iterdir()], "no finished case"),
        (lambda folder: (folder / "dataset.json").write_text('{"labels": {}}'), "not a dataset in nnU-Net's format"),
    ],
)
def test_errors_name_what_is_missing(
    dataset: Path, tmp_path: Path, break_it: Callable[[Path], Any], message: str
) -> None:
    break_it(dataset)
    with pytest.raises(UserError, match=message):
        learn(STARTER, None, dataset, tmp_path / "own", SHORT)


def test_other_labels_than_the_models_are_refused(dataset: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    grow(Model(STARTER, None), list(finished_cases(dataset).values())[:1], read(dataset), own)
    other = write_dataset(tmp_path / "other", 1, {"background": 0, "node": 1, "rim": 2})
    with pytest.raises(UserError, match="node"):
        learn(own, None, other, tmp_path / "learned", SHORT)
    with pytest.raises(UserError, match="labels of its own"):
        grow(Model(own, None), list(finished_cases(dataset).values()), read(dataset), tmp_path / "again")


def test_a_model_goes_on_where_it_is_the_one_to_begin_with(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `nnsam3d serve -m learned --learn` does; its rival is still the model out of which it has grown."""
    own, compared = tmp_path / "own", []
    (own / learning.WORK).mkdir(parents=True)
    monkeypatch.setattr(learning, "tune", lambda model, begin, *_: (begin, 1))  # trains nothing
    learn(STARTER, None, dataset, own, SHORT, new=True)
    monkeypatch.setattr(learning, "held_back_dice", lambda model, *_: compared.append(model.folder) or 0.5)
    assert learn(own, None, dataset, own, SHORT).base == 0.5
    assert compared == [own, own, own, STARTER]
    grow(Model(STARTER, None), list(finished_cases(dataset).values())[:1], read(dataset), tmp_path / "other")
    with pytest.raises(UserError, match="choose another folder"):
        learn(tmp_path / "other", None, dataset, tmp_path / "other", SHORT)


def read(folder: Path, name: str = "dataset.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def test_what_is_known_of_held_back_cases_is_not_measured_again(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, known, measured = Model(STARTER, None), check.Known(), list[str]()

    def clicked(model: Model, case: FinishedCase, most: int) -> Iterator[tuple[int, dict[int, float]]]:
        measured.append(case.name)
        yield 0, {1: len(measured) / 10}

    monkeypatch.setattr(check, "clicked_through", clicked)
    cases = list(finished_cases(dataset).values())[:2]
    assert held_back_dice(model, cases, "a", known) == pytest.approx(0.15)
    assert held_back_dice(model, cases, "a", known) == pytest.approx(0.15)
    assert held_back_dice(model, cases, "b", known) == pytest.approx(0.35)
    write_case(dataset, cases[0].name, 9)  # saved again
    assert held_back_dice(model, cases, "a", known) == pytest.approx((0.5 + 0.2) / 2)
    (tmp_path / learning.CHECKS).write_text(json.dumps({"a one 1": 0.5, "a two 1": None}))
    assert learning._read_checks(tmp_path) == {"a two 1": None}, "the first one is of an earlier version"
    (tmp_path / learning.CHECKS).write_text('{"a ')
    assert learning._read_checks(tmp_path) == {}


def test_a_model_that_is_worse_once_clicked_does_not_take_over(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The starter has no answer without a click, which must not decide; nor may a single case."""
    own = tmp_path / "own"
    (own / learning.WORK).mkdir(parents=True)
    monkeypatch.setattr(learning, "tune", lambda model, begin, *_: (begin, 1))

    def clicked(model: Model, case: FinishedCase, most: int) -> Iterator[tuple[int, dict[int, float]]]:
        yield from enumerate({1: dice} for dice in ((0.0, 0.7, 0.7, 0.7) if model.class_agnostic else grown))

    monkeypatch.setattr(check, "clicked_through", clicked)
    grown = (0.9, 0.9, 0.9, 0.9)
    assert learn(STARTER, None, dataset, own, SHORT, new=True).base is None
    assert not serves(own), "better, but on one case"
    for n in (5, 6, 7):
        write_case(dataset, f"case_{n}", n)
    (own / learning.CHECKS).unlink()
    grown = (0.6, 0.62, 0.64, 0.66)  # (0.6 + 0.62 + 0.66) / 3 is more than the starter's (0 + 0.7 + 0.7) / 3
    last = learn(STARTER, None, dataset, own, SHORT)
    assert (last.clicked, last.base) == (pytest.approx(0.64), pytest.approx(0.7))
    assert "(after clicks 0.640, 0.700 of the model that it began as)" in last.describe()
    assert not serves(own)
    (own / learning.CHECKS).unlink()
    grown = (0.1, 0.71, 0.7, 0.71)
    learn(STARTER, None, dataset, own, SHORT)
    assert serves(own)


def serves(own: Path) -> bool:
    record = read_record(own)
    return record is not None and record.serves


def test_the_grown_plans_are_those_of_a_model_for_one_spacing(dataset: Path, tmp_path: Path) -> None:
    grow(Model(STARTER, None), list(finished_cases(dataset).values()), read(dataset), tmp_path / "own")
    plans = json.loads((tmp_path / "own" / "plans.json").read_text())["configurations"]["3d_fullres"]
    assert plans[OPTIONS_KEY]["targets"] == "labels"
    assert plans["spacing"] == [plans["spacing"][0]] * 3
    assert 0.5 < plans["spacing"][0] < 1.5  # targets of about 16 mm, in about 18 voxels


@pytest.mark.slow
def test_killed_at_twenty_moments_nothing_is_lost(dataset: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    files = {file: file.read_bytes() for file in dataset.rglob("*") if file.is_file()}
    command = [sys.executable, "-m", "nnsam3d", "learn", "--cases", str(dataset), "-o", str(own), "--new"]
    command += ["--seconds", "1", "-device", "cpu"]
    start = time.monotonic()
    subprocess.run(command, check=True)
    whole = time.monotonic() - start
    for moment in range(1, 21):
        running = subprocess.Popen(command, start_new_session=True)
        time.sleep(whole * moment / 21)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        record = read_record(own)
        assert record is not None
        assert record.rounds
        assert Model(own, None).labels == LABELS
        for checkpoint in own.rglob("*.pth"):
            if not checkpoint.is_relative_to(own / "work"):
                open_checkpoint(checkpoint)
        assert {file: file.read_bytes() for file in files} == files
    subprocess.run(command, check=True)
