"""SLURM's scripts and commands, with stand-ins for its programs; the real ones are in end_to_end/test_slurm.py."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from nnsam3d.errors import UserError
from nnsam3d.jobs import NUMBER, JobState, ShellJob
from nnsam3d.jobs.slurm import Slurm, parse, ranges, states


def script_of(folder: Path, command: str, options: tuple[str, ...] = ()) -> str:
    """The script of a single job, which is not submitted."""
    Slurm(folder, options, only_print=True).submit(ShellJob("x", command, "a test"))
    return (folder / "x.sh").read_text()


def test_options_are_sbatchs_and_ours_are_left_alone():
    assert parse("partition=gpu gres=gpu:1 --mem=48G exclusive comment='a b'") == (
        "--partition=gpu", "--gres=gpu:1", "--mem=48G", "--exclusive", "--comment=a b",
    )  # fmt: skip
    for text, words in (
        ("array=0-3", "array is set by nnsam3d"),
        ("-p gpu", "'-p' is not an option"),
        ("'", "No closing"),
    ):
        with pytest.raises(UserError, match=words):
            parse(text)


@pytest.mark.parametrize("value", ["a b", "it's", 'say "x"', "a\\b c", "#1", "node[1-3]", "a=b c"])
def test_values_keep_their_quotes(tmp_path, value):
    """sbatch reads the lines of a script like a shell: at spaces, with quotes and backslashes."""
    options = parse(f"partition=gpu comment={shlex.quote(value)} exclusive")
    assert options[1] == f"--comment={value}"
    text = script_of(tmp_path, "true", options)
    lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if "--comment" in line]
    assert [shlex.split(line) for line in lines] == [[f"--comment={value}"]]
    if value == "a b":
        assert lines == ['--comment="a b"']
    plain = "\n#SBATCH --partition=gpu\n"
    assert plain in text
    assert text.count("#SBATCH") == 4 + 3 + 1, "a line each: ours, theirs, and --signal"


def test_a_value_is_one_line(tmp_path):
    with pytest.raises(UserError, match="comment must be one line"):
        script_of(tmp_path, "true", parse("comment='a\nb'"))


@pytest.mark.parametrize(
    ("numbers", "text"), [((), ""), ((4,), "4"), ((0, 1, 2, 5), "0-2,5"), ((7, 3, 4), "3-4,7"), ((0, 2, 4), "0,2,4")]
)
def test_numbers_as_ranges(numbers, text):
    assert ranges(numbers) == text


def test_what_is_submitted_is_remembered_and_found_in_the_queue(fake_slurm, tmp_path):
    folder = tmp_path / "a folder"
    slurm = Slurm(folder, ("--partition=gpu",), at_once=2)
    assert (
        slurm.submit(ShellJob("train", f"work {NUMBER}", "3 trainings", dict.fromkeys((0, 1, 3), ""), first=4)) == "100"
    )
    assert slurm.submit(ShellJob("report", "report", "the report", after=["100"])) == "101"
    assert slurm.messages == [
        f"nnsam3d: submitted 3 trainings as 100; log: {folder}/train_<number>.log",
        f"nnsam3d: submitted the report as 101, afterany:100; log: {folder}/report.log",
    ]
    told = (fake_slurm / "told_sbatch").read_text().splitlines()
    assert told[0] == f"--parsable --array=0-1,3%2 {folder}/train.sh"
    assert told[1] == f"--parsable --dependency=afterany:100 --kill-on-invalid-dep=yes {folder}/report.sh"
    text = (folder / "train.sh").read_text()
    assert "\nwork $((SLURM_ARRAY_TASK_ID + 4)) &\n" in text
    assert f'#SBATCH --output="{folder}/train_%a.log"' in text
    assert "#SBATCH --partition=gpu\n#SBATCH --signal=B:USR1@600" in text
    (fake_slurm / "queue").write_text(
        "100_0 COMPLETED None\n100_1 RUNNING None\n100_3 PENDING Resources\n101 PENDING Dependency\n"
    )
    queue = Slurm(folder)
    kinds = [queue.state("train", number).kind for number in (0, 1, 2, 3)]
    assert kinds == ["", "running", "", "waiting"]
    assert queue.state("report") == JobState("waiting", "Dependency", "101")
    assert queue.state("train", 1) == JobState("running", f"{folder}/train_1.log", "100")
    assert queue.active("train") == ["100_1", "100_3"], "what has ended is not waited for"
    (fake_slurm / "queue").unlink()
    assert Slurm(folder).active("train", "report") == []


def test_a_queue_that_has_forgotten_says_nothing(fake_slurm):
    (fake_slurm / "refuses").touch()
    assert states(["7"]) == {}
    assert states([]) == {}


def test_no_slurm_is_said_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"sbatch is not on the PATH.*--print"):
        Slurm(tmp_path).submit(ShellJob("x", "true", ""))


ENDS = {
    "is done": ("exit 0", 0, False),
    "fails": ("exit 1", 1, False),
    "is stopped and has saved": ("exit 75", 75, True),
    "saves on the signal": ("trap 'exit 75' USR1; echo ready; while :; do sleep 0.05; done", 75, True),
    "knows no signal": ("echo ready; exec sleep 600", 138, True),
    "finishes in spite of the signal": (
        "trap 'exit 0' USR1; echo ready; while :; do sleep 0.05; done",
        0,
        False,
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_a_script_goes_back_into_the_queue_when_its_command_was_stopped(fake_slurm, tmp_path, case):
    """The script itself, in bash; TERM and USR1 reach the command as USR1."""
    code, status, requeued = ENDS[case]
    script_of(tmp_path / "x y", f"bash -c {shlex.quote(code)}")
    command = ["bash", tmp_path / "x y" / "x.sh"]
    environment = os.environ | {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"}
    for sent in (signal.SIGUSR1, signal.SIGTERM):
        told = fake_slurm / "told_scontrol"
        told.unlink(missing_ok=True)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            if "ready" in code:
                assert process.stdout.readline() == "ready\n"
                process.send_signal(sent)
            process.wait(timeout=600)
        assert process.returncode == status
        assert (told.read_text() if told.is_file() else "") == ("requeue Incomplete 10_3\n" if requeued else "")


def test_a_job_that_is_stopped_at_once_again_and_again_is_not_requeued(fake_slurm, tmp_path):
    script_of(tmp_path, "bash -c 'exit 75'")
    environment = os.environ | {"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "2"}
    done = subprocess.run(["bash", tmp_path / "x.sh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert "time limit" in done.stderr
    assert not (fake_slurm / "told_scontrol").exists()


@pytest.mark.parametrize(("time", "seconds"), [("10", 150), ("00:10:00", 150), ("2-00:00:00", 600), ("UNLIMITED", 600)])
def test_the_notice_fits_the_time_limit(tmp_path, time, seconds):
    assert f"--signal=B:USR1@{seconds}\n" in script_of(tmp_path, "true", parse(f"time={time}"))


def test_what_nnunet_needs_to_know_is_in_the_script(fake_slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", "/data/raw $x")
    monkeypatch.setenv("nnsam3d_options", "preset=tiny seed=1")
    monkeypatch.setenv("SECRET", "not for others")
    monkeypatch.setenv("NNSAM3D_KEY", "not for others")
    text = script_of(tmp_path, "true", ("--signal=B:USR1@60",))
    assert "export nnUNet_raw='/data/raw $x'\n" in text
    assert "export nnsam3d_options='preset=tiny seed=1'\n" in text
    assert "not for others" not in text
    assert text.count("--signal=") == 1
