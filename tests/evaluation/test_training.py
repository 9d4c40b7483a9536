"""`--train`: what is trained, with which budget, and how it goes on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnsam3d.errors import UserError
from nnsam3d.evaluation.plan import Job, Setting
from nnsam3d.evaluation.report import other_budgets
from nnsam3d.evaluation.training import check, note_kept, train, train_missing, training_arguments, training_options

ARMS = ("SAM3DAdapterTrainer", "nnUNetBaselineTrainer", "nnUNetBaselineTrainer+oracle", "nnUNetClickTrainer:P2")
FAKE = """
import os, pathlib, sys
pathlib.Path({log!r}).open("a").write(" ".join(sys.argv[1:]) + " | " + os.environ["nnsam3d_options"] + "\\n")
dataset, configuration, fold, _, trainer, _, plans = sys.argv[1:8]
folder = pathlib.Path(os.environ["nnUNet_results"], dataset, "__".join([trainer, plans, configuration]), "fold_" + fold)
folder.mkdir(parents=True, exist_ok=True)
if trainer == {failing!r}:
    sys.exit("no memory left")
(folder / "checkpoint_final.pth").touch()
"""


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_training):
    """nnUNetv2_train that only notes how it was called; returns the notes' file."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    folder = tmp_path / "preprocessed" / "Dataset998_X"
    (folder / "data").mkdir(parents=True)
    configurations = {
        name: {"data_identifier": where, "architecture": {}} for name, where in (("3d_fullres", "data"), ("2d", "flat"))
    }
    for plans in ("nnUNetPlans", "P2"):
        (folder / f"{plans}.json").write_text(json.dumps({"configurations": configurations}))

    def install(failing: str = "") -> Path:
        log = tmp_path / "calls.txt"
        fake_training(FAKE.format(log=str(log), failing=failing))
        return log

    return install


def setting(**changes) -> Setting:
    given = {"arms": ARMS, "train_minutes": 12.5, "options": "preset=tiny"} | changes
    return Setting(("Dataset998_X",), ("3d_fullres",), ("0",), protocols=("random", "center"), **given)


def test_every_model_is_trained_once_with_the_same_budget(nnunet, tmp_path, caplog):
    log = nnunet()
    note_kept(setting())
    assert caplog.text == ""
    train_missing(setting(), tmp_path, "cpu")
    note_kept(setting())
    assert "SAM3DAdapterTrainer fold 0, nnUNetBaselineTrainer fold 0, nnUNetClickTrainer" in caplog.text
    calls = log.read_text().splitlines()
    start = "Dataset998_X 3d_fullres 0 -tr"
    assert calls == [
        f"{start} {trainer} -device cpu | preset=tiny final_validation=0 max_minutes=12.5 num_epochs=100000"
        for trainer in ("SAM3DAdapterTrainer -p nnUNetPlans", "nnUNetBaselineTrainer -p nnUNetPlans",
                        "nnUNetClickTrainer -p P2")
    ]  # fmt: skip
    train_missing(setting(), tmp_path, "cpu")
    assert len(log.read_text().splitlines()) == 3, "what is trained stays"


def test_several_trainings_of_an_arm_have_seeds_and_plans_of_their_own(nnunet, tmp_path):
    log = nnunet()
    several = setting(arms=("nnUNetClickTrainer:P2",), train_seeds=(3, 5), train_minutes=0.0)
    train_missing(several, tmp_path, "cpu")
    assert log.read_text().splitlines() == [
        f"Dataset998_X 3d_fullres 0 -tr nnUNetClickTrainer -p P2_seed{seed} -device cpu | "
        f"preset=tiny final_validation=0 seed={seed}"
        for seed in (3, 5)
    ]
    plans = json.loads((tmp_path / "preprocessed" / "Dataset998_X" / "P2_seed3.json").read_text())
    assert plans["plans_name"] == "P2_seed3"
    assert plans["configurations"]["3d_fullres"]["data_identifier"] == "data"
    first, second = several.jobs()[0], several.jobs()[-1]
    assert first.folder(tmp_path) != second.folder(tmp_path)
    for wrong, words in (
        ({"options": "seed=1"}, "cannot be combined"),
        ({"arms": ("nnUNetTrainer",)}, "no option for a seed"),
    ):
        with pytest.raises(UserError, match=words):
            check(setting(**{"train_seeds": (3,), "train_minutes": 0.0} | wrong), may_train=True)
    with pytest.raises(UserError, match="seeds must be distinct"):
        setting(train_seeds=(1, 1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": (*ARMS, "nnUNetTrainerr")}, "cannot find the trainer nnUNetTrainerr"),
        ({"arms": (*ARMS, "nnUNetBaselineTrainer:P3")}, r"P3.json is missing \(found: nnUNetPlans\)"),
        ({"configurations": ("3d_fullres", "3d_lowres")}, "no configuration 3d_lowres; it has 3d_fullres, 2d"),
        ({"configurations": ("3d_fullres", "2d")}, "nnUNetv2_preprocess -d Dataset998_X -c 2d -plans_name nnUNetPlans"),
        ({"options": "preset=tyni"}, "preset='tyni' is unknown. Known presets: .*tiny"),
        ({"options": "checkpointing=all"}, "--options: .*checkpointing"),
        ({"options": "preset"}, "--options: 'preset' is not of the form key=value"),
        ({"test_images": "/no/such", "test_labels": "/no/such"}, "dataset.json"),
    ],
)
def test_what_the_last_training_would_miss_is_said_before_the_first(nnunet, tmp_path, changes, words):
    nnunet()
    with pytest.raises(UserError, match=words):
        check(replace(setting(train_minutes=0.0), **changes), may_train=True)


def test_an_interrupted_training_goes_on(nnunet, tmp_path):
    job = Job("Dataset998_X", "3d_fullres", "0", ARMS[0], "random")
    nnunet()
    assert "--c" not in training_arguments(job, "cuda:1")
    job.checkpoint.parent.mkdir(parents=True)
    job.checkpoint.with_name("checkpoint_latest.pth").touch()
    assert training_arguments(job, "cuda:1")[-3:] == ["-device", "cuda", "--c"]


def test_a_training_sees_the_gpu_of_its_device(nnunet, tmp_path, monkeypatch, fake_training):
    nnunet()
    seen = tmp_path / "seen.txt"
    fake_training(f"import os, pathlib; pathlib.Path({str(seen)!r}).write_text(os.environ['CUDA_VISIBLE_DEVICES'])")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    train(setting(), Job("Dataset998_X", "3d_fullres", "0", ARMS[0], "random"), tmp_path, "cuda:0", "training")
    assert seen.read_text() == "3"


def test_a_failed_training_stops_with_the_end_of_its_log(nnunet, tmp_path):
    log = nnunet(failing="nnUNetBaselineTrainer")
    with pytest.raises(UserError, match="no memory left"):
        train_missing(setting(), tmp_path, "cpu")
    assert len(log.read_text().splitlines()) == 2


def test_only_trainers_with_a_clock_take_a_budget(nnunet, tmp_path):
    log = nnunet()
    with pytest.raises(UserError, match="nnUNetTrainer cannot be trained for a number of minutes"):
        check(setting(arms=("nnUNetTrainer",)), may_train=True)
    train_missing(setting(arms=("nnUNetTrainer",), train_minutes=0.0), tmp_path, "cpu")
    assert log.read_text().endswith("| preset=tiny final_validation=0\n")
    assert training_options(setting(options="")) == "final_validation=0 max_minutes=12.5 num_epochs=100000"
    assert training_options(setting(options="num_epochs=3")) == "num_epochs=3 final_validation=0 max_minutes=12.5"


def test_the_report_names_models_of_another_budget() -> None:
    seconds = {"a": 634, "b": 1800, "c": 90, "old": 0}
    rows = [{"arm": name, "training_seconds": taken} for name, taken in seconds.items()]
    assert [row["arm"] for row in other_budgets(rows, 10)] == ["b", "c"]
    assert other_budgets(rows[:1], 10) == []
