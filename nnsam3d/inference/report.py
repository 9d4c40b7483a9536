"""The report of a folder's prediction as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.files import write_json
from nnsam3d.inference.folder import Outcome
from nnsam3d.inference.model import Model

REPORT_VERSION = 1
OUTDATED = "outdated"
VERSIONS = ("nnsam3d", "nnunetv2", "batchgeneratorsv2", "torch", "numpy", "SimpleITK")


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


def outdate_reports(parts: Sequence[Path]) -> None:
    """Marks reports of an earlier run. One that its part does not write again counts as missing; its cases are kept
    for those that are skipped.

    Args:
        parts: the reports, which may not exist.
    """
    for part in parts:
        if part.is_file():
            write_json(part, {**json.loads(part.read_text(encoding="utf-8")), OUTDATED: True})


def merge_reports(path: Path, parts: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """One report of a prediction that was shared among several commands, cases in the order of one command.

    Args:
        parts: the reports in the order of ``-part_id``; part k of n has every n-th case, from the k-th on.

    Returns:
        The report, and the parts that have left none.
    """
    found: list[dict[str, Any] | None] = [
        json.loads(part.read_text(encoding="utf-8")) if part.is_file() else None for part in parts
    ]
    found = [None if content is not None and content.get(OUTDATED) else content for content in found]
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
    return merged, missing


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
