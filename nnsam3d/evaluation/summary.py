"""From the files of single cases to `results.json` (without times) and the summary.

Results are pooled over the folds of a dataset and configuration: each case was a validation case of its fold's
model or, with a test folder, of all models; then folds are averaged like seeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.evaluation.figures import Pairs
from nnsam3d.evaluation.metrics import AUC_CLICKS, TARGETS, area_under_curve, clicks_to_reach
from nnsam3d.evaluation.names import PROTOCOLS
from nnsam3d.evaluation.plan import Job, Setting, remembered_cases
from nnsam3d.evaluation.provenance import ENVIRONMENT_FILE, commands, how_to_continue
from nnsam3d.evaluation.results import NetworkRuns, Result
from nnsam3d.evaluation.rows import (
    METRICS,
    ArmCost,
    CostRow,
    CurveRow,
    DifferenceRow,
    Effort,
    End,
    Reach,
    RefusedRow,
    ScoreRow,
    Summary,
    TrainingRow,
)
from nnsam3d.evaluation.statistics import difference, estimate, holm, per_patient
from nnsam3d.files import write_json
from nnsam3d.keys import known

TESTED = ("dice", "nsd_5mm", "hd95")  # paired, fixed in advance and few, because correction reduces their power
OBEYED_AT = (1, 5, 10)  # clicks
END = 10  # clicks at the end of a sequence
GOOD = (0.85, 0.9)  # Dice at the end of a good sequence
ALL_LABELS = "mean over labels"


def collect(setting: Setting, output: Path) -> list[Result]:
    """All results in the order of jobs, cases and seeds.

    Raises:
        UserError: results are missing.
    """
    results, missing = [], 0
    for job, cases in remembered_cases(setting, output).items():
        for case in cases:
            for seed in setting.seeds:
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


# ---------------------------------------------------------------------- one arm


@dataclass(frozen=True)
class Group:
    """All results of one arm and protocol on a dataset and configuration; trainings are averaged as seeds are."""

    dataset: str
    configuration: str
    protocol: str
    arm: str
    results: tuple[Result, ...]
    max_clicks: int

    @property
    def refused(self) -> str:
        """Why the arm does not take part in the protocol; "" if it does."""
        return next((result.refused for result in self.results if result.refused), "")

    @property
    def labels(self) -> list[str]:
        names = list(self.results[0].steps[0].scores)
        return names if len(names) == 1 else [ALL_LABELS, *names]

    @property
    def reads(self) -> list[int]:
        """The numbers of clicks that are reported."""
        if all(len(result.steps) == 1 for result in self.results):
            return [0]
        if not PROTOCOLS[self.protocol].corrected:
            return [0, 1]  # one per label
        return list(range(self.max_clicks + 1))

    @property
    def tested(self) -> list[int]:
        """The numbers of clicks with a paired test; the last one if none of the chosen ones exists."""
        chosen = PROTOCOLS[self.protocol].tested
        return [n for n in self.reads if n in chosen] or self.reads[-1:]

    def patients(self, value: Callable[[Result], float | None]) -> dict[str, float]:
        """Patient -> mean of ``value(result)`` over seeds, and over folds for test cases of all folds."""
        return per_patient({_key(result): value(result) for result in self.results})

    def score(self, metric: str, label: str, clicks: int) -> dict[str, float]:
        return self.patients(lambda result: score_of(result, metric, label, clicks))

    @property
    def trainings(self) -> dict[int, Group]:
        """Of several trainings of the arm each for itself, by its seed."""
        seeds = sorted({one.job.training for one in self.results if one.job.training is not None})
        own = {seed: tuple(one for one in self.results if one.job.training == seed) for seed in seeds}
        return {seed: replace(self, results=results) for seed, results in own.items()}

    def obeyed(self, clicks: int) -> dict[str, float]:
        """Share of all clicks so far that the network obeyed by itself; empty if a result does not contain it.

        Results of earlier versions do not contain it, and a mean over the others would be over different patients.
        """
        if not all(step.obedience_known for result in self.results for step in result.steps):
            return {}
        return self.patients(lambda result: result.step(clicks).obeyed)

    def auc(self, metric: str, label: str) -> dict[str, float]:
        if self.max_clicks < max(AUC_CLICKS):
            return {}

        def value(result: Result) -> float | None:
            return area_under_curve({n: score_of(result, metric, label, n) for n in AUC_CLICKS})

        return self.patients(value)

    def clicks_to(self, target: float, label: str) -> tuple[dict[str, float], float]:
        """Patient -> clicks needed (the largest number if the target is never reached); share that reached it."""
        found = {}
        for result in self.results:
            dice = {n: score_of(result, "dice", label, n) for n in self.reads}
            if any(value is not None for value in dice.values()):
                found[_key(result)] = clicks_to_reach(dice, target)
        reached = float(np.mean([value is not None for value in found.values()])) if found else 0.0
        return per_patient({key: self.max_clicks if value is None else value for key, value in found.items()}), reached

    def end(self, label: str) -> End:
        """At the end: median Dice over patients, and the share of good sequences."""
        clicks = min(END, self.max_clicks)
        found = [score_of(result, "dice", label, clicks) for result in self.results]
        known = [dice for dice in found if dice is not None]
        patients = list(self.score("dice", label, clicks).values())
        median = float(np.median(patients)) if patients else None
        return End(clicks, len(known), median, {good: mean_of(dice >= good for dice in known) for good in GOOD})


def _key(result: Result) -> tuple[str, tuple[str, int, int | None]]:
    return result.case, (result.job.fold, result.seed, result.job.training)


def score_of(result: Result, metric: str, label: str, clicks: int) -> float | None:
    """A score after a number of clicks; if there was no error left, that of the last click.

    For protocols without corrections, 1 means one click per label.
    """
    scores = result.step(clicks).scores
    values = [scores[name][metric] for name in (list(scores) if label == ALL_LABELS else [label])]
    return mean_of(values)


def groups(setting: Setting, results: Sequence[Result]) -> Iterator[Group]:
    """All groups in the order of the report, also those of arms that do not take part in a protocol."""
    for dataset in setting.datasets:
        for configuration in setting.configurations:
            for protocol in setting.protocols:
                for arm in setting.arms:
                    wanted = (dataset, configuration, protocol, arm)
                    own = tuple(one for one in results if tuple(getattr(one.job, key) for key in _KEYS) == wanted)
                    yield Group(*wanted, own, PROTOCOLS[protocol].limit(setting.max_clicks))


_KEYS = ("dataset", "configuration", "protocol", "arm")

# ---------------------------------------------------------------------- everything


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
    environment = output / ENVIRONMENT_FILE
    return Summary(
        setting=setting,
        reference=reference,
        cases={name: len({one.case for one in results if one.job.dataset == name}) for name in setting.datasets},
        scores=[row for group in found for row in _rows(group)],
        curves=[row for group in found if PROTOCOLS[group.protocol].corrected for row in _curve_rows(group)],
        differences=list(_differences(found, reference)),
        refused=[RefusedRow(*_place(group, ""), group.refused) for group in every if group.refused],
        trainings=[row for group in found for row in training_rows(group)],
        costs=_costs(setting, output, results),
        checkpoints=sorted({(o.job.arm, o.job.dataset, o.job.fold, o.checkpoint_sha256) for o in results}),
        truths=sorted({(one.job.dataset, one.case, one.truth_sha256) for one in results}),
        environment=json.loads(environment.read_text(encoding="utf-8")) if environment.is_file() else {},
        commands=commands(output),
    )


def _place(group: Group, label: str) -> tuple[str, str, str, str, str]:
    return group.dataset, group.configuration, group.protocol, group.arm, label


def _rows(group: Group) -> Iterator[ScoreRow]:
    obedience = {clicks: estimate(group.obeyed(clicks)) for clicks in group.reads}
    for label in group.labels:
        for clicks in group.reads:
            scores = {metric: estimate(group.score(metric, label, clicks)) for metric in METRICS}
            yield ScoreRow(*_place(group, label), clicks, scores, obedience[clicks])


def training_rows(group: Group) -> Iterator[TrainingRow]:
    """The variation of Dice between trainings with different seeds, and between patients."""
    trainings = group.trainings
    for label in group.labels if len(trainings) > 1 else ():
        for clicks in group.reads:
            means = {str(n): mean_of(one.score("dice", label, clicks).values()) for n, one in trainings.items()}
            patients = list(group.score("dice", label, clicks).values())
            known = [mean for mean in means.values() if mean is not None]
            yield TrainingRow(*_place(group, label), clicks, means, _deviation(known), _deviation(patients))


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _curve_rows(group: Group) -> Iterator[CurveRow]:
    """Summary over clicks: obedience, end of sequences, areas under the curve and clicks to a target.

    Arms without clicks have a flat curve and no obedience.
    """
    steps = [clicks for clicks in OBEYED_AT if clicks <= group.max_clicks]
    obedience = {str(clicks): estimate(group.obeyed(clicks)) for clicks in steps}
    for label in group.labels:
        dice, nsd_2mm = (estimate(group.auc(metric, label)) for metric in ("dice", "nsd_2mm"))
        reached = {target: group.clicks_to(target, label) for target in TARGETS}
        clicks_to = {n: Reach(**asdict(estimate(clicks)), reached=share) for n, (clicks, share) in reached.items()}
        yield CurveRow(*_place(group, label), obedience, group.end(label), dice, nsd_2mm, clicks_to)


def _differences(found: Sequence[Group], reference: str) -> Iterator[DifferenceRow]:
    """Reference minus arm at equal clicks; corrected over all comparisons of a protocol, label and metric."""
    for base in (group for group in found if group.arm == reference):
        others = [g for g in found if g.arm != reference and _same_task(g, base)]
        for label in base.labels:
            for metric in TESTED:
                pairs = [(other, clicks) for other in others for clicks in base.tested]
                scores = [(base.score(metric, label, n), other.score(metric, label, n)) for other, n in pairs]
                made = [difference(*both) for both in scores]
                corrected = holm([one.p for one in made])
                for (other, clicks), both, one, p in zip(pairs, scores, made, corrected, strict=True):
                    better = _wins(*both, metric)
                    numbers = {**asdict(one.estimate), "better": better, "p": one.p, "p_corrected": p}
                    yield DifferenceRow(*_place(other, label), metric, clicks, **numbers)


def _wins(ours: dict[str, float], theirs: dict[str, float], metric: str) -> int:
    """The number of patients in which the reference is strictly better."""
    sign = -1 if metric == "hd95" else 1
    return sum(sign * (ours[name] - theirs[name]) > 0 for name in set(ours) & set(theirs))


def _same_task(first: Group, second: Group) -> bool:
    return all(getattr(first, key) == getattr(second, key) for key in _KEYS[:3])


def paired_values(found: Sequence[Group], reference: str, clicks: int) -> list[Pairs]:
    """Dice per patient after a number of clicks, for all arms but the reference, for one protocol."""
    base = next((group for group in found if group.arm == reference), None)
    if base is None:
        return []
    label = base.labels[0]
    return [
        Pairs(other.arm, other.score("dice", label, clicks), base.score("dice", label, clicks))
        for other in found
        if other.arm != reference
    ]


# ---------------------------------------------------------------------- cost


def _costs(setting: Setting, output: Path, results: Sequence[Result]) -> list[CostRow]:
    """Per arm, dataset, configuration, fold, training: its model's cost, and times of uninterrupted cases."""
    rows = []
    seen: dict[Job, Job] = {}  # without protocol -> the first one with it
    for job in setting.jobs():
        seen.setdefault(replace(job, protocol=""), job)
    for place, job in seen.items():
        stored = json.loads(job.cost_file(output).read_text(encoding="utf-8"))
        cost = ArmCost(**{key: stored[key] for key in known(ArmCost) if key in stored})
        own = [one for one in results if replace(one.job, protocol="") == place and one.timing.first]
        where = (place.dataset, place.configuration, place.fold, place.arm, place.training)
        rows.append(CostRow(*where, cost, _effort(own, cost), stored.get("checkpoint_sha256", "")))
    return rows


def _effort(results: Sequence[Result], cost: ArmCost) -> Effort:
    """If the network answers every click, the first answer is that to the first prompt: a click, where the protocol
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
    return Effort(
        mean_of(seconds for seconds, _ in begin),
        mean_of(seconds for seconds, _ in further),
        mean_of(gflop for _, gflop in begin),
        mean_of(gflop for _, gflop in further),
        max((one.timing.peak_memory_mb for one in results if one.timing.peak_memory_mb is not None), default=None),
    )


def _gflop(runs: NetworkRuns, cost: ArmCost) -> float:
    """GFLOP of processed windows; the first half of SAM3D costs the difference between a window and its second half."""
    first_half = cost.window_gflop - cost.click_gflop
    return runs.whole * cost.window_gflop + runs.encoded * first_half + runs.decoded * cost.click_gflop


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the known values; None if there is none."""
    known_values = [float(value) for value in values if value is not None]
    return float(np.mean(known_values)) if known_values else None
