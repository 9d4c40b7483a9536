"""A simulated annotator whose model learns: clicks per case against the number of finished cases.

Cases are annotated one after the other with clicks on the largest error, until Dice (mean over labels) is at least 0.85
or ten clicks are given. Then the case is finished: its true label map joins the dataset from which the model learns
(`nnsam3d learn`), before the next case. Every case is also annotated with the model from which everything began; as in
`nnsam3d serve --learn`, the other one is used once it is as good on held-back cases. An interrupted run is continued by
the same command.

    python -m benchmarks.annotator run --data RAW/Dataset513_STS_PET -o work/pet_0 --order 0
    python -m benchmarks.annotator run --data RAW/Dataset513_STS_PET -o work/pet_0m --order 0 -m MODEL -f 0
    python -m benchmarks.annotator report work/pet_0 work/pet_1 --to docs/benchmark/learning
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnsam3d.files import write_json, write_text
from nnsam3d.inference.model import FINAL, Model
from nnsam3d.learning.check import clicked_through
from nnsam3d.learning.finished import FinishedCase, finished_cases
from nnsam3d.learning.learn import learn
from nnsam3d.learning.record import read_record
from nnsam3d.learning.tune import Tuning
from nnsam3d.nnunet.datasets import STARTER
from nnsam3d.progress import tqdm

WANTED, MOST = 0.85, 10
BIN = 5  # cases per column of the tables
SHOWN = (0, 3, 10)  # clicks


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
    one.add_argument("--seconds", type=float, default=30, help="of training after each case (default: 30)")
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
    known = json.loads(file.read_text()) if file.is_file() else {"cases": []}
    known["settings"] = {key: str(value) for key, value in vars(args).items() if key != "does"}
    dataset_json = json.loads((args.data / "dataset.json").read_text())
    everything = {name: case for name, case in finished_cases(args.data).items() if name not in args.skip}
    order = np.random.default_rng(args.order).permutation(sorted(everything)).tolist()[: args.cases]
    base = _model(args.model, args.folds, dataset_json)
    dataset, own = args.output / "dataset", args.output / "learned"
    tuning = Tuning(args.seconds, keep=args.keep, seed=args.order)
    for name in tqdm(order[len(known["cases"]) :], desc="cases", unit="case"):
        case = everything[name]
        row = {"case": name, "base": _dice(base, case)}
        record = read_record(own) if own.is_dir() else None
        row["own"] = row["base"] if record is None else _dice(_model(own, ["0"], dataset_json), case)
        row["serves"] = record is not None and record.serves
        _finish(case, dataset, dataset_json)
        done = learn(args.model, args.folds, dataset, own, tuning, new=base.class_agnostic and not args.same)
        row |= {"seconds": done.seconds, "updates": done.updates, "before": done.before, "after": done.after}
        row |= {"accepted": done.accepted}
        known["cases"].append(row)
        write_json(file, known)


def _model(folder: Path, folds: Sequence[str] | None, dataset_json: dict[str, Any]) -> Model:
    model = Model(folder, folds, FINAL, torch.device("cpu"), mirroring=False)
    objects = [name for name, value in dataset_json["labels"].items() if value]
    return (
        Model(folder, folds, FINAL, model.device, mirroring=False, objects=objects) if model.class_agnostic else model
    )


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
    rule = "|" + "---|" * len(head)
    lines = [f"Clicks until Dice is {WANTED}, at most {MOST}:", "", "| " + " | ".join(head) + " |", rule]
    scores = [f"Mean Dice after {' / '.join(map(str, SHOWN))} clicks:", "", "| " + " | ".join(head) + " |", rule]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        for key, what in (("own", "learning"), ("base", "as it began")):
            used = [case["own" if key == "own" and case["serves"] else "base"] for case in curve["cases"]]
            needed = [clicks_needed(dice) for dice in used]
            means = [f"{np.mean(needed[first:last]):.1f}" if needed[first:last] else "" for first, last in bins]
            lines.append("| " + " | ".join([name, what, *means]) + " |")
            parts = [used[first:last] for first, last in bins]
            cells = [
                " / ".join(f"{np.mean([_after(one, n) for one in part]):.2f}" for n in SHOWN) for part in parts if part
            ]
            scores.append("| " + " | ".join([name, what, *cells, *[""] * (len(bins) - len(cells))]) + " |")
            places = [(first + min(last, len(needed)) + 1) / 2 for first, last in bins if needed[first:last]]
            values = [np.mean(needed[first:last]) for first, last in bins if needed[first:last]]
            style = "o-" if key == "own" else "o:"
            axes.plot(places, values, style, label=f"{name}, {what}", color=f"C{list(curves).index(name)}")
    axes.set(xlabel="finished cases", ylabel=f"clicks to Dice {WANTED} (at most {MOST})", ylim=(0, MOST + 0.3))
    axes.legend(fontsize=8)
    lines += ["", *scores]
    seconds = [case["seconds"] for curve in curves.values() for case in curve["cases"]]
    lines += ["", f"Seconds of learning per case: median {np.median(seconds):.0f}, largest {max(seconds):.0f}."]
    args.to.mkdir(parents=True, exist_ok=True)
    write_text(args.to / "learning.md", "\n".join(lines) + "\n")
    figure.savefig(args.to / "learning.png", dpi=120)


if __name__ == "__main__":
    main()
