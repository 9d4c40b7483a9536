"""`nnsam3d prompts inspect|convert|simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.evaluation.names import DRAWN

TARGETS = ("nnsam3d", "slicer", "grand-challenge")
STRATEGIES = ("uniform", "center", "largest_error")
SIMULATED = ("click", *DRAWN)
DESCRIPTION = """
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
"""
EXAMPLE = """
nnsam3d prompts inspect liver_003.mrk.json --image imagesTs/liver_003_0000.nii.gz --dataset dataset.json
nnsam3d prompts convert F.mrk.json -o clicks --dataset dataset.json --label lesion \\
    --image imagesTs/liver_003_0000.nii.gz
nnsam3d prompts convert points/*.json -o clicks --space voxel --image imagesTs
nnsam3d prompts convert clicks/*.json -o slicer --to slicer --image imagesTs
nnsam3d prompts simulate labelsTr -o clicks -n 3 --seed 1
nnsam3d prompts simulate labelsTs -o round2 --strategy largest_error --predictions out --add-to clicks
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `nnsam3d prompts` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="inspect|convert|simulate")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    inspect = action("inspect", "show a file's prompts in all spaces; status 1: one is outside the image")
    inspect.add_argument("file", type=Path)
    _add_reading(inspect)
    inspect.add_argument("--segmentation", type=Path, metavar="FILE", help="show which labels each prompt holds")

    convert = action("convert", "write prompt files in another format, by default nnsam3d's own")
    convert.add_argument("files", type=Path, nargs="+", metavar="FILE")
    convert.add_argument(
        "-o",
        dest="output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="output folder for <case>.json; the case is named by --image if that is a file, otherwise by the prompt "
        "file; files of one case are merged",
    )
    _add_reading(convert)
    convert.add_argument("--to", choices=TARGETS, default="nnsam3d", help="default: %(default)s")
    convert.add_argument("--to-space", choices=("voxel", "lps", "ras"), help="default: as in the file, where possible")
    convert.add_argument("--overwrite", action="store_true", help="replace existing files")

    simulate = action("simulate", "create prompt files from ground truth, for tests and benchmarks")
    simulate.add_argument("segmentations", type=Path, metavar="FOLDER", help="ground truth: <case>.nii.gz, ...")
    simulate.add_argument(
        "-o", dest="output", type=Path, required=True, metavar="FOLDER", help="output folder for <case>.json"
    )
    simulate.add_argument("-n", type=int, default=1, help="prompts per case (default: %(default)s)")
    simulate.add_argument(
        "--kind",
        choices=SIMULATED,
        default="click",
        help="kinds other than click are drawn with a hand's errors, around the components of each label, or of the "
        "errors of --predictions: one label after another, the largest first (default: %(default)s)",
    )
    simulate.add_argument(
        "--strategy",
        choices=STRATEGIES,
        help="of clicks; uniform: at random voxels, one label after another; center: in the middle of each label's "
        "largest component; largest_error: "
        "in the middle of the largest errors of --predictions (default: uniform, or with --predictions this one)",
    )
    simulate.add_argument("--predictions", type=Path, metavar="FOLDER", help="segmentations to correct")
    simulate.add_argument("--add-to", type=Path, metavar="FOLDER", help="existing prompt files to extend")
    simulate.add_argument("--seed", type=int, default=0, help="prompts depend on seed and case name only (default: 0)")
    simulate.add_argument("--dataset", type=Path, metavar="FILE", help="dataset.json (default: in the parent folder)")
    simulate.add_argument("--overwrite", action="store_true", help="replace existing files")


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", type=Path, metavar="PATH", help="the case's image, or a folder with <case>_0000...")
    parser.add_argument("--dataset", type=Path, metavar="FILE", help="dataset.json, to check and translate the labels")
    parser.add_argument(
        "-m",
        dest="model",
        type=Path,
        metavar="MODEL",
        help="model folder: its image reader defines the geometry, and its dataset.json the labels",
    )
    parser.add_argument("--scaled", action="store_true", help="napari: positions are in units of the image's spacing")
    parser.add_argument("--format", help="format of the file, if its content is ambiguous")
    parser.add_argument(
        "--space", choices=("voxel", "lps", "ras"), help="of the positions, if the format does not define it"
    )
    parser.add_argument(
        "--label",
        action="append",
        metavar="LABEL|WORD=LABEL",
        help="label for all words that are not labels, or for one word; may be repeated",
    )


def main(args: argparse.Namespace) -> int:
    """Run the action."""
    # imported late: `--help` responds immediately
    if args.action == "simulate":
        return _simulate(args)
    from nnsam3d.prompts.convert import Stated, convert, target_case, translation

    label = translation(args.label)
    stated = Stated(args.image, args.dataset, args.format, args.space, label, args.scaled, args.model)
    if args.action == "convert":
        print("\n".join(convert(args.files, args.output, stated, args.to, args.to_space, args.overwrite)))
        return 0
    from nnsam3d.prompts.inspection import inspect_file

    case = target_case(args.file, args.image)
    prompts, grid_of = stated.read(args.file)
    remarks = stated.remarks(args.file)
    lines, inside = inspect_file(args.file, prompts, grid_of, args.segmentation, stated.labels, case, remarks)
    print("\n".join(lines))
    return 0 if inside else 1


def _simulate(args: argparse.Namespace) -> int:
    from nnsam3d.prompts.convert import load_dataset
    from nnsam3d.prompts.from_labels import Simulation, simulate_folder

    strategy = args.strategy or ("uniform" if args.predictions is None else "largest_error")
    if (strategy == "largest_error") != (args.predictions is not None):
        raise UserError("--strategy largest_error and --predictions FOLDER must be used together")
    if args.kind != "click" and args.strategy in ("uniform", "center"):
        raise UserError(f"--strategy {args.strategy} places clicks; with --kind {args.kind}, leave it out")
    if not args.segmentations.is_dir():
        raise UserError(f"{args.segmentations}: no such folder (expected: ground truth, one label map per case)")
    dataset_file = args.dataset or args.segmentations.absolute().parent / "dataset.json"
    simulation = Simulation(args.n, strategy, args.seed, args.predictions, args.add_to, args.kind)
    dataset = load_dataset(dataset_file)
    print("\n".join(simulate_folder(args.segmentations, args.output, dataset, simulation, args.overwrite)))
    return 0
