"""`nnsam3d predict`: nnU-Net's flags, windows around the clicks; a failing case does not stop the others."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnsam3d import jobs
from nnsam3d.commands.model_choice import add_labels_argument, add_model_arguments, chosen_model
from nnsam3d.errors import UserError, printable
from nnsam3d.files import WriteError
from nnsam3d.geometry.stored import check_dicom, check_name, is_dicom
from nnsam3d.jobs import NUMBER, BackEnd, ShellJob
from nnsam3d.tables import counted

if TYPE_CHECKING:
    from nnsam3d.inference.cases import Case
    from nnsam3d.inference.folder import Outcome

DESCRIPTION = """
Like nnUNetv2_predict, but made for clicks: only the surroundings of the clicks are computed (as far as
the target extends), clicked voxels keep their label, and all prompt files are checked before anything
is computed. If a case fails, the others are still computed; the reasons are listed at the end and the
exit status is 1. Prompt files (<case>.json and others) are read from the folder of the images or from
--prompts.
"""
NEED_LABELS = "-num_parts with a class-agnostic model: specify --labels, so that all parts number them alike"
EXAMPLE = """
nnsam3d predict -i imagesTs -o out                                 # the starter, for any object
nnsam3d predict -i imagesTs -o out -d 513 -c 3d_fullres
nnsam3d predict -i imagesTs -o out -m path/to/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres -f 0 1
nnsam3d predict -i imagesTs -o out -d 513 -c 3d_fullres --prompts clicks --report out/report.json
nnsam3d predict -i imagesTs -o out -d 513 -c 3d_fullres --continue_prediction    # after an interruption
nnsam3d predict -i imagesTs -o out -d 513 -c 3d_fullres -num_parts 20 --slurm "partition=gpu gres=gpu:1"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files")
    files.add_argument("-i", dest="images", type=Path, required=True, metavar="FOLDER", help="images, <case>_0000...")
    files.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="output folder")
    files.add_argument("--prompts", type=Path, metavar="FOLDER", help="prompt files, if they are not beside the images")
    files.add_argument(
        "--start",
        type=Path,
        metavar="FOLDER",
        help="masks to start from, one for every case, named as nnU-Net's results: prompts correct them where they are",
    )
    files.add_argument("--report", type=Path, metavar="FILE", help="write a JSON report of the run")

    add_model_arguments(parser)

    how = parser.add_argument_group("options")
    how.add_argument(
        "--scope",
        choices=("clicked", "everything"),
        default="clicked",
        help="clicked: windows around the positive clicks, extended as far as the target; cases without a positive "
        "click are segmented as a whole. everything: nnU-Net's sliding window (default: clicked)",
    )
    how.add_argument(
        "--components",
        choices=("prompted", "all"),
        help="prompted: of a label with a positive prompt, only the components that have one; all: whatever is found "
        "around the prompts (default: as the model's training data suggest)",
    )
    how.add_argument("--no_binding", action="store_true", help="do not enforce the clicks in the result")
    how.add_argument("-step_size", type=float, default=0.5, help="step of the sliding window (default: 0.5)")
    add_labels_argument(how, "those in the prompt files, sorted")
    how.add_argument("--disable_tta", action="store_true", help="no test-time mirroring: faster, less accurate")
    how.add_argument("--save_probabilities", action="store_true", help="for nnUNetv2_ensemble: <case>.npz and .pkl")
    how.add_argument("--continue_prediction", action="store_true", help="skip cases with existing output")
    how.add_argument("-num_parts", type=int, default=1, help="number of commands that share the cases (default: 1)")
    how.add_argument("-part_id", type=int, default=0, help="number of this command, from 0 (default: 0)")
    how.add_argument("-device", default="auto", help="cuda, cpu, mps or cuda:N (default: cuda if there is one)")
    jobs.add_arguments(
        parser.add_argument_group("on a cluster: -num_parts jobs, and one that merges their reports afterwards")
    )


def main(args: argparse.Namespace) -> int:
    """Predict the folder; 1 if a case failed."""
    _check(args)
    folder = chosen_model(args)
    output = args.output.expanduser().absolute()
    back_end = jobs.chosen(args, output / "slurm")
    if back_end is not None:
        _submit(args, folder, output, back_end)
        return 0
    # imported late: `nnsam3d predict --help` responds immediately
    from nnsam3d.inference.cases import find_cases, listed_cases
    from nnsam3d.inference.device import choose_device
    from nnsam3d.inference.folder import FolderOptions, predict_folder
    from nnsam3d.inference.header_check import header_remarks
    from nnsam3d.inference.model import Model
    from nnsam3d.inference.report import write_prediction_report
    from nnsam3d.nnunet.cases import strays

    device = choose_device(args.device)
    model = Model(
        folder,
        args.folds,
        args.checkpoint,
        device,
        args.step_size,
        not args.disable_tta,
        args.trust_checkpoint,
        objects=args.labels,
    )
    model.take_ending_of(args.images)
    if model.open_labels and args.num_parts > 1:
        raise UserError(NEED_LABELS)
    print(f"nnsam3d: {folder.name}, fold {', '.join(model.folds)}, on {device}")
    listed = listed_cases(args.images, model)
    own = listed[args.part_id :: args.num_parts]
    cases = find_cases(args.images, model, args.prompts, own, args.start)
    names, looked_at = ({case.name for case in some} for some in (listed, own))
    for text in strays(args.images, names, args.prompts, looked_at, others=args.part_id == 0):
        print(f"nnsam3d: warning: {printable(text)}")
    only_prompted = "empty: this model segments only what is prompted"
    _print_cases(cases, only_prompted if model.class_agnostic else "segmented automatically")
    for text in header_remarks(cases, model, args.scope):
        print(f"nnsam3d: warning: {text}")
    if args.prompts is not None and not any(case.prompt_file or case.problem for case in cases):
        print(f"nnsam3d: warning: {args.prompts} contains no prompt file for these cases (<case>.json, ...)")
    for needed in [*([args.report.parent] if args.report else []), args.output]:
        _make_folder(needed)
    options = FolderOptions(
        args.scope, not args.no_binding, args.save_probabilities, args.continue_prediction, args.components
    )
    start = time.perf_counter()
    outcomes, unwritten = predict_folder(model, cases, args.output, options)
    if args.report is not None:
        arguments = {key: value for key, value in vars(args).items() if key != "run"}
        try:
            write_prediction_report(args.report, arguments, model, outcomes, time.perf_counter() - start)
        except WriteError as error:  # the summary is printed all the same
            print(f"nnsam3d: error: {error}", file=sys.stderr)
            unwritten.append(str(error))
    _print_outcomes(outcomes, args.output, unwritten)
    return 1 if unwritten or any(outcome.status == "failed" for outcome in outcomes) else 0


def _print_cases(cases: Sequence[Case], without: str) -> None:
    """A summary and all errors, before anything is computed; ``without`` says what happens without prompts."""
    with_prompts = sum(case.prompts is not None for case in cases)
    bad = [case for case in cases if case.problem]
    automatic = len(cases) - with_prompts - len(bad)
    invalid = f", {len(bad)} invalid" if bad else ""
    print(
        f"nnsam3d: {counted(len(cases), 'case')}: {with_prompts} with prompts, {automatic} without ({without}){invalid}"
    )
    for case in bad:
        print(f"nnsam3d: error: {case.problem}", file=sys.stderr)
    if bad:
        print(f"nnsam3d: {counted(len(bad), 'case')} will be skipped; the others continue", file=sys.stderr)


def _print_outcomes(outcomes: Sequence[Outcome], output: Path, unwritten: Sequence[str]) -> None:
    """The final summary; ``unwritten`` are errors about other files than masks, which were printed."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    skipped = len(outcomes) - len(failed) - len(done)
    windows, stock = (sum(getattr(o, name) for o in done) for name in ("windows", "stock_windows"))
    where = f"results in {output}" if done or skipped else "nothing was written"
    where += f"; {counted(len(unwritten), 'other file')} could not be written: see above" if unwritten else ""
    print(
        f"nnsam3d: {len(done)} predicted, {skipped} skipped, {len(failed)} failed; {counted(windows, 'window')} "
        f"computed (the sliding window: {stock}); {where}"
    )
    doubtful = [printable(outcome.case) for outcome in done if outcome.warnings]
    if doubtful:
        print(f"nnsam3d: warning: check {', '.join(doubtful)}: see the warnings above", file=sys.stderr)
    for outcome in failed:
        print(f"nnsam3d: failed: {outcome.error}", file=sys.stderr)


def _submit(args: argparse.Namespace, model: Path, output: Path, back_end: BackEnd) -> None:
    """Submit an array of parts, which continue after interruptions, and a job that merges their reports.

    Raises:
        UserError: what would end every part on its node, or the parts are in the queue already.
    """
    # imported late, as in run
    from nnsam3d.inference.report import outdate_reports
    from nnsam3d.nnunet.datasets import find_folds
    from nnsam3d.prompts.targets import is_class_agnostic

    find_folds(model, args.folds, args.checkpoint)
    plans = json.loads((model / "plans.json").read_text(encoding="utf-8"))
    if any(map(is_class_agnostic, plans["configurations"].values())) and args.num_parts > 1 and not args.labels:
        raise UserError(NEED_LABELS)
    folder = output / "slurm"
    _make_folder(folder)
    active = back_end.active("predict", "merge")
    if active:
        raise UserError(f"{output} is already being predicted by the jobs {', '.join(active)}: wait, or scancel them")
    report = (args.report or output / "report.json").expanduser().absolute()
    here = [sys.executable, "-m", "nnsam3d"]
    part = f"-part_id {NUMBER} --report {shlex.quote(str(folder))}/part_{NUMBER}.json"
    predict = f"{shlex.join([*here, *_arguments(args, model, output)])} {part}"
    parts = [folder / f"part_{number}.json" for number in range(args.num_parts)]
    if not args.print:
        outdate_reports(parts)
    merge = shlex.join([*here, "cluster", "merge", str(report), *map(str, parts)])
    numbers = dict.fromkeys(range(args.num_parts), "")
    array = back_end.submit(ShellJob("predict", predict, f"{args.num_parts} part(s)", numbers))
    back_end.submit(ShellJob("merge", merge, f"the report {report}", after=[array]))
    print(*back_end.messages, sep="\n")


def _arguments(args: argparse.Namespace, model: Path, output: Path) -> list[str]:
    """The arguments of a part except its number, with absolute paths."""
    given = ["predict", "-i", str(args.images.absolute()), "-o", str(output), "-m", str(model.absolute())]
    given += ["-f", *args.folds] if args.folds else []
    given += ["-chk", args.checkpoint, "--scope", args.scope]
    given += ["-step_size", f"{args.step_size:g}", "-device", args.device]
    given += ["--prompts", str(args.prompts.absolute())] if args.prompts is not None else []
    given += ["--start", str(args.start.absolute())] if args.start is not None else []
    given += ["--components", args.components] if args.components is not None else []
    given += ["--labels", *args.labels] if args.labels else []
    flags = ("trust_checkpoint", "no_binding", "disable_tta", "save_probabilities")
    given += [f"--{flag}" for flag in flags if getattr(args, flag)]
    return [*given, "--continue_prediction", "-num_parts", str(args.num_parts)]


def _check(args: argparse.Namespace) -> None:
    if args.num_parts < 1:
        raise UserError(f"-num_parts {args.num_parts}: must be at least 1, the number of commands that share the cases")
    if not 0 <= args.part_id < args.num_parts:
        raise UserError(f"-part_id {args.part_id} with -num_parts {args.num_parts}: parts are numbered from 0")
    if not 0 < args.step_size <= 1:
        raise UserError(f"-step_size {args.step_size}: must be larger than 0 and at most 1 (a fraction of the window)")
    if args.prompts is not None and not args.prompts.is_dir():
        raise UserError(f"--prompts {args.prompts}: {_no_folder(args.prompts)}")
    if args.start is not None and not args.start.is_dir():
        raise UserError(f"--start {args.start}: {_no_folder(args.start)}")
    for name, path in (("-i", args.images), ("-o", args.output)):
        if path.is_file() and is_dicom(path):
            check_dicom(path)
        try:
            check_name(path)
        except UserError as error:
            raise UserError(f"{name} {error}") from error
    if not args.images.is_dir():
        raise UserError(f"-i {args.images}: {_no_folder(args.images)}")
    if args.output.resolve() == args.images.resolve():
        raise UserError(f"-o {args.output} is the folder of the images; choose another one")
    if args.report is not None and args.report.is_dir():
        raise UserError(f"--report {args.report} is a folder; specify a file")


def _no_folder(path: Path) -> str:
    return "is a file; specify its folder" if path.is_file() else "no such folder"


def _make_folder(folder: Path) -> None:
    """Before hours of computation, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # tested by writing: permissions do not show read-only file systems
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
