"""`nnsam3d prompts inspect|convert|simulate`: the options, and `convert`. What is heavy is imported late."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnsam3d.errors import UserError

if TYPE_CHECKING:
    from nnsam3d.geometry import ImageGrid
    from nnsam3d.prompts import CasePrompts
    from nnsam3d.prompts.types import Space

FIRST_CHANNEL = "_0000"
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
    parser.add_argument("--format", help="of the file, where its content leaves a doubt")
    parser.add_argument("--space", choices=("voxel", "lps", "ras"), help="of the positions, where the format is silent")
    parser.add_argument(
        "--label",
        action="append",
        metavar="LABEL|WORD=LABEL",
        help="the label of all words that are no label, or of one word; may be repeated",
    )


def main(args: argparse.Namespace) -> int:
    """`nnsam3d prompts`."""
    if args.action == "inspect":
        from nnsam3d.preprocessing.prompts_inspect import inspect_file

        return inspect_file(args.file, *read(args.file, args), args.segmentation, dataset_labels(args.dataset))
    if args.action == "convert":
        return _convert(args)
    from nnsam3d.preprocessing.prompts_simulate import Simulation, simulate_folder

    if (args.strategy == "largest_error") != (args.predictions is not None):
        raise UserError("--strategy largest_error and --predictions FOLDER belong together")
    if not args.segmentations.is_dir():
        raise UserError(f"{args.segmentations}: no such folder (ground truth, one label map for every case)")
    dataset_file = args.dataset or args.segmentations.absolute().parent / "dataset.json"
    simulation = Simulation(args.n, args.strategy, args.seed, args.predictions, args.add_to)
    return simulate_folder(args.segmentations, args.output, load_dataset(dataset_file), simulation, args.overwrite)


def load_dataset(path: Path) -> dict[str, Any]:
    """The content of a dataset.json.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the dataset.json cannot be read ({error}); name it with --dataset") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is no dataset.json")
    return content


def dataset_labels(path: Path | None) -> dict[str, int] | None:
    """Label names and values of a dataset.json; None without one."""
    from nnsam3d.prompts import click_labels

    return None if path is None else click_labels(load_dataset(path))


def read(path: Path, args: argparse.Namespace, check: bool = False) -> tuple[CasePrompts, ImageGrid | None]:
    """The prompts of a file and the grid of its image, if one is given.

    Args:
        check: positions outside the image are errors.
    """
    from nnsam3d.geometry import ImageGrid
    from nnsam3d.prompts import read_prompts
    from nnsam3d.prompts.formats import case_of

    image = image_of(case_of(path), args.image)
    grid = None if image is None else ImageGrid.from_file(image)
    prompts = read_prompts(
        path,
        grid if check else None,
        dataset_labels(args.dataset),
        format=args.format,
        space=args.space,
        label=translation(args.label),
    )
    return prompts, grid


def translation(said: list[str] | None) -> str | Mapping[str, str | int] | None:
    """``["lesion"]`` -> one label for all words; ``["F=lesion", "B=background"]`` -> one for each word.

    Raises:
        UserError: both ways at once, or several labels for all words.
    """
    if not said:
        return None
    pairs = [word.rpartition("=") for word in said]
    if all(separator for _, separator, _ in pairs):
        return {word: label for word, _, label in pairs}
    if len(said) == 1:
        return said[0]
    raise UserError(f"--label {' --label '.join(said)}: either one LABEL for all words, or WORD=LABEL for each")


def image_of(case: str, place: Path | None) -> Path | None:
    """The image that ``place`` names: itself, or the only ``<case>_0000...`` in that folder.

    Raises:
        UserError: no such image, or several.
    """
    if place is None or not place.is_dir():
        return place
    found = sorted(path for path in place.iterdir() if path.name.startswith(f"{case}{FIRST_CHANNEL}."))
    if len(found) != 1:
        raise UserError(f"{place}: holds {len(found)} images named {case}{FIRST_CHANNEL}..., needs one for this case")
    return found[0]


def target_case(file: Path, place: Path | None) -> str:
    """The case of a converted file: of the image, if one is named (Slicer's "F.mrk.json" tells no case)."""
    from nnsam3d.prompts.formats import case_of

    if place is not None and not place.is_dir() and f"{FIRST_CHANNEL}." in place.name:
        return place.name.rpartition(f"{FIRST_CHANNEL}.")[0]
    return case_of(file)


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Raises UserError if an output file is there already, before anything is computed."""
    there = [path.name for path in paths if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 5} more" if len(there) > 5 else ""
        raise UserError(
            f"{paths[0].parent} holds {', '.join(there[:5])}{more} already: choose another folder, or say --overwrite"
        )


def _convert(args: argparse.Namespace) -> int:
    from nnsam3d.prompts import PromptError, write_prompts
    from nnsam3d.prompts.files import WRITABLE

    targets: dict[Path, list[Path]] = {}
    for file in args.files:
        target = args.output / f"{target_case(file, args.image)}{WRITABLE[args.to]}"
        targets.setdefault(target, []).append(file)
    refuse_existing(list(targets), args.overwrite)
    problems, converted = [], []
    for target, files in targets.items():
        try:
            converted.append((target, _joined(files, args)))
        except PromptError as error:
            problems.append(str(error))
    if problems:  # all files or none: half a folder is hard to tell from a whole one
        raise PromptError("\n".join(problems))
    args.output.mkdir(parents=True, exist_ok=True)
    for target, prompts in converted:
        write_prompts(target, prompts, format=args.to)
        print(f"{target}: {len(prompts.clicks)} clicks, space {prompts.space}")
    if args.image is None:
        print("the cases are named after the files; the case of another image is named with --image <case>_0000...")
    if args.dataset is None:
        print("the labels were not checked: --dataset dataset.json does it, and makes Slicer's lesion-1 a lesion")
    return 0


def _joined(files: list[Path], args: argparse.Namespace) -> CasePrompts:
    """The clicks of a case's files, one after the other (Slicer saves each point list to a file of its own)."""
    from dataclasses import replace

    parts: list[CasePrompts] = []
    for file in files:
        prompts, grid = read(file, args, check=True)
        default = "lps" if args.to == "slicer" and prompts.space == "voxel" else prompts.space
        space = args.to_space or (parts[0].space if parts else default)
        parts.append(in_space(prompts, space, grid, file))
    return replace(parts[0], clicks=sum((part.clicks for part in parts), ()))


def in_space(prompts: CasePrompts, space: Space, grid: ImageGrid | None, file: Path) -> CasePrompts:
    """The same clicks in another space.

    Raises:
        UserError: that takes the image, and none is given.
    """
    if grid is None and space != prompts.space:
        raise UserError(
            f"{file}: from space {prompts.space} to {space} needs the image: --image FILE, or a folder of images"
        )
    return prompts if grid is None else prompts.to(space, grid)
