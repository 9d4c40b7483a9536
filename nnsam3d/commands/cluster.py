"""`nnsam3d cluster train|merge`: train folds on a cluster, as jobs that continue after interruptions."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.slurm import NUMBER, Queue, Script, exports, parse, submit


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
    train.add_argument("--slurm", metavar="TEXT", help='sbatch options, for example "partition=gpu gres=gpu:1"')
    train.add_argument("--slurm-max", type=int, default=0, metavar="N", help="maximum folds at a time")
    train.add_argument(
        "--print",
        action="store_true",
        help="submit nothing. With --slurm: write the scripts and print the sbatch commands. Without: print the "
        "training commands, for other clusters",
    )
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
    if args.action == "merge":
        # imported late: loads torch
        from nnsam3d.inference.report import merge_reports

        return merge_reports(args.report, args.parts)
    return _train(args)


def _train(args: argparse.Namespace) -> int:
    from nnsam3d.nnunet.datasets import dataset_name, model_folder
    from nnsam3d.nnunet.splits import make_splits_for

    if args.slurm is None and not args.print:
        raise UserError("--slurm TEXT is missing: options of sbatch, or --print for the commands without SLURM")
    options, dataset = parse(args.slurm or ""), dataset_name(args.dataset)
    unknown = [fold for fold in args.folds if not (fold.isdecimal() or fold == "all")]
    if unknown:
        raise UserError(f"-f {' '.join(unknown)}: a fold must be a number or all")
    if args.find_best and "all" in args.folds:
        raise UserError("--find_best needs validation cases, which fold all does not have: omit one of them")
    _check_trainer(args.trainer)
    # before the jobs start, because several would write the file at the same time
    make_splits_for(dataset, args.plans, args.configuration)
    model = model_folder(dataset, args.trainer, args.plans, args.configuration)
    folds = _Folds(args, dataset, model, options)
    if args.print:
        folds.show()
    else:
        folds.submit()
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


class _Folds:
    """The jobs of one model: an array for the numbered folds, and a separate job for fold "all"."""

    def __init__(self, args: argparse.Namespace, dataset: str, model: Path, options: tuple[str, ...]) -> None:
        self.args, self.dataset, self.model = args, dataset, model
        self.array = self._script("train", NUMBER, options, f"One fold of {args.trainer} per array task")
        self.whole = self._script("train_all", "all", options, f"{args.trainer} on all cases")
        self.best = Script(
            model / "slurm" / "find_best.sh",
            shlex.join([_command("nnUNetv2_find_best_configuration"), dataset, *self._what("-c", "-tr", "-p", "-f")]),
            options,
            "Determine the best configuration",
        )

    def _what(self, *flags: str) -> list[str]:
        values = {"-c": [self.args.configuration], "-tr": [self.args.trainer], "-p": [self.args.plans]}
        values["-f"] = self.args.folds
        return [word for flag in flags for word in (flag, *values[flag])]

    def _script(self, stem: str, fold: str, options: tuple[str, ...], about: str) -> Script:
        return Script(self.model / "slurm" / f"{stem}.sh", self._training(fold), options, about)

    def _training(self, fold: str) -> str:
        # --c: without a checkpoint, nnU-Net starts a new training
        rest = [*self._what("-tr", "-p"), "-device", self.args.device, "--c", *(["--npz"] if self.args.npz else [])]
        before = shlex.join([_command("nnUNetv2_train"), self.dataset, self.args.configuration])
        return f"{before} {fold} {shlex.join(rest)}"

    def _missing(self, queue: Queue) -> tuple[list[int], bool]:
        """The requested folds that are neither finished nor in the queue: their numbers, and whether "all"."""
        open_ = [fold for fold in dict.fromkeys(self.args.folds) if not self._is_done(fold)]
        numbers = [int(fold) for fold in open_ if fold != "all" and not queue.holds("train", int(fold))]
        return numbers, "all" in open_ and not queue.holds("train_all")

    def _is_done(self, fold: str) -> bool:
        from nnsam3d.nnunet.datasets import FINAL

        folder = self.model / f"fold_{fold}"
        # a training stopped during its validation repeats the validation
        validated = (folder / "validation" / "summary.json").is_file()
        if self.args.npz:
            files = list((folder / "validation").glob("*"))
            masks = [file for file in files if file.suffix not in (".npz", ".pkl", ".json")]
            saved = sum(file.suffix == ".npz" for file in files)
            validated = validated and saved >= max(1, len(masks))
        return (folder / FINAL).is_file() and (validated or not self._validates())

    def _validates(self) -> bool:
        """Whether trainings end with a validation, by the environment or the plans of the trained model."""
        from nnsam3d.training.options import PLANS_KEY, environment_overrides

        path, name = self.model / "plans.json", "final_validation"
        plans = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        own = plans.get("configurations", {}).get(self.args.configuration, {}).get(PLANS_KEY, {})
        return str(environment_overrides().get(name, own.get(name, 1))) not in ("0", "False")

    def show(self) -> None:
        """Print the commands without running them; those for SLURM use scripts, which are written."""
        numbers, whole = self._missing(Queue((), {}))
        if not (numbers or whole):
            print("# all folds are trained")
        if self.args.slurm is None:
            if numbers or whole or self.args.find_best:
                print("\n".join(exports()))
            for fold in [*map(str, numbers), *(["all"] if whole else [])]:
                print(self._training(fold))
            if self.args.find_best:
                print(f"{self.best.command}    # after all have succeeded")
            return
        if numbers:
            command = self.array.sbatch(numbers, self.args.slurm_max)
            self.array.write(command)
            print(f"jobs=$({shlex.join(command)})" if self.args.find_best else shlex.join(command))
        if whole:
            self.whole.write(self.whole.sbatch())
            print(shlex.join(self.whole.sbatch()))
        if self.args.find_best:
            command = self.best.sbatch(after="afterok:$jobs" if numbers else "")
            self.best.write(command)
            print(shlex.join(command).replace("'--dependency=afterok:$jobs'", '"--dependency=afterok:$jobs"'))

    def submit(self) -> None:
        """Submit the missing folds and print what was submitted."""
        folder = self.model / "slurm"
        queue = Queue.of(folder)
        numbers, whole = self._missing(queue)
        jobs = queue.active(("train", "train_all"))
        if not (numbers or whole):
            state = f"in the queue: {' '.join(jobs)}" if jobs else "all folds are trained"
            print(f"nnsam3d: nothing to submit: {state}")
        if numbers:
            jobs.append(submit(self.array, numbers, self.args.slurm_max))
            folds = " ".join(map(str, numbers))
            print(f"nnsam3d: submitted fold(s) {folds} as {jobs[-1]}; logs: {folder}/train_<fold>.log")
        if whole:
            jobs.append(submit(self.whole))
            print(f"nnsam3d: submitted fold all as {jobs[-1]}; log: {self.whole.log()}")
        if self.args.find_best and not queue.holds("find_best"):
            job = submit(self.best, after=f"afterok:{':'.join(jobs)}" if jobs else "")
            print(f"nnsam3d: submitted nnUNetv2_find_best_configuration as {job}; log: {self.best.log()}")


def _command(name: str) -> str:
    from nnsam3d.nnunet.run import nnunet_command

    return nnunet_command(name)
