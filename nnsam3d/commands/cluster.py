"""`nnsam3d cluster train|merge`: train folds on a cluster, as jobs that continue after interruptions."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from nnsam3d import jobs
from nnsam3d.errors import UserError
from nnsam3d.jobs import NUMBER, ShellJob
from nnsam3d.tables import counted

DESCRIPTION = """
Submits nnUNetv2_train for several folds, as an array of jobs that save a checkpoint at their time limit
and continue when they run again. `nnsam3d predict --slurm` and `nnsam3d benchmark run --slurm` submit
predictions and benchmarks. `nnsam3d cluster train --help` shows the options.
"""
EXAMPLE = """
nnsam3d cluster train 513 3d_fullres -f 0 1 2 3 4 -tr SAM3DAdapterTrainer \\
    --slurm "partition=gpu gres=gpu:1 cpus-per-task=8 mem=48G time=24:00:00"
nnsam3d cluster train 513 3d_fullres --print    # the commands, for other clusters
nnsam3d cluster merge out/report.json out/slurm/part_*.json    # done automatically by predict --slurm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `nnsam3d cluster` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="train|merge")
    train = actions.add_parser(
        "train",
        help="submit the folds of a training",
        description="Submits nnUNetv2_train --c for every unfinished fold, as one job array. A job that reaches its "
        "time limit or is preempted saves a checkpoint, is requeued, and continues. Repeat the command to submit "
        "failed folds again.",
        allow_abbrev=False,
    )
    train.add_argument("dataset", help="dataset name or number")
    train.add_argument("configuration", help="for example 3d_fullres")
    train.add_argument("-f", dest="folds", nargs="+", default=list("01234"), help="default: 0 1 2 3 4")
    train.add_argument("-tr", dest="trainer", default="SAM3DAdapterTrainer", help="default: %(default)s")
    train.add_argument("-p", dest="plans", default="nnUNetPlans", help="default: %(default)s")
    train.add_argument("-device", default="cuda", choices=("cuda", "cpu", "mps"), help="default: %(default)s")
    train.add_argument("--npz", action="store_true", help="save the validation's probabilities, for ensembles")
    train.add_argument(
        "--find_best", action="store_true", help="run nnUNetv2_find_best_configuration after all folds have succeeded"
    )
    jobs.add_arguments(train)
    merge = actions.add_parser(
        "merge",
        help="merge the reports of a prediction in parts",
        description="Merges the reports of `nnsam3d predict -num_parts N -part_id 0 … N-1 --report`.",
        allow_abbrev=False,
    )
    merge.add_argument("report", type=Path, help="output file")
    merge.add_argument("parts", type=Path, nargs="+", help="the reports, ordered by -part_id")


def main(args: argparse.Namespace) -> int:
    """`nnsam3d cluster`."""
    return _merge(args) if args.action == "merge" else _train(args)


def _merge(args: argparse.Namespace) -> int:
    # imported late: loads torch
    from nnsam3d.inference.report import merge_reports

    merged, missing = merge_reports(args.report, args.parts)
    failed = [case for case in merged["cases"] if case["status"] == "failed"]
    predicted = counted(len(merged["cases"]) - len(failed), "case")
    print(f"nnsam3d: {predicted} predicted, {len(failed)} failed; {args.report}")
    for case in failed:
        print(f"nnsam3d: failed: {case['error']}", file=sys.stderr)
    for name in missing:
        print(f"nnsam3d: failed: a part has left no report: {name}", file=sys.stderr)
    return 1 if failed or missing else 0


def _train(args: argparse.Namespace) -> int:
    # imported late: `--help` responds immediately
    from nnsam3d.nnunet.datasets import dataset_name, model_folder
    from nnsam3d.nnunet.run import nnunet_command
    from nnsam3d.nnunet.splits import make_splits_for
    from nnsam3d.training.folds import is_trained

    dataset = dataset_name(args.dataset)
    model = model_folder(dataset, args.trainer, args.plans, args.configuration)
    back_end = jobs.chosen(args, model / "slurm")
    if back_end is None:
        raise UserError("--slurm TEXT is missing: options of sbatch, or --print for the commands without SLURM")
    unknown = [fold for fold in args.folds if not (fold.isdecimal() or fold == "all")]
    if unknown:
        raise UserError(f"-f {' '.join(unknown)}: a fold must be a number or all")
    if args.find_best and "all" in args.folds:
        raise UserError("--find_best needs validation cases, which fold all does not have: omit one of them")
    _check_trainer(args.trainer)
    # before the jobs start, because several would write the file at the same time
    make_splits_for(dataset, args.plans, args.configuration)

    what = ["-tr", args.trainer, "-p", args.plans]
    # --c: without a checkpoint, nnU-Net starts a new training
    more = shlex.join([*what, "-device", args.device, "--c", *(["--npz"] if args.npz else [])])
    before = shlex.join([nnunet_command("nnUNetv2_train"), dataset, args.configuration])
    open_ = [fold for fold in dict.fromkeys(args.folds) if not is_trained(model, args.configuration, fold, args.npz)]
    numbers = {int(one): "" for one in open_ if one != "all" and not back_end.state("train", int(one)).is_active}
    submitted = back_end.active("train", "train_all")
    queued = f"in the queue: {' '.join(submitted)}" if submitted else "all folds are trained"
    new = []
    if numbers:
        new.append(ShellJob("train", f"{before} {NUMBER} {more}", f"fold(s) {' '.join(map(str, numbers))}", numbers))
    if "all" in open_ and not back_end.state("train_all").is_active:
        new.append(ShellJob("train_all", f"{before} all {more}", "fold all"))
    if not new:
        print(f"{'# ' if args.print else ''}nnsam3d: nothing to submit: {queued}")
    submitted += [back_end.submit(job) for job in new]
    # one in the queue that waits for a fold that has failed never runs
    if args.find_best and (new or not back_end.state("find_best").is_active):
        best = [nnunet_command("nnUNetv2_find_best_configuration"), dataset, "-c", args.configuration, *what]
        command, about = shlex.join([*best, "-f", *args.folds]), "nnUNetv2_find_best_configuration"
        back_end.submit(ShellJob("find_best", command, about, after=submitted, when="ok"))
    print(*back_end.messages, sep="\n", end="\n" if back_end.messages else "")
    return 0


def _check_trainer(name: str) -> None:
    """Raises UserError for what would end every job on its node: an unknown trainer, a missing link, a wrong option."""
    from nnsam3d.nnunet.doctor import check_link
    from nnsam3d.nnunet.model import find_trainer
    from nnsam3d.training.options import options_from_environment

    options_from_environment()
    trainer = find_trainer(name)
    if trainer is None:
        raise UserError(f"-tr {name}: nnU-Net cannot find this trainer; check the name and nnUNet_extTrainer")
    if trainer.__module__.startswith("nnsam3d."):
        for finding in check_link():
            if finding.level == "problem":
                raise UserError(f"{finding.text}; fix: {finding.fix}")
