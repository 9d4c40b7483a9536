"""`nnsam3d doctor`: the installation, and a model folder."""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path

from nnsam3d.nnunet.doctor import examine
from nnsam3d.nnunet.doctor_model import check_model
from nnsam3d.nnunet.findings import render


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
        print(f"\n{problems} problem{'s' * (problems > 1)} found.")
        return 1
    if not args.quiet:
        print("\nNo problems.")
    return 0
