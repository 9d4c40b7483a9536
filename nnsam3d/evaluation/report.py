"""The report: a self-contained HTML file, and the same as Markdown, JSON, CSV and PNGs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from nnsam3d.evaluation.corrections import correction_figure
from nnsam3d.evaluation.figures import as_png, as_svg, click_curves, paired_cases
from nnsam3d.evaluation.first_pictures import prompt_figure
from nnsam3d.evaluation.names import PROTOCOLS
from nnsam3d.evaluation.overlays import overlay_figure
from nnsam3d.evaluation.plan import Setting
from nnsam3d.evaluation.provenance import ENVIRONMENT_FILE
from nnsam3d.evaluation.summary import Group, collect, groups, paired_values, summarise
from nnsam3d.evaluation.tables import (
    Table,
    case_csv,
    click_table,
    cost_table,
    curve_table,
    difference_table,
    score_table,
    training_table,
    verdicts,
)
from nnsam3d.files import write_json, write_text

CURVE_METRICS = ("dice", "nsd_2mm")
NOTES = (
    "All cases were excluded from the training of their models. All arms get the same first prompts; later clicks are "
    "placed on each arm's own errors by the same rule. In all arms, clicked voxels keep their label in the answer, and "
    "a negative click in the middle of a component removes the component unless it contains a positive click; nearer "
    "to the rim, it removes only its own voxel.",
    "+oracle is a control for the information in a click: the automatic result reduced to the components that clicks "
    "hit, without a model that uses them. ellipsoid (the body of which a box, a line or a lasso is the outline) and "
    "clipped: (a model's automatic result inside that body, or inside the box) are controls for the geometry of the "
    "first prompt; they do not use clicks.",
    "Empty masks: Dice and NSD are undefined if ground truth and prediction are empty, and 0 if one of them is; HD95 "
    "is undefined if either is. Undefined values are excluded from means.",
)
TEMPLATE = "report.html.j2"
OTHER = 2.0  # factor by which a training time must differ from the budget, which excludes online validation


@dataclass(frozen=True)
class Picture:
    """A picture of the report: ``svg``, if set, is embedded into the page; the PNG is in figures/."""

    name: str
    caption: str
    png: bytes
    svg: str = ""

    @property
    def drawn(self) -> str:
        """As HTML."""
        encoded = base64.b64encode(self.png).decode()
        return self.svg or f'<img alt="" src="data:image/png;base64,{encoded}">'


@dataclass(frozen=True)
class Section:
    title: str
    lines: Sequence[str]
    parts: Sequence[Table | Picture]


def write_report(setting: Setting, output: Path, folder: Path, reference: str, commands: Sequence[str]) -> None:
    """Writes report.html, .md, .json, .csv and figures/ into ``folder``.

    Raises:
        UserError: results are missing, or the reference is not an arm.
    """
    summary = summarise(setting, output, reference)
    path = output / ENVIRONMENT_FILE
    summary["environment"] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    summary["commands"] = list(commands)
    results, _ = collect(setting, output)
    sections = list(_sections(setting, output, summary, results))
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for part in section.parts:
            if isinstance(part, Picture):
                (figures / f"{part.name}.png").write_bytes(part.png)
    write_json(folder / "report.json", summary)
    write_text(folder / "report.csv", case_csv(results))
    write_text(folder / "report.md", _markdown(summary, sections))
    write_text(folder / "report.html", _html(summary, sections))


# ---------------------------------------------------------------------- content


def _sections(
    setting: Setting, output: Path, summary: dict[str, Any], results: list[dict[str, Any]]
) -> Iterator[Section]:
    found = [group for group in groups(setting, results) if not group.refused]
    for dataset in setting.datasets:
        for configuration in setting.configurations:
            key = {"dataset": dataset, "configuration": configuration}
            here = {name: [row for row in summary[name] if _fits(row, key)] for name in _LISTS}
            parts: list[Table | Picture] = []
            for protocol in setting.protocols:
                rows = {name: [row for row in here[name] if row["protocol"] == protocol] for name in _BY_PROTOCOL}
                tag = f"{dataset}_{configuration}_{protocol}"
                parts += _protocol_parts(setting, summary["reference"], protocol, rows, here["costs"], tag)
                own = [g for g in found if g.protocol == protocol and _fits(vars(g), key)]
                parts += _paired(own, summary["reference"], PROTOCOLS[protocol].paired, tag)
                parts += _first_prompts(setting, output, own, tag)
                parts += _corrections(setting, output, own, tag)
            picture = overlay_figure(setting, output, [g for g in found if _fits(vars(g), key)])
            if picture is not None:
                name, caption = f"overlays_{dataset}_{configuration}", picture[1]
                parts.append(Picture(name, caption, as_png(picture[0], dpi=80)))
            parts.append(cost_table(here["costs"]))
            first = [row for row in here["differences"] if row["protocol"] == setting.protocols[0]]
            main = [row for row in first if first and row["label"] == first[0]["label"]]
            folds = f"fold{'s' if len(setting.folds) > 1 else ''} {', '.join(setting.folds)}"
            cases = f"{summary['cases'][dataset]} cases, {folds}"
            yield Section(f"{dataset}, {configuration} ({cases})", list(verdicts(main, summary["reference"])), parts)


_BY_PROTOCOL = ("scores", "curves", "differences", "trainings", "refused")
_LISTS = (*_BY_PROTOCOL, "costs")


def _fits(row: dict[str, Any], key: dict[str, str]) -> bool:
    return all(row[name] == value for name, value in key.items())


def _protocol_parts(
    setting: Setting,
    reference: str,
    protocol: str,
    rows: dict[str, list[dict[str, Any]]],
    costs: list[dict[str, Any]],
    tag: str,
) -> Iterator[Table | Picture]:
    if not rows["scores"]:
        yield score_table((), protocol, "no arm takes part", rows["refused"])
    for label in dict.fromkeys(row["label"] for row in rows["scores"]):
        own = {name: [row for row in rows[name] if row["label"] == label] for name in rows}
        if PROTOCOLS[protocol].corrected:
            figure = click_curves(own["scores"], setting.arms, CURVE_METRICS)
            name = f"curves_{tag}_{label}".replace(" ", "_")
            caption = f"{label}: mean over patients with 95 % interval; dashed: an arm that does not use clicks"
            svg = as_svg(figure)
            yield Picture(name, caption, as_png(figure), svg)
        if own["curves"]:
            yield click_table(own["curves"], costs, label)
        yield score_table(own["scores"], protocol, label, rows["refused"])
        if own["curves"]:
            yield curve_table(own["curves"], label, PROTOCOLS[protocol].limit(setting.max_clicks))
        if own["differences"]:
            yield difference_table(own["differences"], reference, label)
        if own["trainings"]:
            yield training_table(own["trainings"], label)


def _paired(found: Sequence[Any], reference: str, clicks: int, tag: str) -> Iterator[Picture]:
    pairs = paired_values(found, reference, clicks)
    if pairs:
        after = f"{clicks} click" if clicks else "first answer"
        figure = paired_cases(pairs, reference, f"Dice per patient, {after}")
        svg = as_svg(figure)
        caption = "Every dot is a patient (mean over click seeds); above the diagonal the reference is better."
        yield Picture(f"paired_{tag}", caption, as_png(figure), svg)


def _first_prompts(setting: Setting, output: Path, found: Sequence[Group], tag: str) -> Iterator[Picture]:
    drawn = prompt_figure(setting, output, found)
    if drawn is not None:
        figure, caption = drawn
        yield Picture(f"prompts_{tag}", caption, as_png(figure, dpi=80))


def _corrections(setting: Setting, output: Path, found: Sequence[Group], tag: str) -> Iterator[Picture]:
    drawn = correction_figure(setting, output, found)
    if drawn is not None:
        figure, caption = drawn
        yield Picture(f"corrections_{tag}", caption, as_png(figure, dpi=80))


# ---------------------------------------------------------------------- pages


def _facts(summary: dict[str, Any]) -> Iterator[str]:
    """All information needed to reproduce the report, as lines of text."""
    setting, environment = summary["setting"], summary["environment"]
    yield from summary["commands"]
    yield ""
    if setting["train_minutes"]:
        yield f"training budget of each trained arm: {setting['train_minutes']:g} minutes"
        for row in other_budgets(summary["costs"], setting["train_minutes"]):
            place = f"{row['arm']}, {row['dataset']}, {row['configuration']}, fold {row['fold']}"
            yield f"  but {place}: {row['training_seconds'] / 60:.1f} minutes, with online validation"
    if setting["options"]:
        yield f'nnsam3d_options of the trainings: "{setting["options"]}"'
    if setting["train_seeds"]:
        yield f"every arm was trained with the seeds {', '.join(map(str, setting['train_seeds']))}"
    mirroring = "on" if setting["mirroring"] else "off"
    yield f"click seeds: {', '.join(map(str, setting['seeds']))}; test-time mirroring {mirroring} for every arm"
    for key, value in environment.items():
        yield f"{key}: {value}"
    yield ""
    for arm, dataset, fold, digest in summary["checkpoints"]:
        yield f"sha256 {digest}  {arm}, {dataset}, fold {fold}"
    digests = [f"{case} {digest[:12]}" for _, case, digest in summary["truths"]]
    yield f"ground truths (first 12 digits of sha256): {', '.join(digests)}"


def other_budgets(costs: Sequence[dict[str, Any]], minutes: float) -> list[dict[str, Any]]:
    """Existing models, which the benchmark has not trained again, whose training took clearly longer or shorter."""
    models = [row for row in costs if row.get("kind") not in ("oracle", "clipped", "ellipsoid")]
    shares = [row.get("training_seconds", 0) / (60 * minutes) for row in models]  # 0: unknown
    return [row for row, share in zip(models, shares, strict=True) if share and not 1 / OTHER < share < OTHER]


def _markdown(summary: dict[str, Any], sections: Sequence[Section]) -> str:
    lines = ["# Benchmark", "", f"Reference arm: `{summary['reference']}`.", ""]
    lines += [f"- {note}" for note in NOTES]
    for section in sections:
        lines += ["", f"## {section.title}", "", *(f"- {line}" for line in section.lines)]
        for part in section.parts:
            if isinstance(part, Table):
                lines += ["", part.markdown()]
            else:
                lines += ["", f"![{part.caption}](figures/{part.name}.png)", "", f"*{part.caption}*"]
    lines += ["", "## How to reproduce", "", "```", *_facts(summary), "```"]
    return "\n".join(lines) + "\n"


def _html(summary: dict[str, Any], sections: Sequence[Section]) -> str:
    loader = PackageLoader("nnsam3d.evaluation")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page: str = environment.get_template(TEMPLATE).render(
        reference=summary["reference"], notes=NOTES, sections=sections, facts="\n".join(_facts(summary))
    )
    return page + "\n"
