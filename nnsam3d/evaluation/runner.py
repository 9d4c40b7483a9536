"""Runs the jobs. The result of every case and seed is a file, written atomically, so that a run can be continued.

Axis letters: D, H, W = array axes z, y, x of the image file.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.errors import UserError
from nnsam3d.evaluation.first import Truth
from nnsam3d.evaluation.metrics import Scores, score_mask
from nnsam3d.evaluation.names import PROTOCOLS, START
from nnsam3d.evaluation.obedience import bound, obeyed
from nnsam3d.evaluation.plan import BenchCase, Job, Setting, remember_cases
from nnsam3d.evaluation.protocols import as_prompts, run_protocol
from nnsam3d.evaluation.results import NetworkRuns, Result, ScoredAnswer, Timing
from nnsam3d.files import file_sha256, known_sha256, replacing, write_json
from nnsam3d.jobs.local import orphaned, run_here
from nnsam3d.nnunet.reading import spacing_of
from nnsam3d.progress import tqdm
from nnsam3d.prompts import VoxelPrompts
from nnsam3d.prompts.kinds import Shape

READ_OUTS = (0, 1, 3, 5, 10)  # numbers of clicks shown in tables
KEPT = (0, 1, 2, 3, 5, 10)  # numbers of clicks whose label maps are kept for the first seed; 1 and 2 show a correction
PAUSE = 1.0  # seconds between two checks for new results


def run(setting: Setting, output: Path, devices: Sequence[str]) -> None:
    """Run all missing jobs, each in a separate process, so that peak memory is measured for each job separately.

    Args:
        devices: of the jobs at a time; a device occurs once for every job that it runs at a time.

    Raises:
        UserError: cases are missing (raised before anything is computed), or jobs failed (raised after all others).
    """
    cases = remember_cases(setting, output)
    units = [unit for job in cases for unit in units_of(setting, job, cases[job], output)]
    waiting = [unit for unit in units if not unit.is_done()]
    tasks = {name_of(job): (setting, list(own), output) for job, own in groupby(waiting, key=lambda unit: unit.job)}
    with tqdm(total=len(units), initial=len(units) - len(waiting), desc="benchmark", unit="case") as bar:

        def tick() -> None:
            time.sleep(PAUSE)
            still = [unit for unit in waiting if not unit.is_done()]
            bar.update(len(waiting) - len(still))
            waiting[:] = still

        run_here(run_job, tasks, devices, output / "logs", tick)


def name_of(job: Job) -> str:
    """The name of a job, suitable for file names."""
    return f"{job.arm_in_path}_{job.protocol}_{job.dataset}_{job.configuration}_fold_{job.fold}"


def start_sha256(setting: Setting, job: Job) -> str:
    """Of the checkpoint whose masks the protocol "start" begins with, or of all files of a folder of masks; "" for
    other protocols."""
    if job.protocol != START:
        return ""
    if setting.start_arm:
        own = replace(job, arm=setting.start_arm).checkpoint
        return known_sha256(own) if own.is_file() else ""
    masks = sorted(path for path in Path(setting.start).glob("*") if path.is_file())
    return sha256(" ".join(f"{path.name} {known_sha256(path)}" for path in masks).encode()).hexdigest()


def is_done(path: Path, checkpoint: str, start: str = "") -> bool:
    """Whether a result exists and was computed with this checkpoint, from these masks (:func:`start_sha256`)."""
    if not path.is_file():
        return False
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored["checkpoint_sha256"] == checkpoint and stored.get("start_sha256", "") == start


@dataclass(frozen=True)
class Unit:
    """One case and click seed of a job, and what its result is computed from.

    Attributes:
        path: of the result.
        checkpoint, start: see :func:`is_done`.
    """

    job: Job
    case: BenchCase
    seed: int
    path: Path
    checkpoint: str
    start: str

    def is_done(self) -> bool:
        return is_done(self.path, self.checkpoint, self.start)

    def write(self, result: Result, maps: dict[int, NDArray[np.uint16]] | None = None) -> None:
        """The result, which is complete with its file: the label maps to keep, if any, come before it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if maps is not None:
            write_maps(self.path.with_suffix(".npz"), maps)
        write_json(self.path, result.as_dict())


def units_of(setting: Setting, job: Job, cases: Sequence[BenchCase], output: Path) -> list[Unit]:
    """The units of a job whose checkpoint exists, ordered by case."""
    checkpoint, start = known_sha256(job.checkpoint), start_sha256(setting, job)
    return [
        Unit(job, case, seed, job.unit_file(output, case.name, seed), checkpoint, start)
        for case in cases
        for seed in dict.fromkeys(setting.seeds)
    ]


# ---------------------------------------------------------------------- one job


def run_job(setting: Setting, units: Sequence[Unit], output: Path, device: str) -> None:
    """Compute those units of a job that are missing, one case after the other."""
    # imported late: the waiting parent process does not need torch
    from nnsam3d.evaluation.arms import load_arm

    job, checkpoint = units[0].job, units[0].checkpoint
    arm = load_arm(job, device, setting.mirroring)
    cost_file = job.cost_file(output)
    if not is_done(cost_file, checkpoint):
        cost_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(cost_file, {**asdict(arm.cost()), "checkpoint_sha256": checkpoint})
    for case, own in groupby(units, key=lambda unit: unit.case):
        missing = [unit for unit in own if not unit.is_done()]
        try:
            if missing:
                _run_case(setting, missing, arm, output)
        except UserError:
            raise
        except Exception as error:
            raise RuntimeError(f"case {case.name}: {type(error).__name__}: {error}") from error


def _run_case(setting: Setting, units: Sequence[Unit], arm: Any, output: Path) -> None:
    """Compute units of one case of a job; each result is written immediately."""
    # imported late, as above
    from nnsam3d.evaluation.arms import start_of
    from nnsam3d.inference.folder import peak_memory_mb

    first, job, case = units[0], units[0].job, units[0].case
    truth_sha256 = file_sha256(Path(case.truth))
    blank = Result(job, case.name, first.seed, first.checkpoint, truth_sha256, (), Timing(), start_sha256=first.start)
    refusal = arm.refusal(PROTOCOLS[job.protocol])
    if refusal:
        for unit in units:
            unit.write(replace(blank, seed=unit.seed, refused=refusal))
        return
    image, properties = arm.model.read(case.images)
    truth = read_truth(arm, case, properties)
    if truth.segmentation_DHW.shape != image.shape[1:]:
        raise UserError(f"case {case.name}: {case.truth} and the image have different shapes")
    start = time.perf_counter()
    prepared = arm.prepare(image, properties)
    if job.protocol == START and arm.is_prompted:
        prepared = prepared.starting_from(start_of(setting, job, case, arm, output), properties)
    seconds = round(time.perf_counter() - start, 4)
    for unit in units:
        if orphaned():
            return
        clicked = _click(setting, job, truth, unit.seed, prepared, arm)
        memory = round(peak_memory_mb(arm.model.device))
        timing = Timing(seconds, unit is first, tuple(clicked.seconds), tuple(clicked.work), memory)
        result = replace(blank, seed=unit.seed, steps=tuple(clicked.steps), timing=timing, first=clicked.first)
        unit.write(result, clicked.maps if unit.seed == setting.seeds[0] else None)


def read_truth(arm: Any, case: BenchCase, properties: dict[str, Any]) -> Truth:
    labels = tuple(sorted({value for value in arm.model.labels.values() if value > 0}))
    ignore = arm.model.label_manager.ignore_label
    segmentation = arm.model.read_labels(case.truth)
    return Truth(case.name, segmentation, spacing_of(properties), labels, ignore, arm.model.regions)


@dataclass
class _Clicked:
    """A protocol's first prompts and steps, what each step took, and the label maps to keep by number of clicks."""

    first: tuple[Shape, ...] = ()
    steps: list[ScoredAnswer] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    work: list[NetworkRuns] = field(default_factory=list)
    maps: dict[int, NDArray[np.uint16]] = field(default_factory=dict)


def _click(setting: Setting, job: Job, truth: Truth, seed: int, prepared: Any, arm: Any) -> _Clicked:
    """Run a job's protocol on one case with one seed."""
    found = _Clicked()
    obedience: list[float | None] = []
    regions = arm.model.regions
    components = setting.components or arm.model.components if arm.is_prompted else ""
    # windows around the clicks have bound a mask to start from already
    asked = job.protocol != START

    def answer(prompts: VoxelPrompts) -> NDArray:
        start, before = time.perf_counter(), arm.work()
        clicks = prompts.clicks()
        own = prepared.answer(as_prompts(truth.case, clicks, prompts.shapes))
        result = bound(own, prompts, regions, truth.spacing, components if asked else "")
        found.seconds.append(round(time.perf_counter() - start, 4))
        found.work.append(arm.work() - before)
        obedience.append(obeyed(own, clicks, regions) if asked else None)
        return result

    masks = list(clickable_values(arm.model.dataset_json))
    limit = setting.max_clicks if arm.listens else 0
    for number, step in enumerate(run_protocol(PROTOCOLS[job.protocol], truth, seed, answer, limit)):
        found.first, clicks = step.prompts.shapes, step.prompts.clicks()
        scores = {name: _score(step.answer, truth, values) for name, values in masks}
        # one answer per step, in this order
        found.steps.append(ScoredAnswer(step.clicks, clicks[-1] if clicks else None, scores, obedience[number]))
        if number in KEPT:  # without corrections, step 1 has a click on every label
            found.maps[number] = step.answer.astype(np.uint16)
        if not limit:  # arms without clicks answer once
            break
    return found


def clickable_values(dataset_json: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and segmentation values of everything that is scored: labels or regions, as nnU-Net evaluates them."""
    for name, value in dataset_json["labels"].items():
        values = tuple(value) if isinstance(value, list | tuple) else (value,)
        if name != "ignore" and values != (0,):
            yield name, values


def _score(result: NDArray, truth: Truth, values: tuple[int, ...]) -> Scores:
    prediction, true = np.isin(result, values), np.isin(truth.segmentation_DHW, values)
    if truth.ignore_label is not None:
        known = truth.segmentation_DHW != truth.ignore_label
        prediction, true = prediction & known, true & known
    return score_mask(prediction, true, truth.spacing)


def write_maps(path: Path, maps: dict[int, NDArray[np.uint16]]) -> None:
    """Write label maps by number of clicks, atomically."""
    named = {f"clicks_{clicks}": label_map for clicks, label_map in maps.items()}
    with replacing(path) as temporary, temporary.open("xb") as file:
        np.savez_compressed(file, **named)  # type: ignore[arg-type]


def read_map(path: Path, clicks: int, exactly: bool = False) -> NDArray[np.uint16] | None:
    """The stored label map with the largest number of clicks up to ``clicks``, or None.

    Args:
        exactly: return only the label map after exactly ``clicks`` clicks.
    """
    try:
        with np.load(path) as stored:
            there = [int(name.removeprefix("clicks_")) for name in stored.files]
            fitting = [number for number in there if (number == clicks if exactly else number <= clicks)]
            return np.asarray(stored[f"clicks_{max(fitting)}"]) if fitting else None
    except (FileNotFoundError, zipfile.BadZipFile):
        return None
