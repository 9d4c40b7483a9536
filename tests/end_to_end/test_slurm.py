"""A real SLURM on this machine, without root or munge: a benchmark that is preempted, fails in one place and is mended.

Debian's ``slurm-wlm`` is all it needs; where that is not installed the test is skipped, and says so.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from nnsam3d.demo.phantom import DATASET_NAME
from nnsam3d.jobs import ShellJob
from nnsam3d.jobs.slurm import Slurm, states
from nnsam3d.training.optimizer import WarmupLinear
from nnsam3d.training.options import TrainingOptions

from .conftest import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=10
MinJobAge=3600
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=10
"""
EPOCHS, ITERATIONS = 4, 12
OPTIONS = f"preset=tiny num_epochs={EPOCHS} num_iterations_per_epoch={ITERATIONS} num_val_iterations_per_epoch=1 seed=1"
ARMS = ("SAM3DAdapterTrainer", "nnUNetBaselineTrainer")


@dataclass(frozen=True)
class Cluster:
    """SLURM's commands with this configuration."""

    environment: dict[str, str]

    def tell(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def active(self) -> list[str]:
        """Lines of squeue about jobs that have not ended."""
        return self.tell("squeue", "-h", "-r", "-o", "%j %i %T %r").splitlines()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """SLURM with one node of two cores."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    daemons = [shutil.which(name, path=path) for name in ("slurmctld", "slurmd")]
    if None in daemons:
        pytest.skip(
            "*** SLURM IS NOT INSTALLED, so nothing here was tested: apt-get install --no-install-recommends slurm-wlm"
        )
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool", "log", "run"):
        (folder / name).mkdir()
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(user=getpass.getuser(), folder=folder))
    made = Cluster(dict(os.environ) | {"SLURM_CONF": str(configuration), "PATH": path})
    try:
        try:
            made.tell(str(daemons[0]), "-f", str(configuration))
            made.tell(str(daemons[1]), "-f", str(configuration), "-N", "localhost")
            wait_for(lambda: "idle" in made.tell("sinfo", "-h", "-o", "%T"), 60)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            logs = "\n".join(log.read_text(errors="replace")[-2000:] for log in (folder / "log").glob("*.log"))
            pytest.skip(f"*** SLURM DOES NOT START HERE, so nothing here was tested: {error}\n{logs}")
        yield made
    finally:
        subprocess.run(["scancel", "-u", getpass.getuser()], env=made.environment, timeout=600)
        time.sleep(2)
        for name in ("slurmd", "slurmctld"):
            pid = folder / "run" / f"{name}.pid"
            if pid.is_file():
                os.kill(int(pid.read_text()), 15)


def wait_for(what: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "this took too long"
        time.sleep(0.5)


@pytest.fixture
def space(workspace: Workspace, cluster: Cluster, tmp_path: Path) -> Workspace:
    """The phantoms, results of our own, and SLURM's commands."""
    results = tmp_path / "results"
    results.mkdir()
    slurm = {name: cluster.environment[name] for name in ("SLURM_CONF", "PATH")}
    return replace(workspace, environment=workspace.environment | slurm | {"nnUNet_results": str(results)})


def settled(cluster: Cluster) -> None:
    """Until nothing waits or runs that still can."""
    wait_for(lambda: not cluster.active(), 900)


def status(space: Workspace, output: Path, ok: bool = True) -> dict[str, str]:
    """State and reason by job, as `status` shows them."""
    lines = space.run("nnsam3d", "benchmark", "status", "-o", output, ok=ok).splitlines()
    rows = [line.split(maxsplit=1) for line in lines if line.startswith(("train_", "evaluate_", "report"))]
    return {row[0]: row[1] for row in rows}


def test_a_preempted_benchmark_with_one_failure_ends_as_on_one_machine(
    space: Workspace, cluster: Cluster, tmp_path: Path
) -> None:
    results, output = Path(space.environment["nnUNet_results"]) / DATASET_NAME, tmp_path / "bench"
    blocked = results / "nnUNetBaselineTrainer__nnUNetPlans__3d_fullres" / "fold_1"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder has to be: this training fails")
    what = ("-d", "990", "-f", "0", "1", "--arms", *ARMS, "--protocols", "random", "--seeds", "0", "--disable_tta")
    run = ("benchmark", "run", *what, "-device", "cpu", "-o", output, "--train", "--options", OPTIONS)
    slurm = ("--slurm", "partition=debug cpus-per-task=1")
    splits = space.root / "preprocessed" / DATASET_NAME / "splits_final.json"
    space.run("nnsam3d", *run, *slurm)
    assert splits.is_file()

    # preempted as soon as a training has learned something
    model = results / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    wait_for(lambda: any("Epoch 1" in log.read_text() for log in model.glob("fold_0/training_log*.txt")), 300)
    cluster.tell("sbatch", "-p", "urgent", "-c", "2", "-o", "/dev/null", "--wrap", "sleep 3")
    settled(cluster)
    logs = [log.read_text() for log in sorted(model.glob("fold_0/training_log*.txt"))]
    assert len(logs) >= 2, "it was begun again"
    assert ": saved checkpoint_latest.pth" in logs[0]
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    schedule = WarmupLinear(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]),
        TrainingOptions(num_epochs=EPOCHS, preset="tiny").resolved("cpu"),
    )
    assert checkpoint["logging"]["lrs"] == [schedule.learning_rate_at(epoch) for epoch in range(EPOCHS)]
    assert checkpoint["optimizer_state"]["nnsam3d"]["updates"] == EPOCHS * ITERATIONS

    told = status(space, output, ok=False)
    failed = f"train_{DATASET_NAME}_3d_fullres_1_nnUNetBaselineTrainer"
    assert told[failed].startswith("failed"), told
    assert f"failed_{failed}.txt" in told[failed]
    assert told[failed.replace("train", "evaluate")].startswith("cancelled"), told
    assert sum(state.startswith("done") for state in told.values()) == 6, told

    blocked.unlink()
    submitted = space.run("nnsam3d", *run, *slurm)
    assert "submitted 1 train job(s)" in submitted
    assert "submitted 1 evaluate job(s)" in submitted
    assert "nothing to submit" in space.run("nnsam3d", *run, *slurm)
    settled(cluster)
    assert {state.split()[0] for state in status(space, output).values()} == {"done"}
    record = json.loads((output / "slurm" / "jobs" / f"{failed}.json").read_text())
    assert (record["state"], bool(record["node"]), bool(record["scheduler_job"])) == ("done", True, True)

    here = tmp_path / "here"
    space.run("nnsam3d", *[here if word == output else word for word in run])
    assert (here / "results.json").read_bytes() == (output / "results.json").read_bytes()
    ours, theirs = (json.loads((folder / "report.json").read_text()) for folder in (here, output))
    assert ours["scores"] == theirs["scores"]


def test_folds_and_predictions(space: Workspace, cluster: Cluster, tmp_path: Path) -> None:
    """`cluster train` of two folds, then `predict --slurm` in three parts with one report."""
    quick = {"nnsam3d_options": f"{OPTIONS} final_validation=0".replace(f"={EPOCHS} ", "=1 ", 1)}
    train = ("cluster", "train", "990", "3d_fullres", "-f", "0", "1", "-device", "cpu")
    space.run("nnsam3d", *train, "--slurm", "partition=debug cpus-per-task=1", **quick)
    settled(cluster)
    model = Path(space.environment["nnUNet_results"]) / DATASET_NAME / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    assert len(list(model.glob("fold_*/checkpoint_final.pth"))) == 2, (model / "slurm/train_0.log").read_text()
    assert "all folds are trained" in space.run("nnsam3d", *train, "--slurm", "partition=debug", **quick)
    predict = ("predict", "-i", space.test_images, "-m", model, "--disable_tta", "-device", "cpu")
    space.run("nnsam3d", *predict, "-o", tmp_path / "there", "-num_parts", "3", "--slurm", "partition=debug")
    settled(cluster)
    space.run("nnsam3d", *predict, "-o", tmp_path / "here", "--report", tmp_path / "here.json")
    merged, alone = (json.loads(path.read_text()) for path in (tmp_path / "there/report.json", tmp_path / "here.json"))
    for key in ("case", "status", "output_sha256"):
        assert [case[key] for case in merged["cases"]] == [case[key] for case in alone["cases"]]
    assert len(merged["parts"]) >= 2


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scancel sends TERM, as a preemption does, after which a job goes back into the queue."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])
    saves = "bash -c 'trap \"exit 75\" USR1; while :; do sleep 0.1; done'"
    job = Slurm(tmp_path, ("--partition=debug",)).submit(ShellJob("x", saves, "a test"))
    wait_for(lambda: "RUNNING" in " ".join(cluster.active()), 60)
    time.sleep(1)  # until the script has set its traps
    cluster.tell("scancel", job)
    settled(cluster)
    assert states([job])[job][0] == "CANCELLED", (tmp_path / "x.log").read_text()
