"""`nnsam3d <command>`.

The help texts of all commands are kept here, so that `nnsam3d --help` responds immediately. The module of a command in
`nnsam3d.commands`, with `add_arguments(parser)` and `main(args) -> int`, is imported only when the command is used.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from nnsam3d import __version__
from nnsam3d.errors import UserError
from nnsam3d.files import CURES


@dataclass(frozen=True)
class Command:
    """The help of a command; :func:`module_of` gives its module."""

    summary: str
    description: str
    example: str


COMMANDS: dict[str, Command] = {
    "link": Command(
        summary="register the trainers of nnsam3d with nnU-Net",
        description="""
            Writes stub files for nnsam3d's trainers and planners into the installed nnU-Net, so that
            nnUNetv2_train -tr SAM3DAdapterTrainer works. Run it once after installing or updating either package;
            running it again is harmless. If nnU-Net's folder is read-only, set nnUNet_extTrainer instead.
            """,
        example="""
            nnsam3d link
            nnsam3d link --undo
            export nnUNet_extTrainer=$(nnsam3d link --print-path)    # read-only nnU-Net
            """,
    ),
    "doctor": Command(
        summary="check the installation and suggest fixes",
        description="""
            Checks versions, the compatibility of torch and torchvision, whether nnU-Net finds the trainers,
            nnU-Net's folders, the options and weights set in the environment, and the device. Every problem is
            reported with a fix. The exit status is 1 if there is a problem, otherwise 0. With -m, it examines a
            model folder instead: its contents, and whether its checkpoints open without executing code.
            """,
        example="""
            nnsam3d doctor
            nnsam3d doctor --quiet && nnUNetv2_train 513 3d_fullres 0 -tr SAM3DAdapterTrainer
            nnsam3d doctor -m path/to/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres    # an unknown model
            """,
    ),
    "weights": Command(
        summary="list, download and verify SAM's pretrained weights",
        description="""
            Lists Meta's SAM checkpoints and where they are on this machine, downloads them (interrupted downloads
            are resumed, the digest in the file name is verified, proxies are taken from the environment), and
            verifies existing ones. A training that needs a missing checkpoint downloads it automatically.
            NNSAM3D_WEIGHTS sets a local file or folder, nnsam3d_weights_url a mirror. The options of an action are
            shown by, for example, `nnsam3d weights download --help`.
            """,
        example="""
            nnsam3d weights list
            nnsam3d weights download vit_b
            nnsam3d weights download vit_b --to /shared/sam && export NNSAM3D_WEIGHTS=/shared/sam
            nnsam3d weights verify
            export NNSAM3D_WEIGHTS=$(nnsam3d weights path vit_b)
            """,
    ),
    "prompts": Command(
        summary="inspect, convert and simulate prompt files",
        description="""
            Supports files of 3D Slicer (.mrk.json, .fcsv), autoPET, the CVPR 2025 challenge (.npz),
            grand-challenge, MONAI Label and napari (.csv), and nnsam3d's own format. The format is recognised by the
            content of the file. Predictions read all formats directly. Convert a file first if it is ambiguous (its
            coordinate space, or the meaning of its labels). The options of an action are shown by, for example,
            `nnsam3d prompts convert --help`.

            Numbers: a bare number in another program's file is that program's numbering, not a label (except in
            napari's column "label", where 1 or 1.0 is label 1). State its meaning: --label tumour for all words
            that are not labels, --label 3=tumour for one of them. 0 means background in nnsam3d files only.
            Names: a label's name in dataset.json, or "background"; in Slicer also with numbering (tumour-2).
            Spaces: Slicer writes mm and states LPS or RAS; autoPET and MONAI Label use voxels i, j, k; CVPR and
            napari use array indices z, y, x (napari also units of the spacing: --scaled); grand-challenge does not
            state its space: use --space.
            """,
        example="""
            nnsam3d prompts inspect liver_003.mrk.json --image imagesTs/liver_003_0000.nii.gz --dataset dataset.json
            nnsam3d prompts convert F.mrk.json -o clicks --dataset dataset.json --label lesion \\
                --image imagesTs/liver_003_0000.nii.gz
            nnsam3d prompts convert points/*.json -o clicks --space voxel --image imagesTs
            nnsam3d prompts convert clicks/*.json -o slicer --to slicer --image imagesTs
            nnsam3d prompts simulate labelsTr -o clicks -n 3 --seed 1
            nnsam3d prompts simulate labelsTs -o round2 --strategy largest_error --predictions out --add-to clicks
            """,
    ),
    "plan-table": Command(
        summary="show the plans for different memory budgets",
        description="""
            Prints the decisions of SAM3DAdapterPlanner (backbone, patch, batch, checkpointing, estimated memory of
            a training step) for budgets of 8 to 80 GB, for public datasets or for your own after
            nnUNetv2_extract_fingerprint. Nothing is written. Each plan takes some seconds, because a training step
            is simulated. To create plans, use nnUNetv2_plan_and_preprocess -pl SAM3DAdapterPlanner.
            """,
        example="""
            nnsam3d plan-table
            nnsam3d plan-table --fingerprint 512 --budget 8 24 --why
            nnsam3d plan-table --fingerprint my_dataset.json
            nnUNetv2_plan_and_preprocess -d 512 -pl SAM3DAdapterPlanner -gpu_memory_target 8
            """,
    ),
    "predict": Command(
        summary="segment a folder of images with their prompt files",
        description="""
            Like nnUNetv2_predict, but made for clicks: only the surroundings of the clicks are computed (as far as
            the target extends), clicked voxels keep their label, and all prompt files are checked before anything
            is computed. If a case fails, the others are still computed; the reasons are listed at the end and the
            exit status is 1. Prompt files (<case>.json and others) are read from the folder of the images or from
            --prompts.
            """,
        example="""
            nnsam3d predict -i imagesTs -o out -d 513 -c 3d_fullres
            nnsam3d predict -i imagesTs -o out -m path/to/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres -f 0 1
            nnsam3d predict -i imagesTs -o out -d 513 -c 3d_fullres --prompts clicks --report out/report.json
            nnsam3d predict -i imagesTs -o out -d 513 -c 3d_fullres --continue_prediction    # after an interruption
            nnsam3d predict -i imagesTs -o out -d 513 -c 3d_fullres -num_parts 20 --slurm "partition=gpu gres=gpu:1"
            """,
    ),
    "serve": Command(
        summary="segment in 3D Slicer, napari, MITK, ITK-SNAP, or in a browser",
        description="""
            Serves a trained model until it is stopped, and prints its address. In a viewer, enter it as the address
            of an nnInteractive server; in a browser, it opens a page for interactive segmentation. With --images, the
            page lists the cases of a folder; with --output, it saves them as an nnU-Net dataset.
            """,
        example="""
            nnsam3d serve -m path/to/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres
            nnsam3d serve -d 513 -c 3d_fullres -f 0 --images imagesTs --output Dataset600_Clicked
            nnsam3d serve -d 513 -c 3d_fullres --host 0.0.0.0    # network access: key required, not encrypted
            """,
    ),
    "benchmark": Command(
        summary="compare models with clicks to nnU-Net and to controls, and write a report",
        description="""
            Simulates clicks on validation cases for every arm (a trained model, or a control derived from it) with
            the same rules and seeds, and reports the quality after each number of clicks, its uncertainty, and its
            cost. An interrupted run is resumed. `nnsam3d benchmark run --help` shows the options.
            """,
        example="""
            nnsam3d benchmark run -d 513 -f 0 -o bench --train --train-minutes 25
            nnsam3d benchmark run -d 513 -f 0 1 2 3 4 -o bench    # existing models
            nnsam3d benchmark report -o bench --to docs/benchmark
            nnsam3d benchmark run -d 513 -f 0 1 2 3 4 -o bench --train --slurm "partition=gpu gres=gpu:1 time=24:00:00"
            nnsam3d benchmark status -o bench
            """,
    ),
    "cluster": Command(
        summary="submit trainings to SLURM",
        description="""
            Submits nnUNetv2_train for several folds, as an array of jobs that save a checkpoint at their time limit
            and continue when they run again. `nnsam3d predict --slurm` and `nnsam3d benchmark run --slurm` submit
            predictions and benchmarks. `nnsam3d cluster train --help` shows the options.
            """,
        example="""
            nnsam3d cluster train 513 3d_fullres -f 0 1 2 3 4 -tr SAM3DAdapterTrainer \\
                --slurm "partition=gpu gres=gpu:1 cpus-per-task=8 mem=48G time=24:00:00"
            nnsam3d cluster train 513 3d_fullres --print    # the commands, for other clusters
            nnsam3d cluster merge out/report.json out/slurm/part_*.json    # done automatically by predict --slurm
            """,
    ),
    "synthesize": Command(
        summary="make a dataset of synthetic volumes for class-agnostic training",
        description="""
            Writes an nnU-Net dataset of random volumes: warped shapes with cores, rims and nodules, some of equal look
            or low contrast, as CT, MR or PET might show them. Every object has a label of its own; what lies inside
            object n has the label 30 + n (dataset.json says so under "nnsam3d"). The same seed makes the same cases.
            An interrupted run is resumed, and a larger -n adds cases. For training, see targets=any.
            """,
        example="""
            nnsam3d synthesize --preview shapes.png    # what they look like
            nnsam3d synthesize -o $nnUNet_raw/Dataset900_Shapes -n 2000 --seed 0
            nnsam3d synthesize -o $nnUNet_raw/Dataset901_Thick -n 500 --spacing 5 1 1 --size 24 80 80
            """,
    ),
    "demo": Command(
        summary="run everything on phantoms, in minutes, on a CPU",
        description="""
            Generates a small set of phantom CTs, plans, trains and predicts with clicks through nnU-Net's own
            commands, prints the quality for each set of clicks, and writes pictures. Requires no data, GPU or
            pretrained weights.
            """,
        example="""
            nnsam3d demo
            """,
    ),
}


def build_top_parser() -> argparse.ArgumentParser:
    """The parser of `nnsam3d` itself; imports no command."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="nnsam3d",
        usage="nnsam3d [--help] [--version] <command> [options]",
        description="Click-promptable 3D segmentation through nnU-Net's own commands.",
        epilog=(
            f"commands:\n{commands}\n\n"
            "first steps:\n"
            "  nnsam3d link                                             # once\n"
            "  nnUNetv2_train 513 3d_fullres 0 -tr SAM3DAdapterTrainer  # then as usual\n\n"
            "`nnsam3d <command> --help` shows a command's options and an example."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nnsam3d {__version__}")
    parser.add_argument("command", nargs="?", metavar="<command>", help=argparse.SUPPRESS)
    return parser


def build_command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command; imports the command's module for its options."""
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=f"nnsam3d {name}",
        description=_filled(command.description),
        epilog="example:\n" + textwrap.indent(textwrap.dedent(command.example).strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module = _import_module(name)
    module.add_arguments(parser)
    parser.set_defaults(run=module.main)
    _add_examples_to_actions(parser, name, command.example)
    return parser


def _add_examples_to_actions(parser: argparse.ArgumentParser, name: str, example: str) -> None:
    """Adds the examples of `nnsam3d <command> <action>` to the help of each action."""
    commands = re.split(r"(?<!\\)\n", textwrap.dedent(example).strip())  # a backslash continues a line
    for group in (one for one in parser._actions if isinstance(one, argparse._SubParsersAction)):
        for action, its_parser in group.choices.items():
            own = [command for command in commands if f"nnsam3d {name} {action}" in command]
            if own:
                shown = "example:\n" + textwrap.indent("\n".join(own), "  ")
                its_parser.epilog = "\n\n".join(filter(None, (its_parser.epilog, shown)))
                its_parser.formatter_class = argparse.RawDescriptionHelpFormatter
                its_parser.description = _filled(its_parser.description or "")


def _filled(text: str) -> str:
    """Each paragraph filled to the line width."""
    return "\n\n".join(textwrap.fill(" ".join(part.split()), 100) for part in text.strip().split("\n\n"))


def module_of(name: str) -> str:
    """The module of a command: `plan-table` is nnsam3d.commands.plan_table."""
    return f"nnsam3d.commands.{name.replace('-', '_')}"


def _import_module(name: str) -> ModuleType:
    module = module_of(name)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == module or module.startswith(f"{missing}."):
            raise UserError(f"`nnsam3d {name}` is not part of this installation ({missing} is missing)") from error
        raise UserError(
            f"`nnsam3d {name}` needs the Python package {missing!r}, which is not installed; "
            "fix: pip install --upgrade nnsam3d"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    plain, warnings.formatwarning = warnings.formatwarning, _formatted
    for stream in (sys.stdout, sys.stderr):  # names of files may contain bytes that are not UTF-8
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except UserError as error:
        print(f"nnsam3d: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in CURES or error.filename is None:
            raise
        print(f"nnsam3d: error: {error.filename}: {error.strerror}: {CURES[error.errno]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("nnsam3d: stopped", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = plain


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Warnings of this library are for users: without the place in the code."""
    if category.__module__.startswith("nnsam3d."):
        return f"nnsam3d: warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _run(arguments: list[str]) -> int:
    top = build_top_parser()
    if not arguments:
        top.print_help()
        return 2
    name = arguments[0]
    if name.startswith("-"):
        top.parse_args(arguments)  # --help and --version end here
        top.error("specify a command first: " + ", ".join(COMMANDS))
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        top.error(f"unknown command {name!r}{hint}; the commands are {', '.join(COMMANDS)}")
    args = build_command_parser(name).parse_args(arguments[1:])
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
