"""Prediction of a folder: prompts are validated first, cases are independent, outputs are written atomically."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from nnsam3d.errors import LINES, UserError, printable
from nnsam3d.files import WriteError, file_sha256, flush, write_json, writing
from nnsam3d.inference.cases import Case
from nnsam3d.inference.finished import unfinished
from nnsam3d.inference.image import PreparedImage, Segmentation
from nnsam3d.inference.model import Model
from nnsam3d.inference.saved import correct_masks
from nnsam3d.nnunet.label_files import write_label_map
from nnsam3d.progress import tqdm
from nnsam3d.prompts.labels import numbered_labels

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case, as in the report."""

    case: str
    status: str  # "done", "skipped" (existing output) or "failed"
    error: str = ""
    prompt_file: str = ""
    prompt_sha256: str = ""
    space: str = ""
    clicks: list[dict[str, Any]] = field(default_factory=list)
    extents: list[dict[str, Any]] = field(default_factory=list)
    masks: list[dict[str, Any]] = field(default_factory=list)  # to start from
    warnings: list[str] = field(default_factory=list)
    output_sha256: str = ""
    windows: int = 0
    stock_windows: int = 0
    seconds: float = 0.0  # until the result is available; the next case is read and the last one written meanwhile
    peak_memory_mb: float = 0.0  # of the GPU for this case; without one, of the process until now


@dataclass(frozen=True)
class FolderOptions:
    """Options for the prediction of a folder."""

    scope: str = "clicked"
    bind: bool = True
    probabilities: bool = False
    continue_prediction: bool = False
    components: str | None = None
    labels: Mapping[str, int] | None = None  # of a class-agnostic model; None: see folder_labels


def predict_folder(
    model: Model, cases: Sequence[Case], output: Path, options: FolderOptions
) -> tuple[list[Outcome], list[str]]:
    """Predict all cases; if one fails, it is reported and the others continue.

    Also returns errors if dataset.json or plans.json cannot be written; they have been reported, too.

    Meanwhile, the next case is read and the last one written, in a thread each.

    Args:
        model: with its networks in memory.
        cases: from :func:`nnsam3d.inference.cases.find_cases`; those with a problem fail.
        output: folder for the masks, dataset.json and plans.json; it is created.
        options: the same for all cases.

    Raises:
        WriteError: the folder cannot be created.
    """
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    if model.open_labels and options.labels is None:
        earlier = _labels_of(output) if options.continue_prediction else {}  # finished masks have these values
        options = replace(options, labels=folder_labels(cases, earlier))
    unwritten = []
    try:
        _write_model_files(model, output, options.labels)
    except WriteError as error:  # the masks are computed all the same
        unwritten.append(str(error))
        logger.error("nnsam3d: error: %s", error)
    outcomes: dict[int, Outcome] = {}  # by index, because names may occur twice
    todo = []
    with tqdm(total=len(cases), desc="predict", unit="case") as progress:

        def done(number: int, outcome: Outcome, reported: bool = False) -> None:
            outcomes[number] = outcome
            if outcome.status == "failed" and not reported:
                progress.write(f"nnsam3d: {printable(outcome.error, LINES)}")
            for text in outcome.warnings:
                progress.write(f"nnsam3d: warning: case {printable(outcome.case)}: {text}")
            progress.update()

        for number, case in enumerate(cases):
            if case.problem:
                done(number, Outcome(printable(case.name), "failed", case.problem), reported=True)
            elif unfit := _unfit(case, options):
                done(number, Outcome(case.name, "failed", unfit))
            elif not (options.continue_prediction and _is_there(case.name, model, output, options)):
                todo.append(number)
            elif why := unfinished(model, case.images[0], output, case.name, options.probabilities):
                progress.write(f"nnsam3d: case {printable(case.name)} is computed again: {why}")
                todo.append(number)
            else:
                shutil.rmtree(_unfinished(case.name, output), ignore_errors=True)
                done(number, Outcome(case.name, "skipped"))
        found = _predicted(model, [cases[number] for number in todo], output, options, progress)
        for number, outcome in zip(todo, found, strict=True):
            done(number, outcome)
    return [outcomes[number] for number in range(len(cases))], unwritten


def _unfit(case: Case, options: FolderOptions) -> str:
    """Why a case cannot be predicted with these options; empty if it can."""
    if case.prompts is None or not case.prompts.masks:
        return ""
    given = {
        "--scope everything": options.scope == "everything",
        "--no_binding": not options.bind,
        "--save_probabilities": options.probabilities,
    }
    names = ", ".join(name for name, is_given in given.items() if is_given)
    where = case.prompt_file or f"case {printable(case.name)}"
    if names:
        return f"{where}: starts from a mask, which clicks correct where they are; that is not possible with {names}"
    named = sorted({prompt.label for prompt in case.prompts.prompts if isinstance(prompt.label, str)} - {"background"})
    if options.labels is not None and named:
        return (
            f"{where}: starts from a mask, which holds numbers, while prompts name {', '.join(map(printable, named))}: "
            "say by --labels what the numbers 1, 2, ... mean"
        )
    return ""


def folder_labels(cases: Sequence[Case], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Names and values of the objects in a folder's prompt files: names in alphabetical order, whatever the cases.

    Args:
        cases: with their prompts.
        known: names and values that are kept.
    """
    used = {prompt.label for case in cases if case.prompts is not None for prompt in case.prompts.prompts} - {None}
    numbers = sorted(label for label in used if not isinstance(label, str))
    return numbered_labels([*numbers, *sorted(label for label in used if isinstance(label, str))], known)


def _labels_of(output: Path) -> dict[str, int]:
    """Names and values in the dataset.json of an earlier prediction; none without one."""
    try:
        labels = json.loads((output / "dataset.json").read_text(encoding="utf-8"))["labels"]
        return {str(name): int(value) for name, value in labels.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write_model_files(model: Model, output: Path, labels: Mapping[str, int] | None) -> None:
    """nnUNetv2_ensemble and nnUNetv2_apply_postprocessing need them."""
    labels = model.labels if model.class_agnostic and labels is None else labels
    known = {} if labels is None else {"labels": dict(labels)}
    write_json(output / "dataset.json", {**model.dataset_json, **known})
    write_json(output / "plans.json", model.plans_manager.plans)


def _predicted(
    model: Model, cases: Sequence[Case], output: Path, options: FolderOptions, progress: tqdm
) -> Iterator[Outcome]:
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        coming = [reader.submit(_prepare, model, case, options) for case in cases[:1]]
        writing: Future[Outcome] | None = None
        for number, case in enumerate(cases):
            progress.set_postfix_str(printable(case.name))
            reading = coming.pop()
            coming += [reader.submit(_prepare, model, one, options) for one in cases[number + 1 : number + 2]]
            answer = _outcome_of(case, partial(_answered, model, case, reading, options))
            del reading  # frees the image before the next one is computed
            if writing is not None:  # at most one result waits for the disk
                yield writing.result()
            writing = writer.submit(_outcome_of, case, partial(_written, model, case, answer, output))
            del answer
        if writing is not None:
            yield writing.result()


def _prepare(model: Model, case: Case, options: FolderOptions) -> PreparedImage:
    image = PreparedImage(model, *model.read(case.images), files=case.images)
    if case.prompts is None or not case.prompts.masks:
        image.prepare_for(case.prompts, options.scope)
    return image


@dataclass(frozen=True)
class _Answer:
    """A result to be written, without data that only the computation needed."""

    result: Segmentation
    properties: dict[str, Any]
    warnings: list[str]
    stock_windows: int
    seconds: float
    memory_mb: float


def _answered(model: Model, case: Case, reading: Future[PreparedImage], options: FolderOptions) -> _Answer:
    start = time.perf_counter()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
    image = reading.result()
    if case.prompts is not None and case.prompts.masks:
        result = correct_masks(case.prompts, case.prompt_file or Path(), image, options.labels)
    else:
        result = image.segment(
            case.prompts,
            options.scope,
            options.bind,
            options.probabilities,
            components=options.components,
            labels=options.labels,
        )
    result = replace(result, regions=())
    warnings = [*image.remarks, *result.remarks]
    seconds, memory_mb = time.perf_counter() - start, peak_memory_mb(model.device)
    return _Answer(result, image.properties, warnings, image.stock_windows, seconds, memory_mb)


def _written(model: Model, case: Case, answer: _Answer | Outcome, output: Path) -> Outcome:
    """Writes a result, unless the case has failed before."""
    if isinstance(answer, Outcome):
        return answer
    _write(model, case.name, answer, output)
    path, prompts = case.prompt_file, case.prompts
    return Outcome(
        case.name,
        "done",
        prompt_file=str(path or ""),
        prompt_sha256=file_sha256(path) if path else "",
        space=prompts.space if prompts else "",
        clicks=[asdict(click) for click in prompts.clicks] if prompts else [],
        extents=[
            {"type": prompt.kind, **prompt.entry()}
            for prompt in (prompts.without_masks.prompts if prompts else ())
            if prompt.kind != "click"
        ],
        masks=[asdict(mask) for mask in prompts.masks] if prompts else [],
        warnings=answer.warnings,
        output_sha256=file_sha256(output / f"{case.name}{model.file_ending}"),
        windows=answer.result.windows,
        stock_windows=answer.stock_windows,
        seconds=round(answer.seconds, 3),
        peak_memory_mb=round(answer.memory_mb),
    )


def _outcome_of(case: Case, action: Callable[[], T]) -> T | Outcome:
    """The result of the action, or a failed outcome if it raises an error."""
    try:
        return action()
    except Exception as error:
        if not isinstance(error, UserError):  # a bug or a problem of the system: print the traceback
            tqdm.write(traceback.format_exc(), file=sys.stderr)
        message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        name = printable(case.name)
        message = printable(message, LINES)
        message = message if name in message else f"case {name}: {message}"
        return Outcome(case.name, "failed", message)


def _is_there(name: str, model: Model, output: Path, options: FolderOptions) -> bool:
    endings = [model.file_ending] + ([".npz"] if options.probabilities else [])
    return all((output / f"{name}{ending}").is_file() for ending in endings)


def _write(model: Model, name: str, answer: _Answer, output: Path) -> None:
    """Write the files of a case to a temporary folder, then rename them; the segmentation last, to mark completion."""
    temporary = _unfinished(name, output)
    mask = f"{name}{model.file_ending}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if answer.result.probabilities is not None:
            with _writing_to(output / f"{name}.npz", temporary) as path:
                np.savez_compressed(path, probabilities=answer.result.probabilities)
            with _writing_to(output / f"{name}.pkl", temporary) as path, path.open("wb") as file:
                pickle.dump(answer.properties, file)
        with _writing_to(output / mask, temporary) as path:
            write_label_map(model.reader, answer.result.label_map, path, answer.properties)
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == mask):
            with writing(output / path.name):
                os.replace(path, output / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _writing_to(final: Path, folder: Path) -> Iterator[Path]:
    """The temporary name in ``folder`` of a file that will be called ``final``; its content reaches the disk.

    Raises:
        WriteError: the system refuses.
    """
    with writing(final):
        folder.mkdir(exist_ok=True)
        yield folder / final.name
        flush(folder / final.name)


def _unfinished(name: str, output: Path) -> Path:
    return output / f".{name}.unfinished"


def peak_memory_mb(device: torch.device) -> float:
    """Of the GPU; without one, of this process since its start; 0 if unknown (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    with contextlib.suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return 0.0
