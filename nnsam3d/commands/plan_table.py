"""`nnsam3d plan-table`."""

from __future__ import annotations

import argparse

from nnsam3d.planning.facts import shipped_names
from nnsam3d.planning.table import BUDGETS_GB, plan_table

DESCRIPTION = """
Prints the decisions of SAM3DAdapterPlanner (backbone, patch, batch, checkpointing, estimated memory of
a training step) for budgets of 8 to 80 GB, for public datasets or for your own after
nnUNetv2_extract_fingerprint. Nothing is written. Each plan takes some seconds, because a training step
is simulated. To create plans, use nnUNetv2_plan_and_preprocess -pl SAM3DAdapterPlanner.
"""
EXAMPLE = """
nnsam3d plan-table
nnsam3d plan-table --fingerprint 512 --budget 8 24 --why
nnsam3d plan-table --fingerprint my_dataset.json
nnUNetv2_plan_and_preprocess -d 512 -pl SAM3DAdapterPlanner -gpu_memory_target 8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `nnsam3d plan-table`."""
    parser.add_argument(
        "--fingerprint",
        nargs="+",
        metavar="FILE|DATASET",
        help="nnU-Net datasets with an extracted fingerprint (id, name, or its dataset_fingerprint.json), datasets "
        f"included in nnsam3d ({', '.join(shipped_names())}; default: all of them), or files in "
        "the format of nnsam3d/planning/fingerprints",
    )
    parser.add_argument(
        "--budget",
        nargs="+",
        type=float,
        default=list(BUDGETS_GB),
        metavar="GB",
        help="memory budgets, as for -gpu_memory_target (default: 8 12 16 24 40 80)",
    )
    parser.add_argument("--why", action="store_true", help="also print the reasons for every plan")


def main(args: argparse.Namespace) -> int:
    """Print the table; 1 if every budget is too small."""
    table, fits = plan_table(args.fingerprint, args.budget, args.why)
    print(table)
    return 0 if fits else 1
