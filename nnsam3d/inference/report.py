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

from nnsam3d.files import write_json
from nnsam3d.inference.folder import Case, Outcome
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.cases import strays

REPORT_VERSION = 1


def print_stray_prompts(cases: Sequence[Case], images: Path, prompts: Path | None) -> None:
    """Print warnings about prompt files that match no case."""
    for text in strays(images, {case.name for case in cases}, prompts):
        print(f"nnsam3d: warning: {text}")


def print_prompt_summary(cases: Sequence[Case]) -> None:
    """Print a summary and all errors, before anything is computed."""
    with_prompts = sum(case.prompts is not None for case in cases)
    bad = [case for case in cases if case.problem]
    automatic = len(cases) - with_prompts - len(bad)
    print(f"nnsam3d: {len(cases)} cases: {with_prompts} with clicks, {automatic} without (segmented automatically)")
    for case in bad:
        print(f"nnsam3d: error: {case.problem}", file=sys.stderr)
    if bad:
        print(f"nnsam3d: {len(bad)} case(s) will be skipped; the others continue", file=sys.stderr)


def conclude(outcomes: Sequence[Outcome], output: Path) -> int:
    """Print the final summary; returns the exit status."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    done = [outcome for outcome in outcomes if outcome.status == "done"]
    skipped = len(outcomes) - len(failed) - len(done)
    windows, stock = (sum(getattr(o, name) for o in done) for name in ("windows", "stock_windows"))
    print(
        f"nnsam3d: {len(done)} predicted, {skipped} skipped, {len(failed)} failed; {windows} windows computed "
        f"(the sliding window: {stock}); results in {output}"
    )
    doubtful = [outcome.case for outcome in done if outcome.warnings]
    if doubtful:
        print(f"nnsam3d: warning: check {', '.join(doubtful)}: see the warnings above", file=sys.stderr)
    for outcome in failed:
        print(f"nnsam3d: failed: {outcome.error}", file=sys.stderr)
    return 1 if failed else 0


def write_report(
    path: Path, arguments: Mapping[str, Any], model: Model, outcomes: Sequence[Outcome], seconds: float
) -> None:
    """Write the report as JSON.

    Args:
        arguments: of the command.
        seconds: duration of the prediction.
    """
    earlier = _earlier_entries(path)
    report: dict[str, Any] = {
        "nnsam3d_report": REPORT_VERSION,
        "versions": {name: version(name) for name in ("nnsam3d", "nnunetv2", "torch", "numpy", "SimpleITK")}
        | {"python": platform.python_version()},
        "model": {
            "folder": str(model.folder),
            "trainer": model.predictor.trainer_name,
            "checkpoint": model.checkpoint,
            "sha256_by_fold": model.digests(),
        },
        "device": str(model.device),
        "arguments": {key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()},
        "seconds": round(seconds, 3),
        "cases": [_entry(outcome, earlier) for outcome in outcomes],
    }
    write_json(path, report)


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
