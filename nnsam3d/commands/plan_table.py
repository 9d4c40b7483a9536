"""`nnsam3d plan-table`."""

from __future__ import annotations

import argparse

from nnsam3d.planning.facts import shipped_names
from nnsam3d.planning.table import BUDGETS_GB, print_plans


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
    return print_plans(args.fingerprint, args.budget, args.why)
