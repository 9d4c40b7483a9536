"""`nnsam3d demo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnsam3d.demo import EPOCHS

DESCRIPTION = """
Generates a small set of phantom CTs, plans, trains and predicts with clicks through nnU-Net's own
commands, prints the quality for each set of clicks, and writes pictures. Requires no data, GPU or
pretrained weights.
"""
EXAMPLE = """
nnsam3d demo
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `nnsam3d demo`."""
    parser.add_argument("--output", type=Path, default=Path("demo"), help="working folder (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo in that folder")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="training epochs (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Run the demo; 1 unless clicks had the expected effect."""
    # imported late: `--help` responds immediately
    from nnsam3d.demo.run import run_demo

    return run_demo(args.output, args.overwrite, args.epochs)
