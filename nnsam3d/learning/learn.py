"""A round of learning: new weights from finished cases, which replace the old ones only if they are not worse."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from nnsam3d.errors import UserError
from nnsam3d.files import copy_file, file_sha256, write_json
from nnsam3d.inference.model import Model
from nnsam3d.learning.check import CLICKED, CLICKS, Known, held_back_dice
from nnsam3d.learning.finished import FinishedCase, finished_cases, replayed_cases
from nnsam3d.learning.grow import grow
from nnsam3d.learning.record import Record, Round, read_record
from nnsam3d.learning.tune import Tuning, averaged, tune, write_checkpoint
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.datasets import FINAL, STARTER, find_folds

logger = logging.getLogger(__name__)

LEAST = 2  # held-back cases with a label, before a model that has grown may take over: one may be an exception
LOST = 0.1  # so much worse that the training goes on from the weights in use
TOLERANCE = 0.01  # of mean Dice on a few cases, whose noise must not stop the learning; below the best, not the last
WORK, HISTORY, LOCK = "work", "history", "lock"  # beside the model's own files
CHECKS = "checks.json"  # Dice of held-back cases, which is not measured twice
BEST = "best.pth"  # the best weights that were in use, unless those in use are
TRAINED = "trained.pth"  # with which the next round begins, whether these weights are in use or not


def learn(
    base: Path,
    folds: list[str] | None,
    cases_folder: Path,
    own: Path,
    tuning: Tuning,
    new: bool = False,
    checkpoint: str = FINAL,
) -> Round:
    """Tunes a model on the finished cases of a dataset.

    The training goes on from round to round. What is used is a running average of its weights, as long as held-back
    cases do not get worse by it.

    The first round writes the model's folder, as a copy of ``base`` or grown out of it; every further one continues it.
    Old weights are kept in ``history``. Stopped at any time, the folder has complete weights: repeat the round.

    Args:
        base: folder of the model to begin from.
        folds: of it; of several, the first one.
        cases_folder: a dataset in nnU-Net's raw format.
        own: folder of the model that learns.
        tuning: how.
        new: grow a model with the dataset's labels out of a class-agnostic ``base``.
        checkpoint: of ``base``.

    Returns:
        What the round brought.

    Raises:
        UserError: no finished case, labels or channels that do not fit, another round is running, or the training has
            failed.
    """
    start = time.monotonic()
    own.mkdir(parents=True, exist_ok=True)
    with _locked(own / LOCK):
        cases = finished_cases(cases_folder)
        dataset_json = json.loads((cases_folder / "dataset.json").read_text(encoding="utf-8"))
        record = read_record(own)
        if record is None or not (own / "plans.json").is_file():
            if base.resolve() == own.resolve():
                raise UserError(
                    f"{own}: holds a model that has not learned here: choose another folder for the new one"
                )
            begun_from = _base_model(base, folds, "cpu", [], checkpoint)
            record = _begin(begun_from, list(cases.values()), dataset_json, own, new)
        record = record.seen(list(cases))
        model = Model(own, ["0"], FINAL, torch.device(tuning.device), mirroring=False)
        declared = _declared(model, dataset_json)
        training = [cases[name] for name in record.training if name in cases]
        held_back = [cases[name] for name in record.held_back if name in cases]
        if not training:
            raise UserError(f"{cases_folder}: no finished case to learn from")
        finished = len(training)
        if tuning.replay is not None:
            training += replayed_cases(tuning.replay, len(training), declared["labels"])
        logger.info(
            f"learning from {finished} finished cases, {len(training) - finished} replayed; {len(held_back)} held back"
        )
        current, trained = own / "fold_0" / FINAL, own / TRAINED
        begin = trained if trained.is_file() else current
        made, updates = tune(model, begin, training, declared, own / WORK, tuning)
        candidate = own / WORK / "candidate.pth"
        keep = 0.0 if record.grown and not record.rounds else tuning.keep  # the first weights have seen nothing yet
        write_checkpoint(averaged(open_checkpoint(current), open_checkpoint(made), keep), candidate)
        objects = [name for name, value in sorted(declared["labels"].items(), key=_value) if _value((name, value))]
        if model.class_agnostic:
            model = Model(own, ["0"], FINAL, torch.device(tuning.device), mirroring=False, objects=objects)
        known = _read_checks(own)
        now, then = file_sha256(current), file_sha256(candidate)
        before = held_back_dice(model, held_back, now, known)
        model.take_weights(open_checkpoint(candidate)["network_weights"])
        after = held_back_dice(model, held_back, then, known)
        best, bests = before, file_sha256(own / BEST) if (own / BEST).is_file() else ""
        if before is not None and bests:  # measured on the cases of today, which are not those of then
            model.take_weights(open_checkpoint(own / BEST)["network_weights"])
            best = max(before, held_back_dice(model, held_back, bests, known) or 0.0)
        accepted = _is_accepted(before, after, best)
        used = then if accepted else now
        clicked, other, rivals = None, None, ""
        if record.grown:  # all is known: nothing is measured
            clicked = held_back_dice(model, held_back, used, known, CLICKED, LEAST)
        if clicked is not None:
            begun, begun_folds = Path(record.begun_from), [record.fold] if record.fold else None
            try:
                rival = _base_model(begun, begun_folds, tuning.device, objects, record.checkpoint)
            except UserError:  # it is no longer there
                rival = _base_model(STARTER, None, tuning.device, objects)
            rivals = file_sha256(rival.checkpoint_files[0])
            other = held_back_dice(rival, held_back, rivals, known, CLICKED, LEAST)
        if accepted:
            below = best is not None and after is not None and after < best
            if below and before == best:
                copy_file(current, own / BEST, durable=True)
                bests = now
            _take(own, candidate)
            if not below:
                (own / BEST).unlink(missing_ok=True)
                bests = ""
        lost = before is not None and after is not None and after < before - LOST
        copy_file(current if lost else made, trained, durable=True)
        again = (used, rivals, bests)  # with which the next round compares
        write_json(own / CHECKS, {key: dice for key, dice in known.items() if key.split()[0] in again})
        seconds = round(time.monotonic() - start, 1)
        when = datetime.now(timezone.utc).isoformat(timespec="seconds")
        sha256 = used if accepted else ""
        last = Round(when, finished, seconds, updates, before, after, accepted, sha256, other, best, clicked)
        replace(record, rounds=(*record.rounds, last)).write(own)
    return last


def _begin(model: Model, cases: list[FinishedCase], dataset_json: dict[str, Any], own: Path, new: bool) -> Record:
    """The model's folder before the first round, and its record."""
    if not cases:
        raise UserError("no finished case to learn from")
    base = model.folder
    if new:
        grow(model, cases, dataset_json, own)
    else:
        (own / "fold_0").mkdir(exist_ok=True)
        write_checkpoint(open_checkpoint(model.checkpoint_files[0]), own / "fold_0" / FINAL)
        ending = {"file_ending": dataset_json["file_ending"]} if model.any_spacing else {}
        write_json(own / "dataset.json", {**json.loads((base / "dataset.json").read_text(encoding="utf-8")), **ending})
        copy_file(base / "plans.json", own / "plans.json", durable=True)
    weights = file_sha256(model.checkpoint_files[0])
    record = Record(str(base), weights, grown=new, fold=model.folds[0], checkpoint=model.checkpoint)
    record.write(own)
    return record


def _base_model(base: Path, folds: list[str] | None, device: str, objects: list[str], checkpoint: str = FINAL) -> Model:
    first, checkpoint = find_folds(base, folds, checkpoint)
    return Model(base, first[:1], checkpoint, torch.device(device), mirroring=False, objects=objects)


def _read_checks(own: Path) -> Known:
    """What earlier rounds have measured. What is damaged, or of an earlier version, is left out and measured again."""
    try:
        found = json.loads((own / CHECKS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    numbers = {str(number) for number in CLICKS}
    items = found.items() if isinstance(found, dict) else ()
    return {key: dice for key, dice in items if dice is None or (isinstance(dice, dict) and numbers <= dice.keys())}


def _value(item: tuple[str, Any]) -> int:
    name, value = item
    return 0 if name == "ignore" else int(value if not isinstance(value, list) else max(value))


def _declared(model: Model, dataset_json: dict[str, Any]) -> dict[str, Any]:
    """dataset.json for the training: the model's, but for a class-agnostic model with the labels of the cases.

    Raises:
        UserError: the cases have other labels than the model.
    """
    ending = {"file_ending": dataset_json["file_ending"]}
    if model.class_agnostic:
        keys = [key for key in ("labels", "regions_class_order") if key in dataset_json]
        return {**model.dataset_json, **{key: dataset_json[key] for key in keys}, **ending}
    if dataset_json["labels"] != model.dataset_json["labels"]:
        raise UserError(
            f"the finished cases have the labels {dataset_json['labels']}, the model {model.dataset_json['labels']}"
        )
    return {**model.dataset_json, **ending}


def _is_accepted(before: float | None, after: float | None, best: float | None) -> bool:
    """Whether new weights are used: at most the tolerance below the best that were in use, so that small losses do not
    add up. Where the last ones are already further below on the cases of today, the new ones must not be worse.

    >>> _is_accepted(0.827, 0.822, 0.827), _is_accepted(0.822, 0.812, 0.827), _is_accepted(0.7, 0.71, 0.8)
    (True, False, True)
    """
    if before is None or after is None or best is None:
        return True
    return after >= min(before, best - TOLERANCE)


def _take(own: Path, made: Path) -> None:
    """Puts new weights in the place of the old ones, which stay in the history."""
    current, history = own / "fold_0" / FINAL, own / HISTORY
    history.mkdir(exist_ok=True)
    kept = [int(file.stem) for file in history.glob("*.pth") if file.stem.isdecimal()]  # some may have been deleted
    copy_file(current, history / f"{max(kept, default=-1) + 1:04d}.pth", durable=True)
    copy_file(made, current, durable=True)


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One round at a time. The system releases the lock when the process ends, even after a crash.

    Raises:
        UserError: another process has it.
    """
    with file.open("w") as handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows: without a lock
            pass
        except BlockingIOError as error:
            raise UserError(f"{file.parent}: this model is learning already, in another process") from error
        yield
