"""`nnsam3d doctor`: the installation, and a model folder."""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path

from nnsam3d.nnunet.doctor import examine
from nnsam3d.nnunet.doctor_model import check_model
from nnsam3d.nnunet.findings import render
from nnsam3d.tables import counted

DESCRIPTION = """
Checks versions, the compatibility of torch and torchvision, whether nnU-Net finds the trainers,
nnU-Net's folders, the options and weights set in the environment, and the device. Every problem is
reported with a fix. The exit status is 1 if there is a problem, otherwise 0. With -m, it examines a
model folder instead: its contents, and whether its checkpoints open without executing code.
"""
EXAMPLE = """
nnsam3d doctor
nnsam3d doctor --quiet && nnUNetv2_train 513 3d_fullres 0 -tr SAM3DAdapterTrainer
nnsam3d doctor -m path/to/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres    # an unknown model
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `nnsam3d doctor`."""
    parser.add_argument("--quiet", action="store_true", help="print problems only")
    parser.add_argument(
        "-m",
        dest="model",
        type=Path,
        metavar="MODEL",
        help="examine this model folder instead: its contents, and whether its checkpoints open without executing code",
    )


def main(args: argparse.Namespace) -> int:
    """Print the findings; 1 if there is a problem."""
    problems = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings of other packages are not findings
        for _, finding in examine(None if args.model is None else {"model": partial(check_model, args.model)}):
            problems += finding.level == "problem"
            if finding.level == "problem" or not args.quiet:
                print(render(finding), flush=True)
    if problems:
        print(f"\n{counted(problems, 'problem')} found.")
        return 1
    if not args.quiet:
        print("\nNo problems.")
    return 0
