"""`nnsam3d <command>`.

The help of all commands is held here, so that `nnsam3d --help` answers at once; a command's module in
`nnsam3d.commands`, with its `add_arguments(parser)` and `main(args) -> int`, is imported when the command is named.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from nnsam3d import __version__
from nnsam3d.errors import UserError


@dataclass(frozen=True)
class Command:
    """What the help of a command says; its code is :func:`module_of` its name."""

    summary: str
    description: str
    example: str


COMMANDS: dict[str, Command] = {
    "link": Command(
        summary="make nnU-Net's commands find the trainers of nnsam3d",
        description="""
            Puts stub files for the trainers and planners of nnsam3d into the installed nnU-Net, so that
            nnUNetv2_train -tr SAM3DAdapterTrainer works. Run it once after installing either package; running
            it again does no harm. Where nnU-Net's folder is read-only, set nnUNet_extTrainer instead.
            """,
        example="""
            nnsam3d link
            nnsam3d link --undo
            export nnUNet_extTrainer=$(nnsam3d link --print-path)    # read-only nnU-Net
            """,
    ),
    "doctor": Command(
        summary="check the installation and name the cure for what is wrong",
        description="""
            Checks the versions, whether torch and torchvision fit together, whether nnU-Net finds the
            trainers, nnU-Net's folders, the options and weights named in the environment, and the device.
            Every problem comes with its cure. The exit status is 1 if something will break, else 0. With -m it
            looks at a model folder instead: what it holds, and whether its checkpoints open without running code.
            """,
        example="""
            nnsam3d doctor
            nnsam3d doctor --quiet && nnUNetv2_train 513 3d_fullres 0 -tr SAM3DAdapterTrainer
            nnsam3d doctor -m path/to/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres    # a model from elsewhere
            """,
    ),
    "weights": Command(
        summary="list, download and verify SAM's pretrained weights",
        description="""
            Shows where Meta's SAM checkpoints are on this machine, downloads them (an interrupted download is
            resumed, the digest in the file's name is checked, proxies are taken from the environment), and
            verifies them. A training that needs one and finds none downloads it by itself. NNSAM3D_WEIGHTS
            names a local file or folder, nnsam3d_weights_url a mirror. `nnsam3d weights download --help` and
            its like show the options of an action.
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
        summary="look at, convert and simulate prompt files",
        description="""
            Prompt files of 3D Slicer (.mrk.json, .fcsv), autoPET, the CVPR 2025 challenge (.npz),
            grand-challenge, MONAI Label and napari (.csv), and our own. Which format a file is, is told by its
            content. Predictions read all of them as they are; a file that leaves a doubt (its space, the
            meaning of its labels) is converted first, with the doubt cleared. `nnsam3d prompts convert --help`
            and its like show the options of an action.

            Numbers: a bare number in another program's file is that program's numbering, not a label (napari's
            column "label" apart, where 1 or 1.0 is label 1). Say what it means: --label tumour for all words that
            are no label, --label 3=tumour for one. 0 is background in our own files only.
            Names: a label's name in dataset.json, or "background"; of Slicer also with its numbering (tumour-2).
            Spaces: Slicer writes mm and says which (LPS or RAS); autoPET and MONAI Label voxels i, j, k; CVPR and
            napari array indices z, y, x (napari also in units of the spacing: --scaled); grand-challenge does not
            say: --space.
            """,
        example="""
            nnsam3d prompts inspect liver_003.mrk.json --image imagesTs/liver_003_0000.nii.gz
            nnsam3d prompts convert F.mrk.json -o clicks --dataset dataset.json --label lesion \\
                --image imagesTs/liver_003_0000.nii.gz
            nnsam3d prompts convert points/*.json -o clicks --space voxel --image imagesTs
            nnsam3d prompts convert clicks/*.json -o slicer --to slicer --image imagesTs
            nnsam3d prompts simulate labelsTr -o clicks -n 3 --seed 1
            nnsam3d prompts simulate labelsTs -o round2 --strategy largest_error --predictions out --add-to clicks
            """,
    ),
    "plan-table": Command(
        summary="show the plan that each memory budget would get",
        description="""
            Prints what SAM3DAdapterPlanner would decide (backbone, patch, batch, checkpointing, estimated memory of
            a training step) for budgets of 8 to 80 GB: for typical public datasets, or for your own once
            nnUNetv2_extract_fingerprint has run. Nothing is written. Every plan is measured on shapes, which takes
            some seconds each. The plans themselves are made by nnUNetv2_plan_and_preprocess -pl SAM3DAdapterPlanner.
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
            Like nnUNetv2_predict, for people with clicks: only the surroundings of the clicks are computed (as
            far as the target reaches), clicked voxels keep their label, all prompt files are checked before
            anything is computed, and a case that fails costs nothing but itself (exit status 1, and the reasons
            at the end). <case>.json, or another prompt file, lies beside the images or in --prompts.
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
        summary="click in 3D Slicer, napari, MITK, ITK-SNAP, or in a page of its own",
        description="""
            Serves a trained model on this machine until it is stopped. Viewers take the address that it prints as the
            address of an nnInteractive server; a browser shows a page to click in. With --images the page works
            through a folder of cases, with --output what is saved there becomes an nnU-Net dataset.
            """,
        example="""
            nnsam3d serve -m path/to/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres
            nnsam3d serve -d 513 -c 3d_fullres -f 0 --images imagesTs --output Dataset600_Clicked
            nnsam3d serve -d 513 -c 3d_fullres --host 0.0.0.0    # other machines: with a key, not encrypted
            """,
    ),
    "benchmark": Command(
        summary="compare clicks with nnU-Net, with controls, and write a report",
        description="""
            Clicks on the cases that were held back from training, with every arm (a trained model, or a control
            made of it) by the same rule and seeds, and says how good each is after how many clicks, how sure that
            is, and what it costs. A run that was interrupted goes on. `nnsam3d benchmark run --help` shows the
            options.
            """,
        example="""
            nnsam3d benchmark run -d 513 -f 0 -o bench --train --train-minutes 25
            nnsam3d benchmark run -d 513 -f 0 1 2 3 4 -o bench    # models that are trained already
            nnsam3d benchmark report -o bench --to docs/benchmark
            nnsam3d benchmark run -d 513 -f 0 1 2 3 4 -o bench --train --slurm "partition=gpu gres=gpu:1 time=24:00:00"
            nnsam3d benchmark status -o bench
            """,
    ),
    "cluster": Command(
        summary="submit trainings to SLURM",
        description="""
            nnUNetv2_train stays what it is; this submits it for several folds, as an array of jobs that save when
            their time is up and go on when they run again. `nnsam3d predict --slurm` and `nnsam3d benchmark run
            --slurm` submit predictions and benchmarks. `nnsam3d cluster train --help` shows the options.
            """,
        example="""
            nnsam3d cluster train 513 3d_fullres -f 0 1 2 3 4 -tr SAM3DAdapterTrainer \\
                --slurm "partition=gpu gres=gpu:1 cpus-per-task=8 mem=48G time=24:00:00"
            nnsam3d cluster merge out/report.json out/slurm/part_*.json    # what predict --slurm does at its end
            """,
    ),
    "demo": Command(
        summary="see the main job run on phantoms, in minutes, on a CPU",
        description="""
            Makes a small phantom CT set, lets nnU-Net's own commands plan, train and predict with clicks on
            it, prints how well each set of clicks did, and writes pictures. Needs no data, no GPU and no
            weights.
            """,
        example="""
            nnsam3d demo
            """,
    ),
}


def build_top_parser() -> argparse.ArgumentParser:
    """The parser of `nnsam3d` itself; needs no command's module."""
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
            "  nnUNetv2_train 513 3d_fullres 0 -tr SAM3DAdapterTrainer  # then as ever\n\n"
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
    return parser


def _filled(text: str) -> str:
    """Paragraph by paragraph."""
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
            "cure: pip install --upgrade nnsam3d"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    plain, warnings.formatwarning = warnings.formatwarning, _formatted
    try:
        return _run(arguments)
    except UserError as error:
        print(f"nnsam3d: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("nnsam3d: stopped", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = plain


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What this library warns of is for the user; where in the code it was found is not."""
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
        top.error("name a command first: " + ", ".join(COMMANDS))
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        top.error(f"unknown command {name!r}{hint}; the commands are {', '.join(COMMANDS)}")
    args = build_command_parser(name).parse_args(arguments[1:])
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
