"""Stand-ins for SLURM's programs: they note what they are told, and answer what a test wrote down."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

SBATCH = """#!/bin/bash
number=$(cat "$FAKE/next" 2>/dev/null || echo 100)
echo $((number + 1)) > "$FAKE/next"
echo "$@" >> "$FAKE/told_sbatch"
echo "$number"
"""
SQUEUE = """#!/bin/bash
if [ -e "$FAKE/refuses" ]; then echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; fi
cat "$FAKE/queue" 2>/dev/null || true
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$FAKE/told_scontrol"
"""


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the programs were told, and what they are to answer."""
    folder = tmp_path / "fake"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scontrol", SCONTROL)):
        path = folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    return folder
