"""`nnsam3d prompts simulate`: prompt files from a folder of ground truth, in voxels of the images.

Clicks are those of training and benchmark. A prompt of another kind is drawn around one component of a label, or of the
errors of a prediction: the largest first, as users do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.files import MACOS
from nnsam3d.geometry import ImageGrid
from nnsam3d.progress import tqdm
from nnsam3d.prompts.centres import error_centres
from nnsam3d.prompts.components import Components
from nnsam3d.prompts.convert import refuse_existing, with_moved_masks
from nnsam3d.prompts.files import read_prompts, write_prompts
from nnsam3d.prompts.inspection import read_segmentation
from nnsam3d.prompts.kinds import KINDS, Click, MaskPrompt, Prompt, Shape
from nnsam3d.prompts.labels import click_labels, declared_values, resolve_label
from nnsam3d.prompts.listing import Listing, list_folder, only_prompt_file
from nnsam3d.prompts.simulation import PromptSimulator, case_rng
from nnsam3d.prompts.types import CasePrompts

TRIES = 5  # to draw around a component: not every slice of it is large enough for every kind


@dataclass(frozen=True)
class Simulation:
    """How prompts are simulated.

    Attributes:
        n: prompts per case; fewer if there are fewer errors or components.
        strategy: of clicks: "uniform", "center" or "largest_error".
        seed: together with the case's name.
        predictions: folder of label maps, for "largest_error".
        add_to: folder of prompt files to extend; their voxels are not clicked again.
        kind: a key of :data:`nnsam3d.prompts.kinds.KINDS` that can be drawn.
    """

    n: int
    strategy: str
    seed: int
    predictions: Path | None = None
    add_to: Path | None = None
    kind: str = Click.kind

    @cached_property
    def earlier(self) -> Listing | None:
        """What ``add_to`` holds before the first file is written, perhaps into the same folder."""
        return None if self.add_to is None else list_folder(self.add_to)


def simulate_folder(
    segmentations: Path, output: Path, dataset: Mapping[str, Any], simulation: Simulation, overwrite: bool
) -> list[str]:
    """Write ``<case>.json`` for every label map; none for a case without a label or error to click on.

    Args:
        segmentations: folder of label maps, the ground truth.
        output: folder of the prompt files.
        dataset: content of dataset.json.
        simulation: how prompts are drawn.
        overwrite: replace existing prompt files.

    Returns:
        How many were written, and for which cases none was, as lines.

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
    progress = tqdm(list(zip(files, targets, strict=True)), desc=f"simulating {simulation.kind} prompts", unit="case")
    for file, target in progress:
        progress.set_postfix_str(target.stem, refresh=False)
        prompts = _simulate_case(file, target.stem, dataset, simulation)
        if simulation.add_to is not None:
            prompts = with_moved_masks(prompts, simulation.add_to, output)
        if prompts.prompts:
            write_prompts(target, prompts)
        else:
            target.unlink(missing_ok=True)  # from an earlier simulation
            without.append(target.stem)
    lines = [f"{len(files) - len(without)} prompt files in {output}"]
    if without:
        lines.append(f"no file written, because there is nothing to click on: {', '.join(without)}")
    return lines


def _simulate_case(file: Path, case: str, dataset: Mapping[str, Any], simulation: Simulation) -> CasePrompts:
    """The prompts of one case, in space "voxel"; earlier ones first, behind the masks that they start from."""
    names = click_labels(dataset)
    truth, grid = read_segmentation(file)
    masks, earlier = _earlier(case, grid, names, simulation.earlier)
    clicked = [_voxel(prompt) for prompt in earlier if isinstance(prompt, Click)]
    values = set(names.values()) - {dataset["labels"].get("ignore")}
    if simulation.predictions is None:
        predicted = np.zeros_like(truth)
        values -= {0}
    else:
        predicted = _prediction(simulation.predictions / file.name, truth)
    error = truth != predicted
    rng = case_rng(case, simulation.seed)
    spacing = grid.spacing_xyz[::-1]
    name_of = {value: name for name, value in names.items()}
    if simulation.kind != Click.kind:
        # the first ones are those that an earlier simulation drew
        before = sum(prompt.kind == simulation.kind for prompt in earlier) if simulation.predictions is None else 0
        declared = declared_values(dataset)
        inside = {value: declared[value] for value in sorted(values)}
        drawn = _drawn(simulation.kind, truth, predicted, inside, rng, spacing)
        new = [
            KINDS[simulation.kind].of_simulated(shape, name_of[shape.label])
            for shape in itertools.islice(drawn, before, before + simulation.n)
        ]
        return CasePrompts(case, "voxel", (*masks, *earlier, *new))
    if simulation.predictions is None:
        labels = tuple(sorted(set(names.values()) - {0}))
        simulator = PromptSimulator(labels, spacing, dataset["labels"].get("ignore"), simulation.strategy)
        known = {(_voxel(prompt), names[str(prompt.label)]) for prompt in earlier if isinstance(prompt, Click)}
        found = simulator.fixed(truth, len(clicked) + simulation.n, rng)
        clicks = [click for click in found if tuple(click) not in known][: simulation.n]
    else:
        # One click per error, in order of size: there is a single prediction.
        clicks = list(itertools.islice(error_centres(truth, error, spacing, values, clicked), simulation.n))
    placed = CasePrompts.of_array(case, [click.voxel for click in clicks], [name_of[click.label] for click in clicks])
    return replace(placed, prompts=(*masks, *earlier, *placed.prompts))


def _drawn(
    kind: str,
    truth: NDArray,
    predicted: NDArray,
    inside: Mapping[int, frozenset[int]],
    rng: Generator,
    spacing: Sequence[float],
) -> Iterator[Shape]:
    """Shapes around the components of each label that a prediction lacks: one label after another, the largest first.

    Args:
        inside: label -> the values of a label map that lie in it.
    """
    wrong = set(np.unique(truth[truth != predicted]).tolist())
    components = {
        value: Components(np.isin(truth, [*own]) & ~np.isin(predicted, [*own])).largest_first()
        for value, own in inside.items()
        if wrong & own
    }
    while components:
        for value, left in list(components.items()):
            component = next(left, None)
            if component is None:
                del components[value]
                continue
            # a margin: nothing is cut off by the border of an image, as it is by that of a patch
            target = np.pad(component.box, 1)
            shapes = (KINDS[kind].simulate(target, rng, spacing) for _ in range(TRIES))
            shape = next((shape for shape in shapes if shape is not None), None)
            if shape is not None:
                yield Shape(shape.kind, value, shape.points_N3 + component.low - 1)


def _earlier(
    case: str, grid: ImageGrid, names: Mapping[str, int], files: Listing | None
) -> tuple[tuple[MaskPrompt, ...], tuple[Prompt, ...]]:
    """The masks of the case's prompt file among ``files``, if any, and its other prompts, clicks at their voxels.

    Raises:
        PromptError: the file is wrong, or there are several.
    """
    path = None if files is None else only_prompt_file(case, files.prompts_of(case))
    if path is None:
        return (), ()
    read = read_prompts(path, grid, names)
    name_of = {value: name for name, value in names.items()}
    prompts = read.without_masks.to("voxel", grid)
    return read.masks, tuple(
        Click(_voxel(prompt)[::-1], name_of[resolve_label(prompt.label, names, str(path))])
        if isinstance(prompt, Click)
        else prompt
        for prompt in prompts.prompts
    )


def _voxel(click: Click) -> tuple[int, int, int]:
    """The nearest voxel (z, y, x) of a click in space "voxel"."""
    x, y, z = np.floor(np.array(click.position) + 0.5).astype(np.int64).tolist()
    return z, y, x


def _prediction(path: Path, truth: NDArray) -> NDArray:
    if not path.is_file():
        raise UserError(f"{path} is missing: largest_error needs a prediction of each segmentation, with the same name")
    prediction, _ = read_segmentation(path)
    if prediction.shape != truth.shape:
        raise UserError(f"{path}: the shape is {prediction.shape}, but {truth.shape} in the ground truth")
    return prediction
