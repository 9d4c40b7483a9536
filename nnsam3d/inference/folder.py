"""A folder of cases: all prompts checked first, every case on its own, outputs whole or not at all."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nnsam3d.errors import UserError
from nnsam3d.files import file_sha256, write_json
from nnsam3d.geometry import GeometryError, ImageGrid
from nnsam3d.inference.image import PreparedImage, Segmentation
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.cases import case_name, find_prompt_file, prompts_folder, read_case_prompts
from nnsam3d.nnunet.datasets import cases_in
from nnsam3d.prompts import CasePrompts


@dataclass(frozen=True)
class Case:
    """A case's files. ``problem`` says why it cannot be predicted."""

    name: str
    images: tuple[str, ...]
    prompt_file: Path | None = None
    prompts: CasePrompts | None = None
    problem: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a case, as it stands in the report."""

    case: str
    status: str  # "done", "skipped" (it was there already) or "failed"
    error: str = ""
    prompt_file: str = ""
    prompt_sha256: str = ""
    space: str = ""
    clicks: list[dict[str, Any]] = field(default_factory=list)
    output_sha256: str = ""
    windows: int = 0
    stock_windows: int = 0
    seconds: float = 0.0  # with a GPU without most of the preprocessing, which goes on meanwhile
    peak_memory_mb: float = 0.0  # of the device in this case; without one, of the process until now


def find_cases(images: Path, model: Model, prompts: Path | None = None) -> list[Case]:
    """The cases of a folder with their prompts; reads headers and prompt files only.

    Args:
        prompts: folder of the prompt files; None: the one that ``nnsam3d_prompts`` names, else beside the images.

    Raises:
        UserError: no such folder, no images, or a folder of prompts that does not exist.
    """
    if not images.is_dir():
        raise UserError(f"{images}: no such folder (-i names the folder with the images)")
    prompts_folder(images, prompts)  # complains if it does not exist
    lists = cases_in(images, model.file_ending)
    if not lists:
        raise UserError(f"{images}: no image is named <case>_0000{model.file_ending}, as nnU-Net expects it")
    named = {Path(file).name for files in lists for file in files}
    others = sorted(
        path.name for path in images.iterdir() if path.name.endswith(model.file_ending) and path.name not in named
    )
    cases = [_case(files, model, prompts) for files in lists]
    return cases + [_misnamed(images / name, model.file_ending) for name in others]


def _misnamed(image: Path, ending: str) -> Case:
    name = image.name.removesuffix(ending)
    right = f"{name}_0000{ending}"
    return Case(name, (str(image),), problem=f"{image}: nnU-Net expects the channel in the name, for example {right}")


def _case(files: list[str], model: Model, folder: Path | None) -> Case:
    name, channels = case_name(files[0], model.file_ending), model.num_channels
    if len(files) != channels:
        return Case(
            name, tuple(files), problem=f"case {name}: {len(files)} image files, the model needs {channels} channels"
        )
    try:
        path = find_prompt_file(files[0], model.file_ending, folder)
        prompts = read_case_prompts(path, _grid_of(files[0]), model.labels) if path else None
    except UserError as error:
        return Case(name, tuple(files), problem=str(error))
    return Case(name, tuple(files), path, prompts)


def _grid_of(image: str) -> ImageGrid | None:
    # an unreadable image is its own error, told when it is read
    with contextlib.suppress(GeometryError):
        return ImageGrid.from_file(image)
    return None


@dataclass(frozen=True)
class FolderOptions:
    """How to predict a folder."""

    scope: str = "clicked"
    bind: bool = True
    probabilities: bool = False
    continue_prediction: bool = False


def predict_folder(
    model: Model, cases: Sequence[Case], output: Path, options: FolderOptions, ahead: bool | None = None
) -> list[Outcome]:
    """Predicts case after case; a failed one is reported and costs nothing but itself.

    Args:
        ahead: read and preprocess the next case meanwhile, in a thread; None = where a GPU does the rest.
    """
    output.mkdir(parents=True, exist_ok=True)
    # what nnUNetv2_ensemble and nnUNetv2_apply_postprocessing want to find
    write_json(output / "dataset.json", model.dataset_json)
    write_json(output / "plans.json", model.plans_manager.plans)
    todo = [case for case in cases if not case.problem and not _is_there(case.name, model, output, options)]
    waiting = {case.name for case in todo}
    prepared = _prepared(model, todo, model.device.type != "cpu" if ahead is None else ahead)
    outcomes = []
    with tqdm(cases, desc="predict", unit="case") as progress:
        for case in progress:
            progress.set_postfix_str(case.name)
            if case.problem:
                outcome = Outcome(case.name, "failed", case.problem)
            elif case.name not in waiting:
                shutil.rmtree(_unfinished(case.name, output), ignore_errors=True)
                outcome = Outcome(case.name, "skipped")
            else:
                outcome = _predict(model, case, next(prepared), output, options)
            if outcome.status == "failed" and not case.problem:  # those have been told
                progress.write(f"nnsam3d: {outcome.error}")
            outcomes.append(outcome)
    return outcomes


def _prepared(model: Model, cases: Sequence[Case], ahead: bool) -> Iterator[Callable[[], PreparedImage]]:
    """For every case a call that gives its image, or raises; ``ahead``: it has begun while the case before was done."""
    if not ahead:
        yield from (partial(_prepare, model, case) for case in cases)
        return
    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(_prepare, model, case) for case in cases[:1]]
        for number in range(len(cases)):
            coming += [pool.submit(_prepare, model, case) for case in cases[number + 1 : number + 2]]
            yield coming.pop(0).result


def _prepare(model: Model, case: Case) -> PreparedImage:
    return PreparedImage(model, *model.read(case.images))


def _predict(
    model: Model, case: Case, prepare: Callable[[], PreparedImage], output: Path, options: FolderOptions
) -> Outcome:
    start = time.perf_counter()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    try:
        image = prepare()
        result = image.segment(case.prompts, options.scope, options.bind, options.probabilities)
        _write(model, case.name, result, image, output)
    except Exception as error:
        if not isinstance(error, UserError):  # a bug, or the machine's fault: say where
            tqdm.write(traceback.format_exc(), file=sys.stderr)
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        message = message if case.name in message else f"case {case.name}: {message}"
        return Outcome(case.name, "failed", message)
    path, prompts = case.prompt_file, case.prompts
    return Outcome(
        case.name,
        "done",
        prompt_file=str(path or ""),
        prompt_sha256=file_sha256(path) if path else "",
        space=prompts.space if prompts else "",
        clicks=[asdict(click) for click in prompts.clicks] if prompts else [],
        output_sha256=file_sha256(output / f"{case.name}{model.file_ending}"),
        windows=result.windows,
        stock_windows=image.stock_windows,
        seconds=round(time.perf_counter() - start, 3),
        peak_memory_mb=round(peak_memory_mb(model.device)),
    )


def _is_there(name: str, model: Model, output: Path, options: FolderOptions) -> bool:
    if not options.continue_prediction:
        return False
    endings = [model.file_ending] + ([".npz"] if options.probabilities else [])
    return all((output / f"{name}{ending}").is_file() for ending in endings)


def _write(model: Model, name: str, result: Segmentation, image: PreparedImage, output: Path) -> None:
    """All files of a case into a folder of their own, then renamed; the segmentation last, as the sign of success."""
    temporary = _unfinished(name, output)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        if result.probabilities is not None:
            np.savez_compressed(temporary / f"{name}.npz", probabilities=result.probabilities)
            with open(temporary / f"{name}.pkl", "wb") as file:
                pickle.dump(image.properties, file)
        model.write_labels(result.label_map, temporary / f"{name}{model.file_ending}", image.properties)
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == f"{name}{model.file_ending}"):
            os.replace(path, output / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unfinished(name: str, output: Path) -> Path:
    return output / f".{name}.unfinished"


def peak_memory_mb(device: torch.device) -> float:
    """Of the device; without one, of this process since it began; 0 where the system does not tell (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    with contextlib.suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return 0.0
