"""`nnsam3d doctor`."""

from __future__ import annotations

import argparse
import warnings

from nnsam3d.nnunet.doctor import examine
from nnsam3d.nnunet.findings import render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `nnsam3d doctor`."""
    parser.add_argument("--quiet", action="store_true", help="print problems only")


def main(args: argparse.Namespace) -> int:
    """Print the findings; 1 if there is a problem among them."""
    problems = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other packages' deprecations are no findings
        for _, finding in examine():
            problems += finding.level == "problem"
            if finding.level == "problem" or not args.quiet:
                print(render(finding), flush=True)
    if problems:
        print(f"\n{problems} problem{'s' * (problems > 1)}: something will break.")
        return 1
    if not args.quiet:
        print("\nNo problems.")
    return 0
