"""The plan of a benchmark: settings, jobs and cases. Imports nothing heavy."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.evaluation.names import DEFAULT_PLANS, MAX_CLICKS, PROTOCOLS, START, STARTER_ARM, ArmName, parse_arm
from nnsam3d.evaluation.provenance import how_to_continue
from nnsam3d.files import known_sha256, write_json
from nnsam3d.keys import mismatch
from nnsam3d.nnunet.datasets import FINAL, STARTER, WEIGHTS, cases_in, folder_of, num_channels, training_cases

SETTING_FILE = "benchmark.json"
CASES_FILE = "cases.json"
FORMAT = 2
FREE = ("train_minutes", "options")  # may refer to finished trainings: not part of the measurement


@dataclass(frozen=True)
class Setting:
    """Everything that determines the numbers of a benchmark, except for the trained models.

    Attributes:
        datasets: names, DatasetXXX_Name. folds: of the cross-validation, or "all" with a test folder.
        seeds: of the clicks.
        mirroring: test-time mirroring, for every arm.
        test_images, test_labels: folders; empty = the validation cases of each fold.
        train_minutes: wall-clock budget of each arm; 0 = none. options: nnsam3d_options of the trainings. Both are
            reported, but do not affect the evaluation.
        train_seeds: each model is trained once per seed; none: once, without a fixed seed.
        start: for the protocol "start": an arm, whose answers without prompts are corrected, or a folder of masks.
        components: "prompted": of a label with positive prompts, answers keep the components that have one; "all";
            "": as each model's plans say.
    """

    datasets: tuple[str, ...]
    configurations: tuple[str, ...]
    folds: tuple[str, ...]
    arms: tuple[str, ...]
    protocols: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    max_clicks: int = MAX_CLICKS
    mirroring: bool = True
    test_images: str = ""
    test_labels: str = ""
    train_minutes: float = 0.0
    options: str = ""
    train_seeds: tuple[int, ...] = ()
    start: str = ""
    components: str = ""

    def __post_init__(self) -> None:
        names = [parse_arm(arm) for arm in self.arms]
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown:
            raise UserError(f"unknown protocol {', '.join(unknown)}; known: {', '.join(PROTOCOLS)}")
        if len(set(self.train_seeds)) != len(self.train_seeds) or min(self.train_seeds, default=0) < 0:
            raise UserError(f"--train-seeds {' '.join(map(str, self.train_seeds))}: seeds must be distinct and >= 0")
        models = {(name.trainer, name.plans, name.control) for name in names}
        if len(models) != len(names) or not self.seeds:
            raise UserError(
                f"each arm may occur once, and at least one seed is needed (the default plans are {DEFAULT_PLANS}): "
                f"{' '.join(self.arms)}"
            )
        if START in self.protocols and not self.start:
            raise UserError("protocol start: name the arm or the folder with the masks to start from (--start)")
        if self.start and not Path(self.start).is_absolute():
            if self.start not in self.arms or parse_arm(self.start).control or not parse_arm(self.start).trainer:
                raise UserError(f"--start {self.start}: is neither a folder nor one of the models among the arms")

    @property
    def start_arm(self) -> str:
        """The arm whose answers are corrected; "" if they are in a folder."""
        return "" if Path(self.start).is_absolute() else self.start

    def jobs(self) -> list[Job]:
        """The jobs in the order of the report."""
        return [
            Job(dataset, configuration, fold, arm, protocol, training)
            for dataset in self.datasets
            for configuration in self.configurations
            for fold in self.folds
            for arm in self.arms
            for training in self.train_seeds or (None,)
            for protocol in self.protocols
        ]


@dataclass(frozen=True)
class Job:
    """One arm on the cases of one fold, with one protocol.

    Attributes:
        training: seed of the model's training, if there are several trainings of an arm.
    """

    dataset: str
    configuration: str
    fold: str
    arm: str
    protocol: str
    training: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For results; without ``training`` if there is only one."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def arm_name(self) -> ArmName:
        """The parts of the arm's name."""
        return parse_arm(self.arm)

    def folder(self, output: Path) -> Path:
        """The folder of its results."""
        fold = output / "cases" / self.dataset / self.configuration / f"fold_{self.fold}"
        return fold / self.arm_in_path / self.protocol

    @property
    def arm_in_path(self) -> str:
        """The arm, and the training if there are several, in a form suitable for file names."""
        return self.arm.replace(":", "__") + self._seed

    @property
    def _seed(self) -> str:
        return "" if self.training is None else f"_seed{self.training}"

    @property
    def plans(self) -> str:
        """The plans of the model. nnU-Net keeps one model per name of plans, so each training has separate plans."""
        return self.arm_name.plans + self._seed

    def unit_file(self, output: Path, case: str, seed: int) -> Path:
        return self.folder(output) / f"seed_{seed}" / f"{case}.json"

    def cost_file(self, output: Path) -> Path:
        """The file with the cost of the arm, independent of the protocol."""
        return self.folder(output).parent / "cost.json"

    @property
    def model_folder(self) -> Path:
        trainer = self.arm_name.trainer
        if not trainer:
            return STARTER
        return folder_of("nnUNet_results") / self.dataset / f"{trainer}__{self.plans}__{self.configuration}"

    @property
    def checkpoint(self) -> Path:
        """The file on which its results depend; of a control without a model, the description of the dataset."""
        if not self.arm_name.has_model:
            return folder_of("nnUNet_raw") / self.dataset / "dataset.json"
        if not self.arm_name.trainer:
            return STARTER / "fold_0" / WEIGHTS
        return self.model_folder / f"fold_{self.fold}" / FINAL


@dataclass(frozen=True)
class BenchCase:
    name: str
    images: tuple[str, ...]
    truth: str


def open_setting(output: Path, setting: Setting) -> Setting:
    """Write the setting into a new output folder, or check that an existing one has the same setting.

    Raises:
        UserError: the folder contains a benchmark with another setting.
    """
    path = output / SETTING_FILE
    if path.is_file():
        there = read_setting(output)
        ours, theirs = asdict(setting), asdict(there)
        differing = [key for key in ours if key not in FREE and ours[key] != theirs[key]]
        if differing:
            changes = "; ".join(f"{key}: {_shown(theirs[key])} there, {_shown(ours[key])} now" for key in differing)
            raise UserError(f"{output} contains a benchmark with another setting ({changes}): choose another -o")
        if not setting.train_minutes and not setting.options:
            return there  # an evaluation that continues after the trainings
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, {"nnsam3d_benchmark": FORMAT, **asdict(setting)})
    return setting


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def read_setting(output: Path) -> Setting:
    """
    Raises:
        UserError: there is no benchmark, or it was made by another version.
    """
    path = output / SETTING_FILE
    if not path.is_file():
        raise UserError(f"{output} contains no benchmark ({SETTING_FILE} is missing): run `nnsam3d benchmark run`")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if stored.pop("nnsam3d_benchmark", None) != FORMAT:
        raise UserError(f"{path} was written by another version of nnsam3d")
    if any(mismatch(Setting, stored)):
        raise UserError(f"{path} was written by another version of nnsam3d: its keys are {', '.join(stored)}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
    return Setting(**values)


# ---------------------------------------------------------------------- cases


def cases_of(setting: Setting, job: Job) -> list[BenchCase]:
    """The cases of a job, sorted by name; none of them was used to train its model.

    Raises:
        UserError: no splits, no such fold, missing labels, or test cases that are training cases.
    """
    raw = folder_of("nnUNet_raw") / job.dataset
    if not (raw / "dataset.json").is_file():
        raise UserError(f"{raw} contains no dataset.json: check nnUNet_raw")
    if setting.test_images:
        ending = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))["file_ending"]
        tests = _test_cases(Path(setting.test_images), Path(setting.test_labels), ending)
        if job.arm_name.trainer:
            _refuse_training_cases(tests, raw)
        return list(tests)
    training, held_back = _training_cases(raw), _held_back(job)
    missing = sorted(set(held_back) - set(training))
    if missing:
        raise UserError(f"fold {job.fold} of {job.dataset} validates on {', '.join(missing)}, missing in {raw}")
    return [training[name] for name in sorted(held_back)]


def starter_objects(dataset_json: Mapping[str, Any], dataset: str) -> list[str]:
    """The names of a dataset's labels, which are the starter's objects, in the order of their values.

    Raises:
        UserError: a dataset with several channels, regions or an ignore label, which the starter does not take.
    """
    labels = {name: value for name, value in dataset_json["labels"].items() if value != 0}
    regions = any(isinstance(value, list) for value in labels.values())
    if num_channels(dict(dataset_json)) > 1 or "ignore" in labels or regions:
        raise UserError(f"arm {STARTER_ARM}: {dataset} has several channels, regions or an ignore label")
    return sorted(labels, key=lambda name: int(labels[name]))


def remember_cases(setting: Setting, output: Path) -> dict[Job, list[BenchCase]]:
    """The cases of all jobs, recorded for reports without the dataset.

    Raises:
        UserError: see :func:`cases_of`.
    """
    cases = {job: cases_of(setting, job) for job in setting.jobs()}
    write_json(output / CASES_FILE, {_cases_key(job): [case.name for case in found] for job, found in cases.items()})
    return cases


def remembered_cases(setting: Setting, output: Path) -> dict[Job, list[str]]:
    """The names of the cases of all jobs.

    Raises:
        UserError: nothing has been run.
    """
    path = output / CASES_FILE
    if not path.is_file():
        raise UserError(f"{output} contains no results yet. To continue:\n{how_to_continue(output)}")
    names = json.loads(path.read_text(encoding="utf-8"))
    return {job: names[_cases_key(job)] for job in setting.jobs()}


def _cases_key(job: Job) -> str:
    return f"{job.dataset}/{job.fold}"


def splits_file(job: Job) -> Path:
    """nnU-Net's splits, written in the first training."""
    return folder_of("nnUNet_preprocessed") / job.dataset / "splits_final.json"


def _held_back(job: Job) -> list[str]:
    if job.fold == "all":
        raise UserError("fold all was trained on all cases: use a test folder (--test-images, --test-labels)")
    path = splits_file(job)
    if not path.is_file():
        raise UserError(f"{path} is missing: nnU-Net writes it in the first training (nnUNetv2_train, or --train)")
    splits = json.loads(path.read_text(encoding="utf-8"))
    if not job.fold.isdigit() or int(job.fold) >= len(splits):
        raise UserError(f"fold {job.fold}: {path} has the folds 0 to {len(splits) - 1}")
    split = splits[int(job.fold)]
    both = sorted(set(split["train"]) & set(split["val"]))
    if both:
        raise UserError(f"{path}, fold {job.fold}: {', '.join(both)} are in training and validation")
    return list(split["val"])


@lru_cache
def _training_cases(raw: Path) -> dict[str, BenchCase]:
    # cached: listing the folder takes a second
    return {name: BenchCase(name, images, label) for name, (images, label) in training_cases(raw).items()}


@lru_cache
def _test_cases(images: Path, labels: Path, ending: str) -> tuple[BenchCase, ...]:
    if not images.is_dir() or not labels.is_dir():
        raise UserError(f"--test-images {images} and --test-labels {labels} must both be folders")
    from nnsam3d.nnunet.cases import case_name  # imported late: loads numpy

    tests = []
    for paths in cases_in(images, ending):
        name = case_name(paths[0], ending)
        truth = labels / f"{name}{ending}"
        if not truth.is_file():
            raise UserError(f"test case {name} has no ground truth: {truth} is missing")
        tests.append(BenchCase(name, tuple(paths), str(truth)))
    if not tests:
        raise UserError("the test folder contains no case")
    return tuple(tests)


@lru_cache
def _refuse_training_cases(tests: tuple[BenchCase, ...], raw: Path) -> None:
    """By name and by content, to detect renamed training images."""
    training = _training_cases(raw)
    sizes: dict[int, list[str]] = {}
    for case in training.values():
        sizes.setdefault(os.path.getsize(case.images[0]), []).append(case.images[0])
    for case in tests:
        alike = sizes.get(os.path.getsize(case.images[0]), [])  # uncompressed images often have one size
        twins = [path for path in alike if known_sha256(Path(path)) == known_sha256(Path(case.images[0]))]
        if case.name in training or twins:
            known = twins[0] if twins else case.name
            raise UserError(f"test case {case.name} is a training case ({known}): its result would be meaningless")
