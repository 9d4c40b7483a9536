"""`nnsam3d benchmark run|report|status|worker`."""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnsam3d import jobs
from nnsam3d.errors import UserError
from nnsam3d.evaluation.names import MAX_CLICKS, PROTOCOLS, START
from nnsam3d.evaluation.plan import Setting, open_setting, read_setting
from nnsam3d.evaluation.provenance import remember_command, remember_environment
from nnsam3d.jobs import BackEnd
from nnsam3d.nnunet.datasets import STOPPED, dataset_name
from nnsam3d.tables import columns, counted

BASELINE = "nnUNetBaselineTrainer"
ARMS = ("SAM3DAdapterTrainer", "nnUNetClickTrainer", BASELINE, f"{BASELINE}+oracle")
DESCRIPTION = """
Simulates clicks on validation cases for every arm (a trained model, or a control derived from it) with
the same rules and seeds, and reports the quality after each number of clicks, its uncertainty, and its
cost. An interrupted run is resumed. `nnsam3d benchmark run --help` shows the options.
"""
EXAMPLE = """
nnsam3d benchmark run -d 513 -f 0 -o bench --train --train-minutes 25
nnsam3d benchmark run -d 513 -f 0 1 2 3 4 -o bench    # existing models
nnsam3d benchmark report -o bench --to docs/benchmark
nnsam3d benchmark run -d 513 -f 0 1 2 3 4 -o bench --train --slurm "partition=gpu gres=gpu:1 time=24:00:00"
nnsam3d benchmark status -o bench
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `nnsam3d benchmark` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="run|report|status|worker")
    run = actions.add_parser(
        "run",
        help="run missing jobs and write the report",
        description="Runs every unfinished job (dataset x configuration x fold x arm x protocol), then writes the "
        "report. After an interruption, repeat the command to continue.",
        epilog=_teaching(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _output(run)
    _what(run)
    _training(run)
    run.add_argument(
        "--jobs", type=int, metavar="N", help="jobs at a time (default: one per device; more need more memory)"
    )
    run.add_argument(
        "-device",
        dest="devices",
        nargs="+",
        default=["auto"],
        metavar="DEVICE",
        help="cuda, cpu, mps or cuda:N; jobs are distributed over several (default: every GPU, or the CPU)",
    )
    jobs.add_arguments(run.add_argument_group("on a cluster"))
    report = actions.add_parser(
        "report",
        help="write the report of a finished run",
        description="Writes report.html (self-contained), report.json, report.csv, report.md and figures/.",
        allow_abbrev=False,
    )
    _output(report)
    status = actions.add_parser(
        "status",
        help="show the state of the jobs on a cluster",
        description="Shows a table of all jobs: done, running, waiting, failed (with reason and log), missing. The "
        "exit status is 1 if a job has failed.",
        allow_abbrev=False,
    )
    _output(status)
    status.add_argument("--watch", type=float, default=0.0, metavar="SECONDS", help="repeat at this interval")
    worker = actions.add_parser(
        "worker",
        help="run one job; used by the scripts on a cluster",
        description="Runs one job of a benchmark that `run` has set up. With N models, jobs 0 to N-1 train and jobs N "
        f"to 2N-1 evaluate. Exit status {STOPPED}: stopped by SIGUSR1 or SIGTERM and saved; start it again.",
        allow_abbrev=False,
    )
    _output(worker)
    worker.add_argument("--job", type=int, required=True, metavar="NUMBER", help="number of the job")
    worker.add_argument("-device", default="auto", help="cuda, cpu, mps or cuda:N (default: cuda if there is one)")
    for action in (run, report):
        action.add_argument("--reference", metavar="ARM", help="arm to compare the others with (default: the first)")
        action.add_argument("--to", type=Path, metavar="FOLDER", help="destination of the report (default: as -o)")


def _teaching() -> str:
    """The protocols and arms, for the end of `benchmark run --help`."""
    told = [(one.name, one.summary) for one in PROTOCOLS.values()]
    begin = (
        "A protocol says what an arm is told about a case, step by step. Prompts are drawn from the ground truth, "
        "the same first ones for every arm; further clicks are placed on each arm's own errors."
    )
    arms = [
        ("TRAINER", "a trained model"),
        ("TRAINER+oracle", "a model without prompts, reduced to the components of its result that prompts hit"),
        ("starter", "the model that comes with nnsam3d, with each label as an object of its own"),
        ("ellipsoid", "no model: the ellipsoid in the box, the ball around the line, the inflated lasso"),
        ("clipped:TRAINER", "a model's result without prompts, clipped to the box, the ball or the inflated lasso"),
    ]
    end = (
        "TRAINER+oracle, ellipsoid and clipped: are controls: what is gained only over a model without prompts, but "
        "not over them, is geometry and not skill. ellipsoid and clipped: know the first prompt only. An arm whose "
        "model was not trained with a kind of prompt is reported as not taking it; the run goes on."
    )
    return "\n\n".join(
        [textwrap.fill(begin, 100), _listed("protocols", told), _listed("arms", arms), textwrap.fill(end, 100)]
    )


def _listed(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows) + 4
    lines = [
        textwrap.fill(about, 100, initial_indent=f"{'  ' + name:<{width}}", subsequent_indent=" " * width)
        for name, about in rows
    ]
    return "\n".join([f"{title}:", *lines])


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="benchmark folder")


def _what(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("comparison")
    what.add_argument("-d", dest="datasets", nargs="+", required=True, metavar="D", help="dataset names or numbers")
    what.add_argument("-c", dest="configurations", nargs="+", default=["3d_fullres"], help="default: 3d_fullres")
    what.add_argument("-f", dest="folds", nargs="+", default=["0"], help="folds of the cross-validation (default: 0)")
    what.add_argument(
        "--arms",
        nargs="+",
        default=list(ARMS),
        metavar="ARM",
        help=f"TRAINER or TRAINER:PLANS, or one of those below (default: {' '.join(ARMS)})",
    )
    what.add_argument(
        "--protocols",
        nargs="+",
        default=["iterative", "center"],
        choices=list(PROTOCOLS),
        help="what the arms are told, see below (default: iterative center)",
    )
    what.add_argument(
        "--start",
        default="",
        metavar="ARM|FOLDER",
        help=f"masks for the protocol start: an arm of the run, whose result without prompts is corrected, or a folder "
        f"with CASE and the dataset's file ending (default: {BASELINE})",
    )
    what.add_argument(
        "--components",
        default="",
        choices=["prompted", "all"],
        help="components that answers to prompts keep, in all arms with prompts (default: as each model's plans say)",
    )
    what.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the clicks (default: 0 1 2)")
    what.add_argument("--clicks", type=int, default=MAX_CLICKS, help="maximum per case (default: %(default)s)")
    what.add_argument("--test-images", default="", metavar="FOLDER", help="test cases, instead of the validation cases")
    what.add_argument("--test-labels", default="", metavar="FOLDER", help="ground truth of the test cases")
    what.add_argument("--disable_tta", action="store_true", help="no test-time mirroring, for all arms")


def _training(parser: argparse.ArgumentParser) -> None:
    training = parser.add_argument_group("training")
    training.add_argument("--train", action="store_true", help="train missing models, one at a time")
    training.add_argument(
        "--train-minutes", type=float, default=0.0, metavar="M", help="wall-clock budget of each training"
    )
    training.add_argument(
        "--train-seeds",
        type=int,
        nargs="+",
        default=[],
        metavar="S",
        help="train every model once per seed; the report shows the variation between trainings",
    )
    training.add_argument("--options", default="", metavar="TEXT", help='nnsam3d_options, e.g. "preset=tiny"')


def main(args: argparse.Namespace) -> int:
    """`nnsam3d benchmark`."""
    output = args.output.expanduser().absolute()
    if args.action == "worker":
        from nnsam3d.evaluation.cluster import work
        from nnsam3d.evaluation.training import Stopped
        from nnsam3d.inference.device import choose_device

        try:
            work(output, args.job, choose_device(args.device))
        except Stopped as error:
            print(f"nnsam3d: {error}")
            return STOPPED
        return 0
    if args.action == "status":
        return _status(output, args.watch)
    if args.action == "run" and not _run(args, output):
        return 0
    # imported late: `--help` responds immediately
    from nnsam3d.evaluation.report import write_report
    from nnsam3d.evaluation.summary import collect, write_results

    setting = read_setting(output)
    results = collect(setting, output)
    write_results(setting, output, results)
    folder = (args.to or output).expanduser().absolute()
    write_report(setting, output, results, folder, args.reference or setting.arms[0])
    print(f"nnsam3d: {folder}/report.html (also .md, .json, .csv and figures/)")
    return 0


def _status(output: Path, seconds: float) -> int:
    from nnsam3d.evaluation.cluster import FOLDER, status_rows

    setting = read_setting(output)
    while True:
        rows = status_rows(setting, output, jobs.found(output / FOLDER))
        counts = Counter(state for _, state, _ in rows)
        print(columns([("job", "state", ""), *rows]))
        print("nnsam3d: " + ", ".join(f"{number} {state}" for state, number in counts.items()), flush=True)
        if not seconds or not {"running", "waiting"} & set(counts):
            return 1 if {"failed", "cancelled"} & set(counts) else 0
        time.sleep(seconds)


def _run(args: argparse.Namespace, output: Path) -> bool:
    """Run or submit the jobs; True if all results exist, so that the report can be written."""
    if (args.jobs is not None and args.jobs < 1) or args.clicks < 1:
        raise UserError("--jobs and --clicks must be at least 1")
    if bool(args.test_images) != bool(args.test_labels):
        raise UserError("--test-images and --test-labels must be used together")
    if args.train_minutes and not args.train:
        raise UserError("--train-minutes has no effect without training: add --train")
    # imported late: `--help` responds immediately
    from nnsam3d.evaluation.metrics import need_monai
    from nnsam3d.evaluation.runner import run
    from nnsam3d.evaluation.training import check, note_kept, train_missing
    from nnsam3d.inference.device import choose_devices

    need_monai()
    back_end = jobs.chosen(args, output / "slurm")
    setting = Setting(
        datasets=tuple(dataset_name(name) for name in args.datasets),
        configurations=tuple(args.configurations),
        folds=tuple(args.folds),
        arms=tuple(args.arms),
        protocols=tuple(args.protocols),
        seeds=tuple(args.seeds),
        max_clicks=args.clicks,
        mirroring=not args.disable_tta,
        test_images=args.test_images and str(Path(args.test_images).absolute()),
        test_labels=args.test_labels and str(Path(args.test_labels).absolute()),
        train_minutes=args.train_minutes,
        options=args.options,
        train_seeds=tuple(args.train_seeds),
        start=_start(args),
        components=args.components,
    )
    check(setting, args.train)  # before the setting is stored in the folder
    setting = open_setting(output, setting)
    parts = ("dataset", "configuration", "fold", "arm", "protocol")
    counts = " x ".join(counted(len(getattr(setting, f"{part}s")), part) for part in parts)
    print(f"nnsam3d: {counted(len(setting.jobs()), 'job')}: {counts}; results in {output}")
    remember_command(output, sys.argv[1:])
    if args.train:
        note_kept(setting)
    if back_end is not None:
        _submit(args, setting, output, back_end)
        return False
    devices = choose_devices(args.devices, args.jobs)  # not where jobs are submitted: that machine may have no GPU
    remember_environment(output, devices)
    if args.train:
        train_missing(setting, output, devices[0])
    run(setting, output, devices)
    return True


def _start(args: argparse.Namespace) -> str:
    """The arm, or the absolute path of the folder, whose masks are corrected; "" if no protocol starts from masks."""
    if START not in args.protocols:
        if args.start:
            raise UserError(f"--start has no effect without --protocols {START}")
        return ""
    if args.start and args.start not in args.arms:
        folder = Path(args.start).expanduser().absolute()
        if not folder.is_dir():
            raise UserError(f"--start {args.start}: is neither an arm of this run nor a folder")
        return str(folder)
    return str(args.start or (BASELINE if BASELINE in args.arms else ""))


def _submit(args: argparse.Namespace, setting: Setting, output: Path, back_end: BackEnd) -> None:
    """Submit the missing jobs, or print their commands."""
    from nnsam3d.evaluation.cluster import prepare, submit

    starts = [replace(job, arm=setting.start_arm) for job in setting.jobs() if setting.start_arm]
    if args.train and any(not job.checkpoint.is_file() for job in starts):
        raise UserError(
            f"--start {setting.start_arm}: on a cluster, evaluations wait for their own model only. Train this arm "
            "first, in a run without the protocol start"
        )
    prepare(setting, output)
    report = ["--reference", args.reference] if args.reference else []
    report += ["--to", str(args.to.expanduser().absolute())] if args.to else []
    submitted = submit(setting, output, back_end, args.devices[0], args.train, report)
    nothing = f"{'# ' if args.print else ''}nnsam3d: nothing to submit: all unfinished jobs are in the queue"
    print("\n".join(back_end.messages if submitted else [nothing]))
    if not args.print:
        print(f"nnsam3d: to see the state of the jobs: nnsam3d benchmark status -o {output}")
