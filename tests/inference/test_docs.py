"""What the pages about prediction and sessions show works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from nnsam3d.cli import build_command_parser

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found


def test_the_example_of_the_session_page_runs(demo: Path) -> None:
    for block in blocks("session.md", "python"):
        exec(compile(block, "docs/session.md", "exec"), {})
    assert (demo / "test_000.json").is_file()


def test_the_command_lines_of_the_prediction_page_are_understood() -> None:
    lines = [line for block in blocks("prediction.md", "") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("nnsam3d predict ")]
    assert len(commands) >= 3
    for line in commands:
        build_command_parser("predict").parse_args(shlex.split(line, comments=True)[2:])
