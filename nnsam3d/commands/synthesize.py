"""`nnsam3d synthesize`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnsam3d.errors import UserError

DESCRIPTION = """
Writes an nnU-Net dataset of random volumes: warped shapes with cores, rims and nodules, some of equal look
or low contrast, as CT, MR or PET might show them. Every object has a label of its own; what lies inside
object n has the label 30 + n (dataset.json says so under "nnsam3d"). The same seed makes the same cases.
An interrupted run is resumed, and a larger -n adds cases. For training, see targets=any.
"""
EXAMPLE = """
nnsam3d synthesize --preview shapes.png    # what they look like
nnsam3d synthesize -o $nnUNet_raw/Dataset900_Shapes -n 2000 --seed 0
nnsam3d synthesize -o $nnUNet_raw/Dataset901_Thick -n 500 --spacing 5 1 1 --size 24 80 80
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `nnsam3d synthesize`."""
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="the dataset, e.g. Dataset900_Shapes")
    parser.add_argument("-n", type=int, default=200, metavar="N", help="number of cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="case number i depends only on it (default: %(default)s)")
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        default=[64, 56, 56],
        metavar=("Z", "Y", "X"),
        help="mean number of voxels; each case is up to a quarter larger or smaller (default: 64 56 56)",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="in mm, of all cases; objects scale with the finest edge (default: any, about 1 mm in plane)",
    )
    parser.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--preview", type=Path, metavar="FILE.png", help="picture sheet; without -o, nothing else")


def main(args: argparse.Namespace) -> int:
    """Write the dataset, the picture sheet, or both."""
    if args.output is None and args.preview is None:
        raise UserError("specify a dataset (-o Dataset900_Shapes), a picture sheet (--preview FILE.png), or both")
    # imported late: `--help` responds immediately
    from nnsam3d.synthetic.dataset import Recipe, synthesize, write_preview

    spacing = None if args.spacing is None else tuple(args.spacing)
    recipe = Recipe(args.seed, tuple(args.size), spacing)
    if args.preview is not None:
        write_preview(args.preview, recipe)
        print(f"{args.preview}: the first cases")
    if args.output is not None:
        written = synthesize(args.output, args.n, recipe, args.jobs)
        print(f"{args.output}: {args.n} cases, {written} of them written now")
    return 0
