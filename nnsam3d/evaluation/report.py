"""The report: a self-contained HTML file, and the same as Markdown, JSON, CSV and PNGs."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

from nnsam3d.evaluation.figures import as_png, as_svg, click_curves, paired_cases
from nnsam3d.evaluation.names import PROTOCOLS, parse_arm
from nnsam3d.evaluation.pictures import correction_figure, overlay_figure, prompt_figure
from nnsam3d.evaluation.plan import Setting
from nnsam3d.evaluation.results import Result
from nnsam3d.evaluation.summary import ReportRow, Summary, summarise
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


def write_report(setting: Setting, output: Path, results: Sequence[Result], folder: Path, reference: str) -> None:
    """Writes report.html, .md, .json, .csv and figures/ into ``folder``.

    Raises:
        UserError: the reference is not an arm.
    """
    summary = summarise(setting, output, results, reference)
    sections = list(_sections(output, summary))
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for part in section.parts:
            if isinstance(part, Picture):
                (figures / f"{part.name}.png").write_bytes(part.png)
    write_json(folder / "report.json", summary.as_dict())
    write_text(folder / "report.csv", case_csv(results))
    write_text(folder / "report.md", _markdown(summary, sections))
    write_text(folder / "report.html", _html(summary, sections))


# ---------------------------------------------------------------------- content


def _sections(output: Path, summary: Summary) -> Iterator[Section]:
    setting = summary.setting
    for dataset, configuration in product(setting.datasets, setting.configurations):
        here = summary.at(dataset=dataset, configuration=configuration)
        parts: list[Table | Picture] = []
        for protocol in setting.protocols:
            own, tag = here.at(protocol=protocol), f"{dataset}_{configuration}_{protocol}"
            parts += [*_protocol_parts(own, protocol, tag), *_paired(own, PROTOCOLS[protocol].paired, tag)]
            parts += _slices(f"prompts_{tag}", prompt_figure(setting, output, own.groups))
            parts += _slices(f"corrections_{tag}", correction_figure(setting, output, own.groups))
        first = here.at(protocol=setting.protocols[0])
        parts += _slices(f"overlays_{dataset}_{configuration}", overlay_figure(setting, output, first.groups))
        parts.append(cost_table(here.costs))
        main = [row for row in first.differences if row["label"] == first.differences[0]["label"]]
        folds = f"fold{'s' if len(setting.folds) > 1 else ''} {', '.join(setting.folds)}"
        title = f"{dataset}, {configuration} ({summary.cases[dataset]} cases, {folds})"
        yield Section(title, list(verdicts(main, summary.reference)), parts)


def _protocol_parts(here: Summary, protocol: str, tag: str) -> Iterator[Table | Picture]:
    """Tables and curves of one dataset, configuration and protocol."""
    if not here.scores:
        yield score_table((), protocol, "no arm takes part", here.refused)
    for label in dict.fromkeys(row["label"] for row in here.scores):
        own = here.at(label=label)
        if PROTOCOLS[protocol].corrected:
            name = f"curves_{tag}_{label}".replace(" ", "_")
            caption = f"{label}: mean over patients with 95 % interval; dashed: an arm that does not use clicks"
            yield _drawing(name, caption, click_curves(own.scores, here.setting.arms, CURVE_METRICS))
        if own.curves:
            yield click_table(own.curves, here.costs, label)
        yield score_table(own.scores, protocol, label, here.refused)
        if own.curves:
            yield curve_table(own.curves, label, PROTOCOLS[protocol].limit(here.setting.max_clicks))
        if own.differences:
            yield difference_table(own.differences, here.reference, label)
        if own.trainings:
            yield training_table(own.trainings, label)


def _paired(here: Summary, clicks: int, tag: str) -> Iterator[Picture]:
    """Dice of the first label, of one dataset, configuration and protocol."""
    arms = [group.arm for group in here.groups]
    if here.reference in arms and len(arms) > 1:
        shown = here.patients[here.patients.clicks == clicks]
        shown = shown[shown.label == shown.label.iloc[0]]
        dice = shown.pivot(index="case", columns="arm", values="dice")[arms]
        after = f"{clicks} click" if clicks else "first answer"
        caption = "Every dot is a patient (mean over click seeds); above the diagonal the reference is better."
        figure = paired_cases(dice, here.reference, f"Dice per patient, {after}")
        yield _drawing(f"paired_{tag}", caption, figure)


def _drawing(name: str, caption: str, figure: Figure) -> Picture:
    svg = as_svg(figure)
    return Picture(name, caption, as_png(figure), svg)


def _slices(name: str, drawn: tuple[Figure, str] | None) -> list[Picture]:
    """The picture of a figure of images and its caption, if there was anything to draw."""
    return [] if drawn is None else [Picture(name, drawn[1], as_png(drawn[0], dpi=80))]


# ---------------------------------------------------------------------- pages


def _facts(summary: Summary) -> Iterator[str]:
    """All information needed to reproduce the report, as lines of text."""
    setting = summary.setting
    yield from summary.commands
    yield ""
    if setting.train_minutes:
        yield f"training budget of each trained arm: {setting.train_minutes:g} minutes"
        for row in other_budgets(summary.costs, setting.train_minutes):
            place = f"{row['arm']}, {row['dataset']}, {row['configuration']}, fold {row['fold']}"
            yield f"  but {place}: {row['training_seconds'] / 60:.1f} minutes, with online validation"
    if setting.options:
        yield f'nnsam3d_options of the trainings: "{setting.options}"'
    if setting.train_seeds:
        yield f"every arm was trained with the seeds {', '.join(map(str, setting.train_seeds))}"
    mirroring = "on" if setting.mirroring else "off"
    yield f"click seeds: {', '.join(map(str, setting.seeds))}; test-time mirroring {mirroring} for every arm"
    for key, value in summary.environment.items():
        yield f"{key}: {value}"
    yield ""
    for arm, dataset, fold, digest in summary.checkpoints:
        yield f"sha256 {digest}  {arm}, {dataset}, fold {fold}"
    digests = [f"{case} {digest[:12]}" for _, case, digest in summary.truths]
    yield f"ground truths (first 12 digits of sha256): {', '.join(digests)}"


def other_budgets(costs: Sequence[ReportRow], minutes: float) -> list[ReportRow]:
    """Existing models, which the benchmark has not trained again, whose training took clearly longer or shorter."""
    arms = {row["arm"]: parse_arm(row["arm"]) for row in costs}
    models = [row for row in costs if arms[row["arm"]].trainer and not arms[row["arm"]].control]
    shares = [row["training_seconds"] / (60 * minutes) for row in models]  # 0: unknown
    return [row for row, share in zip(models, shares, strict=True) if share and not 1 / OTHER < share < OTHER]


def _markdown(summary: Summary, sections: Sequence[Section]) -> str:
    lines = ["# Benchmark", "", f"Reference arm: `{summary.reference}`.", ""]
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


def _html(summary: Summary, sections: Sequence[Section]) -> str:
    loader = PackageLoader("nnsam3d.evaluation")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page: str = environment.get_template(TEMPLATE).render(
        reference=summary.reference, notes=NOTES, sections=sections, facts="\n".join(_facts(summary))
    )
    return page + "\n"
