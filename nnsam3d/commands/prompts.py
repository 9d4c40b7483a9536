"""`nnsam3d prompts inspect|convert|simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnsam3d.errors import UserError

TARGETS = ("nnsam3d", "slicer", "grand-challenge")
STRATEGIES = ("uniform", "center", "largest_error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `nnsam3d prompts` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="inspect|convert|simulate")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    inspect = action("inspect", "show where the clicks of a file lie, in every space; status 1 if one is outside")
    inspect.add_argument("file", type=Path)
    _add_reading(inspect)
    inspect.add_argument("--segmentation", type=Path, metavar="FILE", help="tell what label the clicks hit or miss")

    convert = action("convert", "write prompt files in another format, by default our own")
    convert.add_argument("files", type=Path, nargs="+", metavar="FILE")
    convert.add_argument(
        "-o",
        dest="output",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="<case>.json goes here; the case is that of --image, if it is one file, else the prompt file's name; "
        "files of one case are joined",
    )
    _add_reading(convert)
    convert.add_argument("--to", choices=TARGETS, default="nnsam3d", help="default: %(default)s")
    convert.add_argument("--to-space", choices=("voxel", "lps", "ras"), help="default: as in the file, where possible")
    convert.add_argument("--overwrite", action="store_true", help="replace files that are there")

    simulate = action("simulate", "make prompt files from ground truth, for tests and benchmarks")
    simulate.add_argument("segmentations", type=Path, metavar="FOLDER", help="ground truth: <case>.nii.gz and so on")
    simulate.add_argument("-o", dest="output", type=Path, required=True, metavar="FOLDER", help="<case>.json goes here")
    simulate.add_argument("-n", type=int, default=1, help="clicks in each case (default: %(default)s)")
    simulate.add_argument(
        "--strategy",
        choices=STRATEGIES,
        default="uniform",
        help="uniform: anywhere on a label, labels in turn; center: in the middle of its components; largest_error: "
        "in the middle of the largest errors of --predictions (default: %(default)s)",
    )
    simulate.add_argument("--predictions", type=Path, metavar="FOLDER", help="segmentations to correct (largest_error)")
    simulate.add_argument("--add-to", type=Path, metavar="FOLDER", help="prompt files whose clicks come first")
    simulate.add_argument("--seed", type=int, default=0, help="with the case's name it fixes the clicks (default: 0)")
    simulate.add_argument("--dataset", type=Path, metavar="FILE", help="dataset.json (default: beside the folder)")
    simulate.add_argument("--overwrite", action="store_true", help="replace files that are there")


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", type=Path, metavar="PATH", help="the case's image, or a folder with <case>_0000...")
    parser.add_argument("--dataset", type=Path, metavar="FILE", help="dataset.json, to check and translate the labels")
    parser.add_argument(
        "-m", dest="model", type=Path, metavar="MODEL", help="model folder: its reader's geometry holds"
    )
    parser.add_argument("--scaled", action="store_true", help="napari: positions are in units of the image's spacing")
    parser.add_argument("--format", help="of the file, where its content leaves a doubt")
    parser.add_argument("--space", choices=("voxel", "lps", "ras"), help="of the positions, where the format is silent")
    parser.add_argument(
        "--label",
        action="append",
        metavar="LABEL|WORD=LABEL",
        help="the label of all words that are no label, or of one word; may be repeated",
    )


def main(args: argparse.Namespace) -> int:
    """Do what the action says."""
    # late: `--help` answers at once
    if args.action == "simulate":
        return _simulate(args)
    from nnsam3d.prompts.convert import Stated, convert, dataset_labels, translation

    label = translation(args.label)
    stated = Stated(args.image, args.dataset, args.format, args.space, label, args.scaled, args.model)
    if args.action == "convert":
        return convert(args.files, args.output, stated, args.to, args.to_space, args.overwrite)
    from nnsam3d.prompts.inspection import inspect_file

    return inspect_file(args.file, *stated.read(args.file), args.segmentation, dataset_labels(args.dataset))


def _simulate(args: argparse.Namespace) -> int:
    from nnsam3d.prompts.convert import load_dataset
    from nnsam3d.prompts.from_labels import Simulation, simulate_folder

    if (args.strategy == "largest_error") != (args.predictions is not None):
        raise UserError("--strategy largest_error and --predictions FOLDER belong together")
    if not args.segmentations.is_dir():
        raise UserError(f"{args.segmentations}: no such folder (ground truth, one label map for every case)")
    dataset_file = args.dataset or args.segmentations.absolute().parent / "dataset.json"
    simulation = Simulation(args.n, args.strategy, args.seed, args.predictions, args.add_to)
    return simulate_folder(args.segmentations, args.output, load_dataset(dataset_file), simulation, args.overwrite)
