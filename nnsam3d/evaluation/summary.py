"""From the files of single cases to `results.json` (without times) and the summary.

Results are pooled over the folds of a dataset and configuration: each case was a validation case of its fold's
model or, with a test folder, of all models; then folds are averaged like seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from nnsam3d.errors import UserError
from nnsam3d.evaluation.metrics import METRICS, TARGETS, area_under_curve, clicks_to_reach
from nnsam3d.evaluation.names import PROTOCOLS
from nnsam3d.evaluation.plan import Setting, remembered_cases
from nnsam3d.evaluation.provenance import ENVIRONMENT_FILE, commands, how_to_continue
from nnsam3d.evaluation.results import ArmCost, NetworkRuns, Result
from nnsam3d.evaluation.statistics import Estimate, estimate, holm, sign_flip_test
from nnsam3d.files import write_json
from nnsam3d.keys import known

TESTED = ("dice", "nsd_5mm", "hd95")  # paired, fixed in advance and few, because correction reduces their power
OBEYED_AT = (1, 5, 10)  # clicks
END = 10  # clicks at the end of a sequence
GOOD = (0.85, 0.9)  # Dice at the end of a good sequence
ALL_LABELS = "mean over labels"
TASK = ["dataset", "configuration", "protocol"]
PLACE = [*TASK, "arm"]
VALUES = [*METRICS, "obeyed"]
ROWS = ("scores", "curves", "differences", "refused", "trainings", "costs")

ReportRow: TypeAlias = dict[str, Any]
"""As in `report.json`; begins with PLACE and the label."""


def collect(setting: Setting, output: Path) -> list[Result]:
    """All results in the order of jobs, cases and seeds.

    Raises:
        UserError: results are missing.
    """
    results, missing = [], 0
    for job, cases in remembered_cases(setting, output).items():
        for case, seed in product(cases, setting.seeds):
            path = job.unit_file(output, case, seed)
            if path.is_file():
                results.append(Result.read(job, path))
            else:
                missing += 1
    if missing:
        raise UserError(f"{output}: {missing} results are missing. To continue:\n{how_to_continue(output)}")
    return results


def write_results(setting: Setting, output: Path, results: Sequence[Result]) -> None:
    """Write `results.json`, identical whether or not the run was interrupted: without times."""
    units = [{**result.job.as_dict(), **result.as_dict(timing=False)} for result in results]
    write_json(output / "results.json", {"setting": asdict(setting), "units": units})


# ---------------------------------------------------------------------- results as a table


@dataclass(frozen=True)
class Group:
    """All results of one arm and protocol on a dataset and configuration."""

    dataset: str
    configuration: str
    protocol: str
    arm: str
    results: tuple[Result, ...]
    max_clicks: int

    @property
    def place(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in PLACE}

    @property
    def refused(self) -> str:
        """Why the arm does not take part in the protocol; "" if it does."""
        return next((result.refused for result in self.results if result.refused), "")

    @property
    def labels(self) -> list[str]:
        names = list(self.results[0].steps[0].scores)
        return names if len(names) == 1 else [ALL_LABELS, *names]

    @property
    def answers_once(self) -> bool:
        """Whether no clicks have followed, as in arms that do not use them."""
        return all(len(result.steps) == 1 for result in self.results)


def groups(setting: Setting, results: Sequence[Result]) -> Iterator[Group]:
    """All groups in the order of the report, also those of arms that do not take part in a protocol."""
    for place in product(setting.datasets, setting.configurations, setting.protocols, setting.arms):
        own = [one for one in results if tuple(getattr(one.job, name) for name in PLACE) == place]
        limit = PROTOCOLS[place[2]].limit(setting.max_clicks)
        yield Group(*place, tuple(own), limit)


def score_of(result: Result, metric: str, label: str, clicks: int) -> float | None:
    """A score after a number of clicks; if there was no error left, that of the last click.

    For protocols without corrections, 1 means one click per label.
    """
    scores = result.step(clicks).scores
    return mean_of(scores[name][metric] for name in (scores if label == ALL_LABELS else [label]))


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the known values; None if there is none."""
    known_values = [float(value) for value in values if value is not None]
    return float(np.mean(known_values)) if known_values else None


def tabulate(found: Iterable[Group]) -> pd.DataFrame:
    """A row for every sequence of clicks, label and number of clicks; NaN: undefined.

    A sequence that ended early keeps its last answer. ``repeated``: this is the only answer of an arm without clicks.
    ``obeyed``: the share of all clicks so far that the network obeyed by itself; undefined in a group if a result, of
    an earlier version, does not contain it, because a mean over the others would be over different patients.
    """
    rows = []
    for group in found:
        once = group.answers_once
        is_obedience_known = all(step.obedience_known for result in group.results for step in result.steps)
        corrected = PROTOCOLS[group.protocol].corrected
        numbers = range(group.max_clicks + 1) if corrected else (0, 1)  # one click per label
        for number, result in enumerate(group.results):
            for label, clicks in product(group.labels, numbers):
                row = {"label": label, "clicks": clicks, "repeated": once and clicks > 0, "case": result.case}
                row |= {"sequence": number, "training": result.job.training}
                row |= {metric: score_of(result, metric, label, clicks) for metric in METRICS}
                rows.append(group.place | row | {"obeyed": result.step(clicks).obeyed if is_obedience_known else None})
    columns = [*PLACE, "label", "clicks", "repeated", "case", "sequence", "training", *VALUES]
    return pd.DataFrame(rows, columns=columns).astype({"repeated": bool} | dict.fromkeys(VALUES, float))


def per_patient(answers: pd.DataFrame) -> pd.DataFrame:
    """Means of each patient over click seeds and trainings (and over folds for test cases of all folds)."""
    same = answers.groupby([*PLACE, "label", "clicks", "repeated"], sort=False)[["case", *VALUES]]
    return same.apply(lambda own: own.groupby("case").mean()).reset_index()


# ---------------------------------------------------------------------- everything


@dataclass(frozen=True)
class Summary:
    """The content of the report.

    Attributes:
        reference: the arm with which all others are compared.
        cases: their number in each dataset.
        scores: an :class:`Estimate` of every metric and of obedience, by number of clicks.
        curves: over the clicks: obedience, the end of the sequences, areas under the curve and clicks to a target.
        differences: reference minus arm, of patients with both.
        refused: arms that take no part in a protocol, and why.
        trainings: the spread of Dice, for arms that were trained several times.
        costs: of every training.
        checkpoints: (arm, dataset, fold, SHA-256). truths: (dataset, case, SHA-256).
        environment: versions and machine. commands: that made the results.
        groups: of arms that take part in a protocol. patients: from :func:`per_patient`.
    """

    setting: Setting
    reference: str
    cases: dict[str, int]
    scores: list[ReportRow]
    curves: list[ReportRow]
    differences: list[ReportRow]
    refused: list[ReportRow]
    trainings: list[ReportRow]
    costs: list[ReportRow]
    checkpoints: list[tuple[str, str, str, str]]
    truths: list[tuple[str, str, str]]
    environment: dict[str, str]
    commands: list[str]
    groups: list[Group]
    patients: pd.DataFrame

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: all but the groups and patients."""
        told = [one.name for one in fields(self) if one.name not in ("groups", "patients")]
        return {name: getattr(self, name) for name in told} | {"setting": asdict(self.setting)}

    def at(self, **place: str) -> Summary:
        """Only what belongs to this dataset, configuration, protocol or label; a cost has no protocol and no label."""

        def is_here(row: ReportRow) -> bool:
            return all(row.get(name, value) == value for name, value in place.items())

        kept: dict[str, Any] = {name: [row for row in getattr(self, name) if is_here(row)] for name in ROWS}
        kept["groups"] = [group for group in self.groups if is_here(group.place)]
        kept["patients"] = self.patients[(self.patients[list(place)] == pd.Series(place)).all(axis=1)]
        return replace(self, **kept)


def summarise(setting: Setting, output: Path, results: Sequence[Result], reference: str) -> Summary:
    """The content of the report.

    Args:
        output: of the run.
        results: from :func:`collect`.
        reference: the arm with which all others are compared.

    Raises:
        UserError: the reference is not an arm.
    """
    if reference not in setting.arms:
        raise UserError(f"--reference {reference}: no arm of this benchmark, which has {', '.join(setting.arms)}")
    every = list(groups(setting, results))
    found = [group for group in every if not group.refused]
    answers = tabulate(found)
    patients = per_patient(answers)
    scores = patients[~patients.repeated].groupby([*PLACE, "label", "clicks"], sort=False)[VALUES].agg(estimate)
    environment = output / ENVIRONMENT_FILE
    return Summary(
        setting=setting,
        reference=reference,
        cases={name: len({one.case for one in results if one.job.dataset == name}) for name in setting.datasets},
        scores=scores.reset_index().to_dict("records"),
        curves=list(curve_rows(answers)),
        differences=list(difference_rows(patients, reference)),
        refused=[{**one.place, "label": "", "reason": one.refused} for one in every if one.refused],
        trainings=list(training_rows(answers)),
        costs=list(_costs(setting, output, results)),
        checkpoints=sorted({(o.job.arm, o.job.dataset, o.job.fold, o.checkpoint_sha256) for o in results}),
        truths=sorted({(one.job.dataset, one.case, one.truth_sha256) for one in results}),
        environment=json.loads(environment.read_text(encoding="utf-8")) if environment.is_file() else {},
        commands=commands(output),
        groups=found,
        patients=patients,
    )


def curve_rows(answers: pd.DataFrame) -> Iterator[ReportRow]:
    """Over the clicks, for protocols with corrections. Arms without clicks have a flat curve and no obedience."""
    for place, own in answers.groupby([*PLACE, "label"], sort=False):
        if not PROTOCOLS[own.protocol.iloc[0]].corrected:
            continue
        curves = own.pivot(index=["sequence", "case"], columns="clicks", values=["dice", "nsd_2mm", "obeyed"])
        dice, most = curves["dice"], int(own.clicks.max())
        last = dice[min(END, most)].dropna()
        yield {
            **dict(zip([*PLACE, "label"], place, strict=True)),
            "obeyed": {str(n): _over_patients(curves["obeyed"][n]) for n in OBEYED_AT if n <= most},
            "end": {
                "clicks": min(END, most),
                "sequences": len(last),
                "median_dice": float(last.groupby("case").mean().median()) if len(last) else None,
                **{f"dice_{good:g}": mean_of(last >= good) for good in GOOD},
            },
            **{f"{name}_auc": _over_patients(area_under_curve(curves[name])) for name in ("dice", "nsd_2mm")},
            **{f"clicks_to_{target:g}": _clicks_to(target, dice, most) for target in TARGETS},
        }


def _over_patients(sequences: pd.Series) -> Estimate:
    return estimate(sequences.groupby("case").mean())


def _clicks_to(target: float, dice: pd.DataFrame, most: int) -> ReportRow:
    """Clicks to a Dice, ``most`` in sequences that never reach it, and the share of those that do."""
    needed = clicks_to_reach(dice.dropna(how="all"), target)
    return {**_over_patients(needed.fillna(most)), "reached": float(needed.notna().mean()) if len(needed) else 0.0}


def difference_rows(patients: pd.DataFrame, reference: str) -> Iterator[ReportRow]:
    """Reference minus arm at equal clicks; corrected over all comparisons of a protocol, label and metric.

    ``better``: the number of patients in which the reference is strictly better.
    """
    for place, own in patients.groupby([*TASK, "label"], sort=False):
        reported = own[(own.arm == reference) & ~own.repeated].clicks.unique().tolist()
        chosen = PROTOCOLS[own.protocol.iloc[0]].tested
        tested = [clicks for clicks in reported if clicks in chosen] or reported[-1:]
        pairs = list(product((arm for arm in own.arm.unique() if arm != reference), tested))
        for metric in TESTED:
            values = own.pivot(index="case", columns=["arm", "clicks"], values=metric)
            paired = [(values[reference, clicks] - values[arm, clicks]).dropna() for arm, clicks in pairs]
            p_values = [sign_flip_test(one.to_numpy()) for one in paired]
            for (arm, clicks), one, p, corrected in zip(pairs, paired, p_values, holm(p_values), strict=True):
                better = int((one < 0 if metric == "hd95" else one > 0).sum())
                row = {**dict(zip(TASK, place, strict=False)), "arm": arm, "label": place[-1], "metric": metric}
                yield {**row, "clicks": clicks, **estimate(one), "better": better, "p": p, "p_corrected": corrected}


def training_rows(answers: pd.DataFrame) -> Iterator[ReportRow]:
    """Mean Dice of each of several trainings, by its seed, and the standard deviations of trainings and patients."""
    trained = answers[~answers.repeated & answers.training.notna()]
    for place, own in trained.groupby([*PLACE, "label", "clicks"], sort=False):
        means = {str(seed): mean_of(_known(one)) for seed, one in own.groupby("training")}
        if len(means) > 1:
            row = {**dict(zip([*PLACE, "label"], place, strict=False)), "clicks": int(place[-1]), "means": means}
            between = _deviation([mean for mean in means.values() if mean is not None])
            yield {**row, "between_trainings": between, "between_patients": _deviation(_known(own))}


def _known(answers: pd.DataFrame) -> list[float]:
    """The mean Dice of every patient that has one."""
    return answers.groupby("case").dice.mean().dropna().tolist()


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


# ---------------------------------------------------------------------- cost


def _costs(setting: Setting, output: Path, results: Sequence[Result]) -> Iterator[ReportRow]:
    """Per arm, dataset, configuration, fold, training: its model's cost, and times of uninterrupted cases."""
    protocol = setting.protocols[0]
    for model in (job for job in setting.jobs() if job.protocol == protocol):
        stored = json.loads(model.cost_file(output).read_text(encoding="utf-8"))
        cost = ArmCost(**{key: stored[key] for key in known(ArmCost) if key in stored})
        own = [one for one in results if one.timing.first and replace(one.job, protocol=protocol) == model]
        place = {name: value for name, value in model.as_dict().items() if name != "protocol"}
        yield place | asdict(cost) | {"checkpoint_sha256": stored.get("checkpoint_sha256", "")} | _effort(own, cost)


def _effort(results: Sequence[Result], cost: ArmCost) -> ReportRow:
    """Means over cases: seconds and GFLOP from a read image to its first answer, and per further click.

    If the network answers every click, the first answer is that to the first prompt: a click, where the protocol
    begins with clicks. Otherwise, it is the automatic one, and a click costs almost nothing.
    """
    asked = cost.kind in ("sam", "clicks")
    begin, further = [], []  # of the answers: seconds and GFLOP
    for result in results:
        first = 1 if asked and not PROTOCOLS[result.job.protocol].extent else 0
        answers = list(zip(result.timing.steps, (_gflop(runs, cost) for runs in result.timing.work), strict=True))
        seconds, gflop = answers[min(first, len(answers) - 1)]
        begin.append((result.timing.prepare + seconds, gflop))
        further += answers[first + 1 :]
    memory = [one.timing.peak_memory_mb for one in results if one.timing.peak_memory_mb is not None]
    return {
        "seconds_per_case": mean_of(seconds for seconds, _ in begin),
        "seconds_per_further_click": mean_of(seconds for seconds, _ in further),
        "gflop_per_case": mean_of(gflop for _, gflop in begin),
        "gflop_per_further_click": mean_of(gflop for _, gflop in further),
        "peak_memory_mb": max(memory, default=None),
    }


def _gflop(runs: NetworkRuns, cost: ArmCost) -> float:
    """GFLOP of processed windows; the first half of SAM3D costs the difference between a window and its second half."""
    first_half = cost.window_gflop - cost.click_gflop
    return runs.whole * cost.window_gflop + runs.encoded * first_half + runs.decoded * cost.click_gflop
