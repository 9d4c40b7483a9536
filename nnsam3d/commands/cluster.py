"""`nnsam3d cluster train|merge`: folds on a cluster, each a job that goes on after an interruption."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.slurm import NUMBER, Queue, Script, parse, submit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `nnsam3d cluster` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="train|merge")
    train = actions.add_parser(
        "train",
        help="submit the folds of a training",
        description="Submits nnUNetv2_train --c for every fold that is not finished, as one array: a job whose time is "
        "up, or whose machine another one takes, saves, goes back into the queue and goes on. Give the same "
        "command again to submit what failed.",
        allow_abbrev=False,
    )
    train.add_argument("dataset", help="name or number")
    train.add_argument("configuration", help="for example 3d_fullres")
    train.add_argument("-f", dest="folds", nargs="+", default=list("01234"), help="default: 0 1 2 3 4")
    train.add_argument("-tr", dest="trainer", default="SAM3DAdapterTrainer", help="default: %(default)s")
    train.add_argument("-p", dest="plans", default="nnUNetPlans", help="default: %(default)s")
    train.add_argument("-device", default="cuda", choices=("cuda", "cpu", "mps"), help="default: %(default)s")
    train.add_argument("--npz", action="store_true", help="probabilities of the validation, for ensembles")
    train.add_argument(
        "--find_best", action="store_true", help="when all folds have succeeded, nnUNetv2_find_best_configuration"
    )
    train.add_argument("--slurm", required=True, metavar="TEXT", help='options, e.g. "partition=gpu gres=gpu:1"')
    train.add_argument("--slurm-max", type=int, default=0, metavar="N", help="most folds at a time")
    train.add_argument("--print", action="store_true", help="only write the script and show the commands")
    merge = actions.add_parser(
        "merge",
        help="one report of the parts of a prediction",
        description="Joins the reports of `nnsam3d predict -num_parts N -part_id 0 … N-1 --report`.",
        allow_abbrev=False,
    )
    merge.add_argument("report", type=Path, help="to be written")
    merge.add_argument("parts", type=Path, nargs="+", help="in the order of their numbers")


def main(args: argparse.Namespace) -> int:
    """`nnsam3d cluster`."""
    if args.action == "merge":
        # late: it loads torch
        from nnsam3d.inference.report import merge_reports

        return merge_reports(args.report, args.parts)
    return _train(args)


def _train(args: argparse.Namespace) -> int:
    from nnsam3d.nnunet.datasets import dataset_name, model_folder
    from nnsam3d.nnunet.splits import make_splits_for

    options, dataset = parse(args.slurm), dataset_name(args.dataset)
    unknown = [fold for fold in args.folds if not (fold.isdecimal() or fold == "all")]
    if unknown:
        raise UserError(f"-f {' '.join(unknown)}: folds are numbers, or all")
    if args.find_best and "all" in args.folds:
        raise UserError("--find_best compares folds that held cases back: not with -f all")
    make_splits_for(dataset, args.plans, args.configuration)  # folds that start together would race for them
    model = model_folder(dataset, args.trainer, args.plans, args.configuration)
    folds = _Folds(args, dataset, model, options)
    if args.print:
        folds.show()
    else:
        folds.submit()
    return 0


class _Folds:
    """The folds of one model, as jobs: an array, and one more for the "fold" that holds nothing back."""

    def __init__(self, args: argparse.Namespace, dataset: str, model: Path, options: tuple[str, ...]) -> None:
        self.args, self.dataset, self.model = args, dataset, model
        self.array = self._script("train", NUMBER, options, f"One fold of {args.trainer} for each number of the array")
        self.whole = self._script("train_all", "all", options, f"{args.trainer} on all cases")
        self.best = Script(
            model / "slurm" / "find_best.sh",
            shlex.join([_command("nnUNetv2_find_best_configuration"), dataset, *self._what("-c", "-tr", "-p", "-f")]),
            options,
            "Which of the trained models is best, and how to use it",
        )

    def _what(self, *flags: str) -> list[str]:
        values = {"-c": [self.args.configuration], "-tr": [self.args.trainer], "-p": [self.args.plans]}
        values["-f"] = self.args.folds
        return [word for flag in flags for word in (flag, *values[flag])]

    def _script(self, stem: str, fold: str, options: tuple[str, ...], about: str) -> Script:
        # --c: without a checkpoint nnU-Net begins
        rest = [*self._what("-tr", "-p"), "-device", self.args.device, "--c", *(["--npz"] if self.args.npz else [])]
        before = shlex.join([_command("nnUNetv2_train"), self.dataset, self.args.configuration])
        return Script(self.model / "slurm" / f"{stem}.sh", f"{before} {fold} {shlex.join(rest)}", options, about)

    def _missing(self, queue: Queue) -> tuple[list[int], bool]:
        """Numbers of folds, and whether "all": what was asked for and is neither finished nor in the queue."""
        open_ = [fold for fold in dict.fromkeys(self.args.folds) if not self._is_done(fold)]
        numbers = [int(fold) for fold in open_ if fold != "all" and not queue.holds("train", int(fold))]
        return numbers, "all" in open_ and not queue.holds("train_all")

    def _is_done(self, fold: str) -> bool:
        from nnsam3d.nnunet.datasets import FINAL

        folder = self.model / f"fold_{fold}"
        # a training that was stopped in its validation validates when it runs again
        leaves_out = "final_validation=0" in os.environ.get("nnsam3d_options", "")
        return (folder / FINAL).is_file() and (leaves_out or (folder / "validation" / "summary.json").is_file())

    def show(self) -> None:
        """Scripts and commands, nothing submitted."""
        numbers, whole = self._missing(Queue((), {}))
        commands = [(self.array, self.array.sbatch(numbers, self.args.slurm_max), "")] if numbers else []
        commands += [(self.whole, self.whole.sbatch(), "")] if whole else []
        commands += [(self.best, self.best.sbatch(), "    # when all have succeeded")] if self.args.find_best else []
        for script, command, note in commands:
            script.write(command)
            print(shlex.join(command) + note)

    def submit(self) -> None:
        """What is missing, and tell what."""
        folder = self.model / "slurm"
        queue = Queue.of(folder)
        numbers, whole = self._missing(queue)
        jobs = queue.active(("train", "train_all"))
        if not (numbers or whole):
            print(f"nnsam3d: nothing to submit: {'in the queue: ' + ' '.join(jobs) if jobs else 'all is trained'}")
        if numbers:
            jobs.append(submit(self.array, numbers, self.args.slurm_max))
            told = " ".join(map(str, numbers))
            print(f"nnsam3d: submitted fold(s) {told} as {jobs[-1]}; logs: {folder}/train_<fold>.log")
        if whole:
            jobs.append(submit(self.whole))
            print(f"nnsam3d: submitted fold all as {jobs[-1]}; log: {self.whole.log()}")
        if self.args.find_best and not queue.holds("find_best"):
            job = submit(self.best, after=f"afterok:{':'.join(jobs)}" if jobs else "")
            print(f"nnsam3d: submitted nnUNetv2_find_best_configuration as {job}; log: {self.best.log()}")


def _command(name: str) -> str:
    from nnsam3d.nnunet.run import nnunet_command

    return nnunet_command(name)
