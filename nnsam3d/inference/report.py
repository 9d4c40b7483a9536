"""Messages of a folder's prediction, and its report as JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError, printable
from nnsam3d.files import write_json
from nnsam3d.inference.folder import Case, Outcome
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.cases import strays
from nnsam3d.tables import counted

REPORT_VERSION = 1
VERSIONS = ("nnsam3d", "nnunetv2", "batchgeneratorsv2", "torch", "numpy", "SimpleITK")


def print_stray_prompts(
    cases: Sequence[Case], images: Path, prompts: Path | None, own: Sequence[Case] | None = None, part: int = 0
) -> None:
    """Print warnings about prompt files that match no case or are not read.

    Args:
        cases: all cases of the folder.
        images: folder of the image files.
        prompts: folder of the prompt files, as for :func:`nnsam3d.inference.folder.find_cases`.
        own: the cases of this part, whose files are looked at; None: all cases.
        part: its number; only part 0 looks at files that match no case.
    """
    looked_at = None if own is None else {case.name for case in own}
    for text in strays(images, {case.name for case in cases}, prompts, looked_at, others=part == 0):
        print(f"nnsam3d: warning: {printable(text)}")


def print_prompt_summary(cases: Sequence[Case]) -> None:
    """Print a summary and all errors, before anything is computed."""
    with_prompts = sum(case.prompts is not None for case in cases)
    bad = [case for case in cases if case.problem]
    automatic = len(cases) - with_prompts - len(bad)
    invalid = f", {len(bad)} invalid" if bad else ""
    print(
        f"nnsam3d: {counted(len(cases), 'case')}: {with_prompts} with clicks, {automatic} without (segmented "
        f"automatically){invalid}"
    )
    for case in bad:
        print(f"nnsam3d: error: {case.problem}", file=sys.stderr)
    if bad:
        print(f"nnsam3d: {counted(len(bad), 'case')} will be skipped; the others continue", file=sys.stderr)


def conclude(outcomes: Sequence[Outcome], output: Path, unwritten: Sequence[str] = ()) -> int:
    """Print the final summary; returns the exit status.

    Args:
        outcomes: of all cases.
        output: the folder of the results.
        unwritten: what could not be written beside the masks, as errors that were printed.
    """
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    skipped = len(outcomes) - len(failed) - len(done)
    windows, stock = (sum(getattr(o, name) for o in done) for name in ("windows", "stock_windows"))
    where = f"results in {output}" if done or skipped else "nothing was written"
    where += f"; {counted(len(unwritten), 'other file')} could not be written: see above" if unwritten else ""
    print(
        f"nnsam3d: {len(done)} predicted, {skipped} skipped, {len(failed)} failed; {counted(windows, 'window')} "
        f"computed (the sliding window: {stock}); {where}"
    )
    doubtful = [printable(outcome.case) for outcome in done if outcome.warnings]
    if doubtful:
        print(f"nnsam3d: warning: check {', '.join(doubtful)}: see the warnings above", file=sys.stderr)
    for outcome in failed:
        print(f"nnsam3d: failed: {outcome.error}", file=sys.stderr)
    return 1 if failed or unwritten else 0


def write_prediction_report(
    path: Path, arguments: Mapping[str, Any], model: Model, outcomes: Sequence[Outcome], seconds: float
) -> None:
    """Write the report as JSON.

    Args:
        path: of the report; cases of an earlier one are kept.
        arguments: of the command.
        model: that was used.
        outcomes: one for each case of this run.
        seconds: duration of the prediction.
    """
    earlier = _earlier_entries(path)
    report: dict[str, Any] = {
        "nnsam3d_report": REPORT_VERSION,
        "versions": {name: version(name) for name in VERSIONS} | {"python": platform.python_version()},
        "model": {
            "folder": str(model.folder),
            "trainer": model.predictor.trainer_name,
            "checkpoint": model.checkpoint,
            "sha256_by_fold": model.digests(),
        },
        "device": str(model.device),
        "node": platform.node(),
        "arguments": {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()},
        "seconds": round(seconds, 3),
        "cases": [_entry(outcome, earlier) for outcome in outcomes],
    }
    write_json(path, report)


def merge_reports(path: Path, parts: Sequence[Path]) -> int:
    """One report of a prediction that was shared among several commands, cases in the order of one command.

    Args:
        parts: the reports in the order of ``-part_id``; part k of n has every n-th case, from the k-th on.

    Returns:
        1 if a case failed or a part has left no report, which is told; else 0.
    """
    found = [json.loads(part.read_text(encoding="utf-8")) if part.is_file() else None for part in parts]
    missing = [str(part) for part, content in zip(parts, found, strict=True) if content is None]
    there = [content for content in found if content is not None]
    if not there:
        raise UserError(f"none of the parts has left a report: {', '.join(missing)}")
    lists = [content["cases"] if content else [] for content in found]
    cases = [some[row] for row in range(max(map(len, lists))) for some in lists if row < len(some)]
    shared = {"report", "num_parts", "part_id"}
    arguments = {key: value for key, value in there[0]["arguments"].items() if key not in shared}
    about = ("device", "seconds", "versions", "node")
    merged = there[0] | {
        "arguments": arguments,
        "seconds": round(sum(content["seconds"] for content in there), 3),
        "parts": [{key: content[key] for key in about if key in content} for content in there],
        "cases": cases,
    }
    write_json(path, merged)
    failed = [case for case in cases if case["status"] == "failed"]
    print(f"nnsam3d: {counted(len(cases) - len(failed), 'case')} predicted, {len(failed)} failed; {path}")
    for case in failed:
        print(f"nnsam3d: failed: {case['error']}", file=sys.stderr)
    for name in missing:
        print(f"nnsam3d: failed: a part has left no report: {name}", file=sys.stderr)
    return 1 if failed or missing else 0


def _entry(outcome: Outcome, earlier: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entry of a case; skipped cases keep their entry of an earlier report."""
    entry = asdict(outcome)
    return {**entry, **earlier.get(outcome.case, {}), "status": "skipped"} if outcome.status == "skipped" else entry


def _earlier_entries(report: Path) -> dict[str, dict[str, Any]]:
    try:
        cases = json.loads(report.read_text(encoding="utf-8"))["cases"]
        return {case["case"]: case for case in cases if case["status"] in ("done", "skipped")}
    except (OSError, ValueError, KeyError, TypeError):  # missing or invalid
        return {}
