"""A simulated annotator whose model learns: clicks per case against the number of finished cases.

Cases are annotated one after the other with clicks on the largest error, until Dice (mean over labels) is at least 0.85
or ten clicks are given. Then the case is finished: its true label map joins the dataset from which the model learns
(`nnsam3d learn`), before the next case. Every case is also annotated with the model from which everything began; as in
`nnsam3d serve --learn`, the other one is used once it is as good on held-back cases. An interrupted run is continued by
the same command.

Controls: --anew trains another model once, on the first cases together, for the same minutes; --next disagreement
follows the model instead of the list; --test measures what becomes of other cases, such as a model's original data.

    python -m benchmarks.annotator run --data RAW/Dataset513_STS_PET -o work/pet_0 --order 0
    python -m benchmarks.annotator run --data RAW/Dataset513_STS_PET -o work/pet_0m --order 0 -m MODEL -f 0
    python -m benchmarks.annotator report work/pet_0 work/pet_1 --to docs/benchmark/learning
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnsam3d.files import write_json, write_text
from nnsam3d.inference.model import Model
from nnsam3d.learning.check import clicked_through
from nnsam3d.learning.finished import FinishedCase, finished_cases
from nnsam3d.learning.learn import learn
from nnsam3d.learning.order import MOST_CASES, disagreement
from nnsam3d.learning.record import Record, read_record
from nnsam3d.learning.tune import Tuning
from nnsam3d.nnunet.datasets import FINAL, STARTER
from nnsam3d.progress import tqdm
from nnsam3d.tables import markdown

WANTED, MOST = 0.85, 10
BIN = 5  # cases per column of the tables
SHOWN = (0, 3, 10)  # clicks
MODELS = {"own": ("learning", "o-"), "anew": ("trained anew", "s--"), "base": ("as it began", "o:")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("run", help="annotate one order of cases")
    one.add_argument("--data", type=Path, required=True, help="dataset in nnU-Net's raw format")
    one.add_argument("-o", "--output", type=Path, required=True, help="folder of this run")
    one.add_argument("-m", dest="model", type=Path, default=STARTER, help="model to begin from (default: the starter)")
    one.add_argument("-f", dest="folds", nargs="+", help="its fold")
    one.add_argument("--order", type=int, default=0, help="seed of the order of cases (default: 0)")
    one.add_argument("--cases", type=int, default=30, help="number of cases (default: 30)")
    one.add_argument("--skip", nargs="*", default=[], help="cases to leave out, such as those of the model's training")
    one.add_argument("--test", nargs="*", default=[], help="cases to leave out, and to measure before and at the end")
    one.add_argument(
        "--next", choices=["list", "disagreement"], default="list", help="which case follows (default: list)"
    )
    one.add_argument(
        "--anew",
        type=int,
        default=0,
        help="N: after N cases, train one model on them together; it is measured on the later ones",
    )
    one.add_argument("--seconds", type=float, default=30, help="of training after each case (default: 30)")
    one.add_argument("--replay", type=Path, help="see nnsam3d learn --help")
    one.add_argument("--keep", type=float, default=0.5, help="see nnsam3d learn --help")
    one.add_argument(
        "--same", action="store_true", help="tune the class-agnostic model itself: grow no model out of it"
    )
    one.set_defaults(does=run)
    several = commands.add_parser("report", help="table and figure of runs")
    several.add_argument("runs", type=Path, nargs="+")
    several.add_argument("--to", type=Path, required=True, help="folder for learning.md and learning.png")
    several.set_defaults(does=report)
    args = parser.parse_args()
    args.does(args)


def run(args: argparse.Namespace) -> None:
    """Annotates the cases that are left, and learns after each."""
    file = args.output / "curve.json"
    settings = {key: str(value) for key, value in vars(args).items() if key not in ("does", "cases")}
    known: dict[str, Any] = {"settings": settings, "cases": []}
    if file.is_file():
        known = json.loads(file.read_text())
        changed = [key for key, value in settings.items() if known["settings"].get(key, value) != value]
        if changed:
            raise SystemExit(f"{file}: begun with other values of {', '.join(changed)}: choose another -o")
    dataset_json = json.loads((args.data / "dataset.json").read_text())
    finished = finished_cases(args.data)
    if unknown := sorted({*args.skip, *args.test} - set(finished)):
        raise SystemExit(f"{args.data} has no case {', '.join(unknown)}")
    cases = {name: case for name, case in finished.items() if name not in (*args.skip, *args.test)}
    order = np.random.default_rng(args.order).permutation(sorted(cases)).tolist()
    base = _model(args.model, args.folds, dataset_json)
    dataset, own, anew = (args.output / name for name in ("dataset", "learned", "anew"))
    grows = base.class_agnostic and not args.same
    done = {row["case"] for row in known["cases"]}
    left = [name for name in order if name not in done]
    for number in tqdm(range(len(done), min(args.cases, len(order))), desc="cases", unit="case"):
        if number and number == args.anew and "anew" not in known:  # before the next case joins the dataset
            whole = Tuning(number * args.seconds, keep=0, seed=args.order)
            known["anew"] = asdict(learn(args.model, args.folds, dataset, anew, whole, new=grows))
            write_json(file, known)
        record = _record(own)
        learned = None if record is None else _model(own, ["0"], dataset_json)
        serves = record is not None and record.serves
        name = left[0]
        if args.next == "disagreement" and serves and learned is not None and not learned.class_agnostic:
            doubt = {one: disagreement(learned, one, cases[one].images) for one in left[:MOST_CASES]}
            name = max(doubt, key=lambda one: doubt[one])
        left.remove(name)
        case = cases[name]
        row = {"case": name, "base": _dice(base, case), "serves": serves}
        row["own"] = row["base"] if learned is None else _dice(learned, case)
        if "anew" in known:
            row["anew"] = _dice(_model(anew, ["0"], dataset_json), case)
        _finish(case, dataset, dataset_json)
        tuning = Tuning(args.seconds, keep=args.keep, seed=args.order, replay=args.replay)
        last = learn(args.model, args.folds, dataset, own, tuning, new=grows)
        row |= {"seconds": last.seconds, "updates": last.updates, "before": last.before, "after": last.after}
        row |= {"accepted": last.accepted}
        known["cases"].append(row)
        write_json(file, known)
    record = _record(own)
    if args.test and record is not None and "test" not in known:
        models = {"base": base, "own": _model(own, ["0"], dataset_json) if record.serves else base}
        known["test"] = {key: [_dice(model, finished[name]) for name in args.test] for key, model in models.items()}
        write_json(file, known)


def _record(own: Path) -> Record | None:
    """Of a model that has learned at least once."""
    record = read_record(own) if own.is_dir() else None
    return record if record is not None and record.rounds else None


def _model(folder: Path, folds: Sequence[str] | None, dataset_json: dict[str, Any]) -> Model:
    model = Model(folder, folds, FINAL, torch.device("cpu"), mirroring=False)
    if not model.class_agnostic:
        return model
    objects = [name for name, value in dataset_json["labels"].items() if value]
    return Model(folder, folds, FINAL, model.device, mirroring=False, objects=objects)


def _dice(model: Model, case: FinishedCase) -> list[float]:
    """Mean Dice over labels after 0, 1, ... clicks."""
    return [round(float(np.mean(list(dice.values()))), 4) for _, dice in clicked_through(model, case, MOST)]


def _finish(case: FinishedCase, dataset: Path, dataset_json: dict[str, Any]) -> None:
    for folder, files in (("imagesTr", case.images), ("labelsTr", [case.label])):
        (dataset / folder).mkdir(parents=True, exist_ok=True)
        for one in files:
            shutil.copyfile(one, dataset / folder / Path(one).name)
    number = len(list((dataset / "labelsTr").iterdir()))
    write_json(dataset / "dataset.json", {**dataset_json, "numTraining": number})


# ---------------------------------------------------------------------- report


def clicks_needed(dice: Sequence[float]) -> int:
    """Clicks until Dice is as wanted; the most that are given if it never is."""
    return next((n for n, value in enumerate(dice) if value >= WANTED), MOST)


def _used(case: dict[str, Any], key: str) -> list[float] | None:
    """Dice of what an annotator would have used: the model that learns only once it serves."""
    return case["base"] if key == "own" and not case["serves"] else case.get(key)


def _means(cases: Sequence[Sequence[float]], form: str) -> str:
    """Mean Dice after ``SHOWN`` clicks; nothing without cases."""
    return " / ".join(f"{np.mean([_after(dice, n) for dice in cases]):{form}}" for n in SHOWN) if cases else ""


def _after(dice: Sequence[float], clicks: int) -> float:
    """Dice after so many clicks, or after the last one that was needed."""
    return dice[min(clicks, len(dice) - 1)]


def report(args: argparse.Namespace) -> None:
    """Writes the table and the figure."""
    from matplotlib.figure import Figure

    curves = {path.name: json.loads((path / "curve.json").read_text()) for path in args.runs}
    longest = max(len(curve["cases"]) for curve in curves.values())
    bins = [(first, min(first + BIN, longest)) for first in range(0, longest, BIN)]
    head = ["run", "model", *(f"cases {first + 1}-{last}" for first, last in bins)]
    clicks, scores = [], []
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        for key, (what, style) in MODELS.items():
            used = [_used(case, key) for case in curve["cases"]]
            parts = [[dice for dice in used[first:last] if dice is not None] for first, last in bins]
            if not any(parts):
                continue
            needed = [np.mean([clicks_needed(dice) for dice in part]) if part else None for part in parts]
            means = ["" if mean is None else f"{mean:.1f}" for mean in needed]
            clicks.append([name, what, *means])
            scores.append([name, what, *(_means(part, ".2f") for part in parts)])
            shown = [
                ((first + last + 1) / 2, mean)
                for (first, last), mean in zip(bins, needed, strict=True)
                if mean is not None
            ]
            axes.plot(*zip(*shown, strict=True), style, label=f"{name}, {what}", color=f"C{list(curves).index(name)}")
    axes.set(xlabel="finished cases", ylabel=f"clicks to Dice {WANTED} (at most {MOST})", ylim=(0, MOST + 0.3))
    axes.legend(fontsize=8)
    lines = [f"Clicks until Dice is {WANTED}, at most {MOST}:", "", markdown(head, clicks), ""]
    lines += [f"Mean Dice after {' / '.join(map(str, SHOWN))} clicks:", "", markdown(head, scores)]
    for name, curve in curves.items():
        for key, dice in curve.get("test", {}).items():
            lines += [
                "",
                f"{name}, {len(dice)} cases that were never annotated, {MODELS[key][0]}: {_means(dice, '.3f')}",
            ]
    seconds = [case["seconds"] for curve in curves.values() for case in curve["cases"]]
    lines += ["", f"Seconds of learning per case: median {np.median(seconds):.0f}, largest {max(seconds):.0f}."]
    args.to.mkdir(parents=True, exist_ok=True)
    write_text(args.to / "learning.md", "\n".join(lines) + "\n")
    figure.savefig(args.to / "learning.png", dpi=120)


if __name__ == "__main__":
    main()
