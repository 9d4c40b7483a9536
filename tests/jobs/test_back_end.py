"""A back end is one class: the commands offer its option, and submit to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnsam3d import jobs
from nnsam3d.cli import main
from nnsam3d.jobs import NUMBER, BackEnd, JobState, Printed, ShellJob
from nnsam3d.jobs.slurm import Slurm
from nnsam3d.nnunet.link import trainers_folder

DATASET = "Dataset999_Test"


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[ShellJob]:
    """The jobs that another back end has received, chosen with ``--notes``."""
    received: list[ShellJob] = []

    class Notes(BackEnd):
        def __init__(self):
            self.messages = ["noted"]

        @staticmethod
        def add_arguments(parser):
            parser.add_argument("--notes", action="store_true")

        @classmethod
        def chosen(cls, args, folder):
            return cls() if args.notes else None

        def submit(self, job):
            received.append(job)
            return job.name

        def state(self, name, number=None):
            return JobState("running") if number == 1 else JobState()

    monkeypatch.setattr(jobs, "back_ends", lambda: [Notes, Slurm, Printed])
    return received


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained fold 0; the splits are there."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / DATASET).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnsam3d_options", raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    plans = {"configurations": {"3d_fullres": {"data_identifier": "data", "architecture": {}}}}
    preprocessed = tmp_path / "preprocessed" / DATASET
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    (preprocessed / "splits_final.json").write_text("[]")
    folder = tmp_path / "results" / DATASET / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0" / "validation").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").touch()
    (folder / "fold_0" / "validation" / "summary.json").touch()
    return folder


def test_trainings_and_predictions_use_it(submitted, model, tmp_path, capsys):
    assert main(["cluster", "train", "999", "3d_fullres", "--notes", "--find_best"]) == 0
    train, best = submitted
    assert (train.name, list(train.numbers), list(train.after)) == ("train", [2, 3, 4], []), "1 is running, 0 is done"
    assert NUMBER in train.command
    assert (best.name, list(best.after), best.when) == ("find_best", ["train"], "ok")
    submitted.clear()
    (model / "dataset.json").write_text("{}")
    (model / "plans.json").write_text('{"configurations": {}}')
    (tmp_path / "images").mkdir()
    command = ["predict", "-i", str(tmp_path / "images"), "-o", str(tmp_path / "out"), "-m", str(model), "-f", "0"]
    assert main([*command, "-num_parts", "2", "--notes"]) == 0
    parts, merge = submitted
    assert (list(parts.numbers), list(merge.after), merge.when) == ([0, 1], ["predict"], "any")
    assert capsys.readouterr().out.splitlines() == ["noted", "noted"]


@pytest.mark.parametrize("command", [("benchmark", "run"), ("cluster", "train"), ("predict",)])
def test_commands_offer_it(submitted, capsys, command):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    assert {"--notes", "--slurm", "--print"} <= set(capsys.readouterr().out.replace("]", " ").split())


def test_printed_commands_run_in_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("nnsam3d_options", "a b")
    printed = Printed()
    array = printed.submit(ShellJob("train", f"train --fold {NUMBER}", "2 folds", {0: "x", 3: ""}, first=2))
    printed.submit(ShellJob("best", "best", "the best", after=[array], when="ok"))
    lines = [line for line in printed.messages if not line.startswith("export ")]
    assert "export nnsam3d_options='a b'" in printed.messages
    assert lines[1:] == [
        "# 2 folds",
        "train --fold 2    # x",
        "train --fold 5",
        "# the best, after all have succeeded",
        "best",
    ]


def test_all_back_ends_are_found():
    assert jobs.back_ends()[-1] is Printed
    assert Slurm in jobs.back_ends()
