"""`nnsam3d prompts simulate`: prompt files from a folder of ground truth, in voxels of the images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnsam3d.errors import UserError
from nnsam3d.files import MACOS
from nnsam3d.geometry import ImageGrid
from nnsam3d.prompts.codec import PromptCodec
from nnsam3d.prompts.convert import refuse_existing, with_moved_masks
from nnsam3d.prompts.files import clicks_to_labels, read_prompts, write_prompts
from nnsam3d.prompts.inspection import read_segmentation
from nnsam3d.prompts.labels import click_labels
from nnsam3d.prompts.listing import Listing, list_folder
from nnsam3d.prompts.refine import error_centres
from nnsam3d.prompts.simulate import case_rng
from nnsam3d.prompts.simulator import PromptSimulator
from nnsam3d.prompts.types import CasePrompts, MaskPrompt, VoxelClick
from nnsam3d.prompts.voxels import VoxelPrompts


@dataclass(frozen=True)
class Simulation:
    """How clicks are simulated.

    Attributes:
        n: clicks per case; fewer if there are fewer errors.
        strategy: "uniform", "center" or "largest_error".
        seed: together with the case's name.
        predictions: folder of label maps, for "largest_error".
        add_to: folder of prompt files to extend; their voxels are not clicked again.
    """

    n: int
    strategy: str
    seed: int
    predictions: Path | None = None
    add_to: Path | None = None

    @cached_property
    def earlier(self) -> Listing | None:
        """What ``add_to`` holds before the first file is written, perhaps into the same folder."""
        return None if self.add_to is None else list_folder(self.add_to)


def simulate_folder(
    segmentations: Path, output: Path, dataset: Mapping[str, Any], simulation: Simulation, overwrite: bool
) -> int:
    """Write ``<case>.json`` for every label map; none for a case without a label or error to click on.

    Raises:
        UserError: no label maps, existing outputs, or an invalid map, prediction or prompt file.
    """
    ending = dataset.get("file_ending", ".nii.gz")
    found = sorted(segmentations.glob(f"*{ending}")) if segmentations.is_dir() else []
    files = [file for file in found if not file.name.startswith(MACOS)]
    if not files:
        raise UserError(f"{segmentations}: no segmentations *{ending} found")
    if simulation.n < 1:
        raise UserError(f"-n {simulation.n}: must be at least 1")
    targets = [output / f"{file.name[: -len(ending)]}.json" for file in files]
    refuse_existing(targets, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    without = []
    progress = tqdm(list(zip(files, targets, strict=True)), desc="simulating clicks", unit="case")
    for file, target in progress:
        progress.set_postfix_str(target.stem, refresh=False)
        prompts = simulate_case(file, target.stem, dataset, simulation)
        if simulation.add_to is not None:
            prompts = with_moved_masks(prompts, simulation.add_to, output)
        if prompts.prompts:
            write_prompts(target, prompts)
        else:
            target.unlink(missing_ok=True)  # from an earlier simulation
            without.append(target.stem)
    print(f"{len(files) - len(without)} prompt files in {output}")
    if without:
        print(f"no file written, because there is nothing to click on: {', '.join(without)}")
    return 0


def simulate_case(file: Path, case: str, dataset: Mapping[str, Any], simulation: Simulation) -> CasePrompts:
    """The clicks of one case, in space "voxel"; earlier ones first, behind the masks that they start from.

    Args:
        file: ground truth. dataset: content of dataset.json.
    """
    names = click_labels(dataset)
    ignore = dataset["labels"].get("ignore")
    truth, grid = read_segmentation(file)
    masks, earlier = _earlier(case, grid, names, simulation.earlier)
    labels = sorted(set(names.values()) - {0})
    spacing = grid.spacing_xyz[::-1]
    new: list[VoxelClick] = []
    if simulation.predictions is not None:
        prediction = _prediction(simulation.predictions / file.name, truth)
        values = {0, *labels} - {ignore}
        clicked = [voxel for voxel, _ in earlier]
        # One click per error, in order of size: there is a single prediction.
        centres = error_centres(truth, truth != prediction, spacing, values, clicked)
        new = list(itertools.islice(centres, simulation.n))
    else:
        rng = case_rng(case, simulation.seed)
        wanted = len(earlier) + simulation.n
        simulator = PromptSimulator(tuple(labels), spacing, ignore, simulation.strategy)
        drawn = simulator.fixed(truth, wanted, rng)
        new = [click for click in drawn if click not in earlier][: simulation.n]
    name_of = {value: name for name, value in names.items()}
    every = earlier + new
    prompts = CasePrompts.of_array(case, [click.voxel for click in every], [name_of[click.label] for click in every])
    return replace(prompts, prompts=(*masks, *prompts.prompts))


def _earlier(
    case: str, grid: ImageGrid, names: Mapping[str, int], files: Listing | None
) -> tuple[tuple[MaskPrompt, ...], list[VoxelClick]]:
    """The masks of the case's prompt file among ``files``, if any, and its clicks at their nearest voxels."""
    path = None if files is None else next(iter(files.prompts_of(case)), None)
    if path is None:
        return (), []
    read = read_prompts(path, grid, names)
    prompts = PromptCodec().usable(read.without_masks, str(path))
    voxels_N3 = np.floor(prompts.points.to("array", grid).values_N3 + 0.5).astype(np.int64)
    return read.masks, VoxelPrompts(voxels_N3, clicks_to_labels(prompts, names)).clicks()


def _prediction(path: Path, truth: NDArray) -> NDArray:
    if not path.is_file():
        raise UserError(f"{path} is missing: largest_error needs a prediction of each segmentation, with the same name")
    prediction, _ = read_segmentation(path)
    if prediction.shape != truth.shape:
        raise UserError(f"{path}: the shape is {prediction.shape}, but {truth.shape} in the ground truth")
    return prediction
