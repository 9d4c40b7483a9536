"""From the files of single cases to `results.json` (without times) and the summary.

Results are pooled over the folds of a dataset and configuration: each case was a validation case of its fold's
model or, with a test folder, of all models; then folds are averaged like seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.evaluation.figures import Pairs
from nnsam3d.evaluation.metrics import AUC_CLICKS, TARGETS, area_under_curve, clicks_to_reach
from nnsam3d.evaluation.names import PROTOCOLS
from nnsam3d.evaluation.plan import Job, Setting, Unit, remembered_cases
from nnsam3d.evaluation.provenance import how_to_continue
from nnsam3d.evaluation.statistics import difference, estimate, holm, per_patient
from nnsam3d.files import write_json

METRICS = ("dice", "nsd_5mm", "nsd_2mm", "hd95", "volume_error", "detected")
TESTED = ("dice", "nsd_5mm", "hd95")  # paired, fixed in advance and few, because correction reduces their power
OBEYED_AT = (1, 5, 10)  # clicks
END = 10  # clicks at the end of a sequence
GOOD = (0.85, 0.9)  # Dice at the end of a good sequence
ALL_LABELS = "mean over labels"


def collect(setting: Setting, output: Path) -> tuple[list[Unit], list[Unit]]:
    """All units in the order of jobs, cases and seeds: results without times, and the times.

    Raises:
        UserError: results are missing.
    """
    results, times, missing = [], [], 0
    for job, cases in remembered_cases(setting, output).items():
        for case in cases:
            for seed in setting.seeds:
                path = job.unit_file(output, case, seed)
                if not path.is_file():
                    missing += 1
                    continue
                unit = json.loads(path.read_text(encoding="utf-8"))
                times.append({**job.as_dict(), "case": case, "seed": seed, **unit.pop("timing")})
                results.append({**job.as_dict(), **unit})
    if missing:
        raise UserError(f"{output}: {missing} results are missing. To continue:\n{how_to_continue(output)}")
    return results, times


def write_results(setting: Setting, output: Path) -> None:
    """Write `results.json`, identical whether or not the run was interrupted."""
    results, _ = collect(setting, output)
    write_json(output / "results.json", {"setting": asdict(setting), "units": results})


# ---------------------------------------------------------------------- one arm


@dataclass(frozen=True)
class Group:
    """All units of one arm and protocol on a dataset and configuration; several trainings are averaged as seeds are."""

    dataset: str
    configuration: str
    protocol: str
    arm: str
    units: tuple[Unit, ...]
    max_clicks: int

    @property
    def refused(self) -> str:
        """Why the arm does not take part in the protocol; "" if it does."""
        return next((str(unit["refused"]) for unit in self.units if "refused" in unit), "")

    @property
    def labels(self) -> list[str]:
        names = list(self.units[0]["steps"][0]["scores"])
        return names if len(names) == 1 else [ALL_LABELS, *names]

    @property
    def reads(self) -> list[int]:
        """The numbers of clicks that are reported."""
        if all(len(unit["steps"]) == 1 for unit in self.units):
            return [0]
        if not PROTOCOLS[self.protocol].corrected:
            return [0, 1]  # one per label
        return list(range(self.max_clicks + 1))

    @property
    def tested(self) -> list[int]:
        """The numbers of clicks with a paired test; the last one if none of the chosen ones exists."""
        chosen = PROTOCOLS[self.protocol].tested
        return [n for n in self.reads if n in chosen] or self.reads[-1:]

    def patients(self, value: Any) -> dict[str, float]:
        """Patient -> mean of ``value(unit)`` over seeds, and over folds for test cases of all folds."""
        return per_patient({_unit_key(unit): value(unit) for unit in self.units})

    def score(self, metric: str, label: str, clicks: int) -> dict[str, float]:
        return self.patients(lambda unit: unit_score(unit, metric, label, clicks))

    @property
    def trainings(self) -> dict[int, Group]:
        """Of several trainings of the arm each for itself, by its seed."""
        seeds = sorted({unit["training"] for unit in self.units if "training" in unit})
        own = {seed: tuple(unit for unit in self.units if unit["training"] == seed) for seed in seeds}
        return {seed: replace(self, units=units) for seed, units in own.items()}

    def obeyed(self, clicks: int) -> dict[str, float]:
        """Share of all clicks so far that the network obeyed by itself; empty if a unit does not contain it.

        Units of earlier versions do not contain it, and a mean over the others would be over different patients.
        """
        if any("obeyed" not in step for unit in self.units for step in unit["steps"]):
            return {}
        return self.patients(lambda unit: _step(unit, clicks)["obeyed"])

    def auc(self, metric: str, label: str) -> dict[str, float]:
        if self.max_clicks < max(AUC_CLICKS):
            return {}

        def value(unit: Unit) -> float | None:
            return area_under_curve({n: unit_score(unit, metric, label, n) for n in AUC_CLICKS})

        return self.patients(value)

    def clicks_to(self, target: float, label: str) -> tuple[dict[str, float], float]:
        """Patient -> clicks needed (the largest number if the target is never reached); share that reached it."""
        found = {}
        for unit in self.units:
            dice = {n: unit_score(unit, "dice", label, n) for n in self.reads}
            if any(value is not None for value in dice.values()):
                found[_unit_key(unit)] = clicks_to_reach(dice, target)
        reached = float(np.mean([value is not None for value in found.values()])) if found else 0.0
        return per_patient({key: self.max_clicks if value is None else value for key, value in found.items()}), reached

    def end(self, label: str) -> dict[str, Any]:
        """At the end: median Dice over patients, and the share of good sequences."""
        clicks = min(END, self.max_clicks)
        found = [unit_score(unit, "dice", label, clicks) for unit in self.units]
        known = [dice for dice in found if dice is not None]
        patients = list(self.score("dice", label, clicks).values())
        return {
            "clicks": clicks,
            "sequences": len(known),
            "median_dice": float(np.median(patients)) if patients else None,
            **{f"dice_{good:g}": _mean([float(dice >= good) for dice in known]) for good in GOOD},
        }


def _unit_key(unit: Unit) -> tuple[str, tuple[str, int, int | None]]:
    return unit["case"], (unit["fold"], unit["seed"], unit.get("training"))


def unit_score(unit: Unit, metric: str, label: str, clicks: int) -> float | None:
    """A score after a number of clicks; if there was no error left, that of the last click.

    For protocols without corrections, 1 means one click per label.
    """
    step = _step(unit, clicks)
    names = list(step["scores"]) if label == ALL_LABELS else [label]
    values = [step["scores"][name][metric] for name in names]
    return _mean([float(value) for value in values if value is not None])


def _step(unit: Unit, clicks: int) -> Unit:
    """With corrections, step n has n clicks; without, step 1 has all."""
    steps = unit["steps"]
    return steps[min(clicks, len(steps) - 1)]  # type: ignore[no-any-return]


def groups(setting: Setting, results: list[Unit]) -> Iterator[Group]:
    """All groups in the order of the report, also those of arms that do not take part in a protocol."""
    for dataset in setting.datasets:
        for configuration in setting.configurations:
            for protocol in setting.protocols:
                for arm in setting.arms:
                    wanted = (dataset, configuration, protocol, arm)
                    units = tuple(u for u in results if tuple(u[key] for key in _KEYS) == wanted)
                    yield Group(*wanted, units, PROTOCOLS[protocol].limit(setting.max_clicks))


_KEYS = ("dataset", "configuration", "protocol", "arm")

# ---------------------------------------------------------------------- everything


def summarise(setting: Setting, output: Path, reference: str) -> dict[str, Any]:
    """The content of the report.

    Args:
        reference: the arm with which all others are compared.

    Raises:
        UserError: results are missing, or the reference is not an arm.
    """
    if reference not in setting.arms:
        raise UserError(f"--reference {reference}: no arm of this benchmark, which has {', '.join(setting.arms)}")
    results, times = collect(setting, output)
    every = list(groups(setting, results))
    found = [group for group in every if not group.refused]
    return {
        "setting": asdict(setting),
        "reference": reference,
        "cases": {name: len({u["case"] for u in results if u["dataset"] == name}) for name in setting.datasets},
        "scores": [row for group in found for row in _rows(group)],
        "curves": [row for group in found if PROTOCOLS[group.protocol].corrected for row in _curve_rows(group)],
        "differences": list(_differences(found, reference)),
        "refused": [_place(group, "") | {"reason": group.refused} for group in every if group.refused],
        "trainings": [row for group in found for row in _training_rows(group)],
        "costs": _costs(setting, output, times),
        "checkpoints": sorted({(u["arm"], u["dataset"], u["fold"], u["checkpoint_sha256"]) for u in results}),
        "truths": sorted({(u["dataset"], u["case"], u["truth_sha256"]) for u in results}),
    }


def _place(group: Group, label: str) -> dict[str, Any]:
    return {key: getattr(group, key) for key in _KEYS} | {"label": label}


def _rows(group: Group) -> Iterator[dict[str, Any]]:
    obedience = {clicks: asdict(estimate(group.obeyed(clicks))) for clicks in group.reads}
    for label in group.labels:
        for clicks in group.reads:
            scores = {metric: asdict(estimate(group.score(metric, label, clicks))) for metric in METRICS}
            yield _place(group, label) | {"clicks": clicks, **scores, "obeyed": obedience[clicks]}


def _training_rows(group: Group) -> Iterator[dict[str, Any]]:
    """The variation of Dice between trainings with different seeds, and between patients."""
    trainings = group.trainings
    for label in group.labels if len(trainings) > 1 else ():
        for clicks in group.reads:
            means = {seed: _mean(list(one.score("dice", label, clicks).values())) for seed, one in trainings.items()}
            patients = list(group.score("dice", label, clicks).values())
            known = [mean for mean in means.values() if mean is not None]
            spreads = {"between_trainings": _deviation(known), "between_patients": _deviation(patients)}
            yield _place(group, label) | {"clicks": clicks, "means": {str(k): v for k, v in means.items()}, **spreads}


def _deviation(values: list[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _curve_rows(group: Group) -> Iterator[dict[str, Any]]:
    """Summary over clicks: obedience, end of sequences, areas under the curve and clicks to a target.

    Arms without clicks have a flat curve and no obedience.
    """
    steps = [clicks for clicks in OBEYED_AT if clicks <= group.max_clicks]
    obedience = {str(clicks): asdict(estimate(group.obeyed(clicks))) for clicks in steps}
    for label in group.labels:
        row = _place(group, label) | {"obeyed": obedience, "end": group.end(label)}
        for metric in ("dice", "nsd_2mm"):
            row[f"{metric}_auc"] = asdict(estimate(group.auc(metric, label)))
        for target in TARGETS:
            clicks, reached = group.clicks_to(target, label)
            row[f"clicks_to_{target:g}"] = asdict(estimate(clicks)) | {"reached": reached}
        yield row


def _differences(found: Iterable[Group], reference: str) -> Iterator[dict[str, Any]]:
    """Reference minus arm at equal clicks; corrected over all comparisons of a protocol, label and metric."""
    listed = list(found)
    for base in (group for group in listed if group.arm == reference):
        others = [g for g in listed if g.arm != reference and _same_task(g, base)]
        for label in base.labels:
            for metric in TESTED:
                pairs = [(other, clicks) for other in others for clicks in base.tested]
                scores = [(base.score(metric, label, n), other.score(metric, label, n)) for other, n in pairs]
                made = [difference(*both) for both in scores]
                corrected = holm([one.p for one in made])
                for (other, clicks), both, one, p in zip(pairs, scores, made, corrected, strict=True):
                    numbers = {**asdict(one.estimate), "better": _wins(*both, metric), "p": one.p, "p_corrected": p}
                    yield _place(other, label) | {"metric": metric, "clicks": clicks, **numbers}


def _wins(ours: dict[str, float], theirs: dict[str, float], metric: str) -> int:
    """The number of patients in which the reference is strictly better."""
    sign = -1 if metric == "hd95" else 1
    return sum(sign * (ours[name] - theirs[name]) > 0 for name in set(ours) & set(theirs))


def _same_task(first: Group, second: Group) -> bool:
    return all(getattr(first, key) == getattr(second, key) for key in _KEYS[:3])


def paired_values(found: Iterable[Group], reference: str, clicks: int) -> list[Pairs]:
    """Dice per patient after a number of clicks, for all arms but the reference, for one protocol."""
    listed = list(found)
    base = next((group for group in listed if group.arm == reference), None)
    if base is None:
        return []
    label = base.labels[0]
    return [
        Pairs(other.arm, other.score("dice", label, clicks), base.score("dice", label, clicks))
        for other in listed
        if other.arm != reference
    ]


# ---------------------------------------------------------------------- cost


def _costs(setting: Setting, output: Path, times: list[Unit]) -> list[dict[str, Any]]:
    """Per arm, dataset, configuration, fold, training: its model's cost, and times of uninterrupted cases."""
    rows = []
    seen: dict[tuple[Any, ...], list[Job]] = {}
    keys = ("dataset", "configuration", "fold", "arm", "training")
    for job in setting.jobs():
        seen.setdefault(tuple(getattr(job, key) for key in keys), []).append(job)
    for place, jobs in seen.items():
        stored = json.loads(jobs[0].cost_file(output).read_text(encoding="utf-8"))
        own = [t for t in times if tuple(t.get(key) for key in keys) == place and t["first"]]
        places = {key: value for key, value in zip(keys, place, strict=True) if value is not None}
        rows.append(places | stored | _effort(own, stored))
    return rows


def _effort(units: list[Unit], cost: dict[str, Any]) -> dict[str, Any]:
    """Seconds and GFLOP from a read image to its first answer, and per further click.

    If the network answers every click, the first answer is that to the first prompt: a click, where the protocol begins
    with clicks. Otherwise, it is the automatic one, and a click costs almost nothing.
    """
    asked = cost["kind"] in ("sam", "clicks")
    first = [1 if asked and not PROTOCOLS[u["protocol"]].extent else 0 for u in units]
    begin = [min(n, len(u["steps"]) - 1) for n, u in zip(first, units, strict=True)]
    gflop = [[_gflop(work, cost) for work in u["work"]] for u in units]
    further = [one for n, steps in zip(first, gflop, strict=True) for one in steps[n + 1 :]]
    return {
        "seconds_per_case": _mean([u["prepare"] + u["steps"][n] for u, n in zip(units, begin, strict=True)]),
        "seconds_per_further_click": _mean([s for n, u in zip(first, units, strict=True) for s in u["steps"][n + 1 :]]),
        "gflop_per_case": _mean([steps[n] for steps, n in zip(gflop, begin, strict=True)]),
        "gflop_per_further_click": _mean(further),
        "peak_memory_mb": max((u["peak_memory_mb"] for u in units), default=None),
    }


def _gflop(work: dict[str, int], cost: dict[str, Any]) -> float:
    """GFLOP of processed windows; the first half of SAM3D costs the difference between a window and its second half."""
    first_half = cost["window_gflop"] - cost["click_gflop"]
    whole, encoded, decoded = (work[part] for part in ("whole", "encoded", "decoded"))
    return whole * cost["window_gflop"] + encoded * first_half + decoded * cost["click_gflop"]


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
