"""The benchmark's jobs by number: what is submitted, what a worker does, what `status` says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nnsam3d import files
from nnsam3d.cli import main
from nnsam3d.errors import UserError
from nnsam3d.evaluation import cluster, training
from nnsam3d.evaluation.cluster import EVALUATE, TRAIN, prepare, record_file, tasks_of, work
from nnsam3d.evaluation.plan import Setting, open_setting, read_setting
from nnsam3d.evaluation.summary import collect, write_results
from nnsam3d.jobs import Printed
from nnsam3d.nnunet.datasets import STOPPED

from .conftest import run_here

ARMS = ("SAM3DAdapterTrainer", "nnUNetBaselineTrainer", "nnUNetBaselineTrainer+oracle")
FAKE_TRAINING = """
import sys
print("Epoch 0")
print("RuntimeError: no memory left")
sys.exit({status})
"""


def setting(dataset: str, **changes) -> Setting:
    given = {"folds": ("0", "1"), "arms": ARMS, "protocols": ("iterative",), "seeds": (0,), "max_clicks": 3} | changes
    return Setting((dataset,), ("3d_fullres",), mirroring=False, **given)


@pytest.fixture
def output(bench, tmp_path) -> Path:
    """A benchmark of two folds: of fold 0 all models are trained, of fold 1 none."""
    folder = tmp_path / "bench"
    prepare(open_setting(folder, setting(bench)), folder)
    return folder


def run(bench, output, *more: str) -> int:
    """The command, as a user gives it."""
    what = ["-d", bench, "-f", "0", "1", "--arms", *ARMS, "--protocols", "iterative", "--seeds", "0", "--clicks", "3"]
    return main(["benchmark", "run", *what, "--disable_tta", "-device", "cpu", "-o", str(output), *more])


@pytest.fixture
def no_check(monkeypatch) -> None:
    """Fold 1 is not preprocessed here."""
    monkeypatch.setattr(training, "check_planned", lambda job: None)


def told(fake_slurm: Path) -> list[str]:
    """sbatch's arguments since the last look, without folders."""
    path = fake_slurm / "told_sbatch"
    lines = path.read_text().splitlines() if path.is_file() else []
    path.unlink(missing_ok=True)
    return [" ".join(Path(word).name if "/" in word else word for word in line.split()[1:]) for line in lines]


def test_numbers_follow_from_the_setting(bench):
    tasks = tasks_of(setting(bench))
    assert [(task.number, task.stage, task.jobs[0].fold, task.jobs[0].arm) for task in tasks] == [
        (4 * late + 2 * fold + arm, stage, str(fold), ARMS[arm])
        for late, stage in enumerate((TRAIN, EVALUATE))
        for fold in (0, 1)
        for arm in (0, 1)
    ]
    assert [job.arm for job in tasks[5].jobs] == list(ARMS[1:]), "one model, two arms"


def test_only_what_is_missing_is_submitted(bench, output, no_check, fake_slurm, capsys):
    assert run(bench, output, "--train", "--slurm", "partition=gpu", "--slurm-max", "2") == 0
    assert told(fake_slurm) == [
        "--array=2-3%2 train.sh",
        "--array=0-1%2 evaluate.sh",
        "--array=2-3%2 --dependency=aftercorr:100 --kill-on-invalid-dep=yes evaluate.sh",
        "--dependency=afterany:100:101:102 --kill-on-invalid-dep=yes report.sh",
    ]
    queue = ["100_2 RUNNING None", "100_3 FAILED NonZeroExitCode", "101_0 COMPLETED None", "101_1 RUNNING None"]
    queue += ["102_2 PENDING Dependency", "102_3 CANCELLED Dependency", "103 PENDING Dependency"]
    (fake_slurm / "queue").write_text("\n".join(queue))
    assert run(bench, output, "--train", "--slurm", "partition=gpu") == 0
    assert told(fake_slurm) == [
        "--array=3 train.sh",
        "--array=0 evaluate.sh",  # it ended and has left nothing
        "--array=3 --dependency=aftercorr:104 --kill-on-invalid-dep=yes evaluate.sh",
        "--dependency=afterany:100_2:101_1:102_2:104:105:106 --kill-on-invalid-dep=yes report.sh",
    ]
    queue[1] = queue[5] = "104_3 RUNNING None"
    (fake_slurm / "queue").write_text(
        "\n".join([*queue, "105_0 RUNNING None", "106_3 PENDING None", "107 PENDING None"])
    )
    assert run(bench, output, "--train", "--slurm", "partition=gpu") == 0
    assert told(fake_slurm) == []
    assert "nothing to submit" in capsys.readouterr().out


def test_commands_for_other_schedulers(bench, output, no_check, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert run(bench, output, "--train", "--print") == 0
    lines = [line.split(" -m nnsam3d ")[-1] for line in capsys.readouterr().out.splitlines() if "benchmark" in line]
    assert [line.split("--job ")[1].split()[0] for line in lines if "--job" in line] == ["2", "3", "4", "5", "6", "7"]
    assert any(line.startswith("benchmark report -o ") for line in lines)


def test_workers_give_the_same_bytes_as_one_machine(bench, bench_folders, checkout, tmp_path):
    """All workers, one number after the other, beside `run`."""
    here, there = tmp_path / "here", tmp_path / "there"
    what = ["-d", bench, "--arms", *ARMS, "--protocols", "iterative", "--seeds", "0", "--clicks", "3", "--disable_tta"]
    run_here(["benchmark", "run", *what, "-device", "cpu", "-o", str(here)], bench_folders, checkout)
    only = open_setting(there, setting(bench, folds=("0",)))
    prepare(only, there)
    for task in tasks_of(only):
        work(there, task.number, "cpu")
    write_results(only, there, collect(only, there))
    assert (here / "results.json").read_bytes() == (there / "results.json").read_bytes()
    record = json.loads(record_file(there, tasks_of(only)[2].name).read_text())
    assert (record["state"], record["device"] != "") == ("done", True)
    assert {"nnsam3d", "torch"} <= set(record["versions"])


@pytest.mark.parametrize(("status", "expected"), [(1, 1), (STOPPED, STOPPED)])
def test_a_training_that_fails_is_named_and_one_that_was_stopped_is_not(
    bench, output, no_check, fake_slurm, fake_training, capsys, status, expected
):
    fake_training(FAKE_TRAINING.format(status=status))
    assert main(["benchmark", "worker", "-o", str(output), "--job", "2", "-device", "cpu"]) == expected
    name = tasks_of(read_setting(output))[2].name
    assert json.loads(record_file(output, name).read_text())["state"] == ("stopped" if status == STOPPED else "failed")
    capsys.readouterr()
    main(["benchmark", "status", "-o", str(output)])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(name))
    if status == STOPPED:
        assert "missing" in row
    else:
        assert "failed" in row
        assert "nnUNetv2_train ended with status 1: RuntimeError: no memory left" in row
        assert f"failed_{name}.txt" in row


def test_status_says_what_the_queue_and_the_files_say(bench, output, no_check, fake_slurm, capsys):
    assert run(bench, output, "--train", "--slurm", "partition=gpu") == 0
    queue = ["100_2 RUNNING None", "100_3 TIMEOUT TimeLimit", "101_0 RUNNING None", "101_1 FAILED OutOfMemory"]
    queue += ["102_2 PENDING Dependency", "102_3 CANCELLED Dependency", "103 PENDING Dependency"]
    (fake_slurm / "queue").write_text("\n".join(queue))
    capsys.readouterr()
    assert main(["benchmark", "status", "-o", str(output)]) == 1
    lines = capsys.readouterr().out.splitlines()
    states = [line.split()[1] for line in lines[1:10]]
    assert states == ["done", "done", "running", "failed", "running", "failed", "waiting", "cancelled", "waiting"]
    assert "SLURM: TIMEOUT TimeLimit" in lines[4]
    assert str(output / "slurm" / "train_3.log") in lines[4]
    assert "its training has failed" in lines[8]
    assert lines[-1] == "nnsam3d: 2 done, 2 running, 2 failed, 2 waiting, 1 cancelled"


def test_a_number_too_large_is_refused(bench, output):
    with pytest.raises(UserError, match="has the jobs 0 to 7"):
        work(output, 8, "cpu")


def test_watching_reads_every_checkpoint_once(bench, output, monkeypatch):
    """Until it is another file. The bytes of several models are not read again at every refresh."""
    hashed = []
    stock = files.file_sha256
    monkeypatch.setattr(files, "file_sha256", lambda path: (hashed.append(path), stock(path))[1])
    files._sha256_of.cache_clear()
    rows = [cluster.status_rows(setting(bench), output, Printed()) for _ in range(3)]
    assert rows[0] == rows[1] == rows[2]
    assert len(hashed) == len(set(hashed)) > 0
    before = len(hashed)
    stamp = hashed[0].stat().st_mtime_ns
    try:
        os.utime(hashed[0], ns=(stamp, stamp + 10**9))
        cluster.status_rows(setting(bench), output, Printed())
        assert hashed[before:] == [hashed[0]], "a new checkpoint is another one"
    finally:
        os.utime(hashed[0], ns=(stamp, stamp))
