"""The report's tables and sentences, from the summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnsam3d.evaluation.metrics import METRICS, TARGETS
from nnsam3d.evaluation.names import PROTOCOLS, START
from nnsam3d.evaluation.results import Result
from nnsam3d.evaluation.runner import READ_OUTS
from nnsam3d.evaluation.summary import GOOD, ReportRow, mean_of
from nnsam3d.tables import counted, markdown

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Table:
    """Cells are text; the note is printed below."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str

    def markdown(self) -> str:
        return f"**{self.title}**\n\n{markdown(self.header, self.rows)}\n\n{self.note}"


# ---------------------------------------------------------------------- numbers as text


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def interval(found: Mapping[str, Any], digits: int = 3) -> str:
    """`mean [low, high]`."""
    if found["mean"] is None:
        return "–"
    return f"{number(found['mean'], digits)} [{number(found['low'], digits)}, {number(found['high'], digits)}]"


def count(value: float) -> str:
    """A large number with a unit."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def p_value(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


_DIGITS = {"hd95": 1}

# ---------------------------------------------------------------------- tables of one dataset, configuration, protocol


def score_table(rows: Sequence[ReportRow], protocol: str, label: str, refused: Sequence[ReportRow]) -> Table:
    """
    Args:
        rows: of one dataset, configuration, protocol and label. refused: arms that take no part.
    """
    body = [
        [
            row["arm"],
            str(row["clicks"]),
            *(interval(row[metric], _DIGITS.get(metric, 3)) for metric in METRICS),
            interval(row["obeyed"], 2),
        ]
        for row in rows
        if row["clicks"] in READ_OUTS
    ]
    body += [[row["arm"], row["reason"], *["–"] * (len(METRICS) + 1)] for row in refused]
    begin = "0 clicks: the answer to the first prompt alone. " if PROTOCOLS[protocol].extent else ""
    begin = "0 clicks: the mask to start from. " if protocol == START else begin
    note = begin + (
        "Mean over patients [95 % interval, bootstrap over patients, widened for their small number]; click seeds of a "
        "patient are averaged first. Obeyed: the share of all clicks so far whose voxel is correct in the network's "
        "own answer, before clicks are enforced. Arms with a single row do not change with clicks: models without "
        "prompts, and the controls ellipsoid and clipped:, which know the first prompt only."
    )
    title = f"Protocol {protocol}: {PROTOCOLS[protocol].summary} ({label})"
    return Table(title, ["arm", "clicks", *METRICS.values(), "obeyed"], body, note)


def click_table(rows: Sequence[ReportRow], costs: Sequence[ReportRow], label: str) -> Table:
    """A line per arm: obedience, cost of a click, and results.

    Args:
        rows: of one dataset, configuration, protocol and label. costs: of the same, all folds.
    """
    clicks = rows[0]["end"]["clicks"]
    header = ["arm", *(f"obeyed, {n} click{'s' * (n != '1')}" for n in rows[0]["obeyed"]), "s per further click",
              f"median Dice, {clicks} clicks", *(f"Dice ≥ {good:g}, {clicks} clicks" for good in GOOD)]  # fmt: skip
    body = [
        [
            row["arm"],
            *(interval(share, 2) for share in row["obeyed"].values()),
            number(mean_of(one["seconds_per_further_click"] for one in costs if one["arm"] == row["arm"]), 2),
            number(row["end"]["median_dice"]),
            *(percent(row["end"][f"dice_{good:g}"]) for good in GOOD),
        ]
        for row in rows
    ]
    note = (
        "Obeyed: the share of all clicks so far whose own voxel has the click's label in the network's own answer, "
        "before clicks are enforced (for the oracle: in the reduced automatic result); mean over "
        "patients [95 % interval]. A dash: an arm without clicks, or results of an earlier version. Median Dice: over "
        "patients, click seeds averaged first. Dice ≥: the share of sequences (case x click seed) that reach this "
        "value after these clicks, or earlier if there was no error left. Seconds: see the cost table."
    )
    return Table(f"Obedience, cost and effect of clicks ({label})", header, body, note)


def curve_table(rows: Sequence[ReportRow], label: str, max_clicks: int) -> Table:
    header = ["arm", "Dice AUC", "NSD 2 mm AUC", *(f"clicks to Dice {target:g}" for target in TARGETS)]
    body = []
    for row in rows:
        found = [row[f"clicks_to_{target:g}"] for target in TARGETS]
        reached = [f"{interval(one, 1)}, reached {percent(one['reached'])}" for one in found]
        body.append([row["arm"], interval(row["dice_auc"]), interval(row["nsd_2mm_auc"]), *reached])
    note = (
        "AUC: trapezoid over the answers after 1 to 5 clicks, without that to the first prompt: at most 4 (CVPR 2025). "
        "Clicks to a target: if it was not reached, the "
        f"largest number, {max_clicks}, is used. Arms without clicks have a flat curve."
    )
    return Table(f"Over the clicks ({label})", header, body, note)


def difference_table(rows: Sequence[ReportRow], reference: str, label: str) -> Table:
    body = [
        [
            f"{reference} − {row['arm']}",
            METRICS[row["metric"]],
            str(row["clicks"]),
            interval(row, _DIGITS.get(row["metric"], 3)),
            f"{row['better']} of {row['n']}",
            p_value(row["p"]),
            p_value(row["p_corrected"]),
        ]
        for row in rows
    ]
    header = ["difference", "metric", "clicks", "mean [95 % interval]", "better in", "p", "p (Holm)"]
    note = (
        "Paired by patient at the same number of clicks (an arm without clicks: its only answer). Sign-flip "
        "permutation test, two-sided; Holm's correction over all comparisons of a metric in this table; the "
        "intervals are not corrected. Better in: patients in which the reference is strictly better. With few "
        "patients, even large differences cannot be significant: the smallest p is 2 / 2^patients, before correction."
    )
    return Table(f"Paired differences ({label})", header, body, note)


def training_table(rows: Sequence[ReportRow], label: str) -> Table:
    """Of arms that were trained several times."""
    shown = [row for row in rows if row["clicks"] in READ_OUTS]
    seeds = list(dict.fromkeys(seed for row in shown for seed in row["means"]))
    header = ["arm", "clicks", *(f"Dice, seed {seed}" for seed in seeds), "SD of trainings", "SD of patients"]
    body = [
        [
            row["arm"],
            str(row["clicks"]),
            *(number(row["means"].get(seed)) for seed in seeds),
            number(row["between_trainings"]),
            number(row["between_patients"]),
        ]
        for row in shown
    ]
    note = (
        "Mean Dice over patients of each training; standard deviation of these means, and, beside it, of the patients' "
        "values (trainings averaged). Everywhere else in this report the trainings of an arm are averaged per patient: "
        "its intervals and tests are about other patients, not about other trainings."
    )
    return Table(f"Several trainings ({label})", header, body, note)


def cost_table(rows: Sequence[ReportRow]) -> Table:
    header = ["arm", "fold", "parameters", "trained", "GFLOP per window", "per case", "per further click", "s per case",
              "per further click", "peak memory, MB", "training, s", "epochs"]  # fmt: skip
    body = [
        [
            row["arm"],
            row["fold"] + (f", seed {row['training']}" if "training" in row else ""),
            *(count(row[name]) for name in ("parameters", "trained_parameters")),
            *(number(row[name], 1) for name in ("window_gflop", "gflop_per_case", "gflop_per_further_click")),
            *(number(row[name], 2) for name in ("seconds_per_case", "seconds_per_further_click")),
            *(number(row[name], 0) for name in ("peak_memory_mb", "training_seconds")),
            str(row["epochs"]),
        ]
        for row in rows
    ]
    note = (
        "A window is one patch; the number per case depends on its size, mirroring and the clicks (counted). Per "
        "case: the first answer (to one click, if the arm uses clicks), seconds including preprocessing; means over "
        "cases, and for further clicks over clicks too. GFLOP: matrix products and convolutions; a multiplication and "
        "an addition count as two. Peak memory: of the device; on a CPU, of the whole process. Training: time inside "
        "epochs, including online validation."
    )
    return Table("Cost", header, body, note)


# ---------------------------------------------------------------------- sentences


def verdicts(differences: Sequence[ReportRow], reference: str) -> Iterator[str]:
    """The paired Dice differences in words."""
    for row in differences:
        if row["metric"] != "dice" or row["mean"] is None:
            continue
        clicks = counted(row["clicks"], "click") if row["clicks"] else "first answer"
        sure = row["p_corrected"] is not None and row["p_corrected"] < SIGNIFICANT
        word = ("better" if row["mean"] > 0 else "worse") if sure else "not shown to differ"
        yield (
            f"{clicks}: {reference} against {row['arm']}: {word} (Dice difference {interval(row)}, "
            f"{row['n']} patients, corrected p {p_value(row['p_corrected'])})"
        )


def case_csv(results: Sequence[Result]) -> str:
    """One line per case, seed, step and label; ``obeyed`` refers to the step, for all labels."""
    rows = [
        result.job.as_dict()
        | {"case": result.case, "seed": result.seed, "clicks": step.clicks, "label": label, "obeyed": step.obeyed}
        | scores
        for result in results
        for step in result.steps
        for label, scores in step.scores.items()
    ]
    trained = any(result.job.training is not None for result in results)
    place = ["dataset", "configuration", "fold", "arm", "protocol", "case", "seed", *(["training"] if trained else [])]
    columns = [*place, "clicks", "label", *METRICS, "obeyed"]
    return pd.DataFrame(rows, columns=columns, dtype=object).to_csv(index=False, lineterminator="\n")
