"""Where a measurement is written: a section of a Markdown page, which says when, where and by which command."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from nnsam3d.evaluation.provenance import processor
from nnsam3d.files import write_text


def conditions(module: str, arguments: Sequence[str] | None) -> str:
    """Date, machine and command of a measurement.

    Args:
        module: of this folder. arguments: of its command; None: those of this process.
    """
    command = " ".join(["python", "-m", f"benchmarks.{module}", *map(shlex.quote, arguments or sys.argv[1:])])
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{now}. {processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, load average {os.getloadavg()[0]:.1f} at the start. Command:\n\n    {command}"
    )


def publish(section: str, into: Path | None) -> None:
    """Prints a section, and puts it into a page, if there is to be one."""
    print(section, flush=True)
    if into:
        write_text(into, with_section(into.read_text() if into.is_file() else "", section))


def sections(page: str) -> list[str]:
    """The parts of a page, each but the first with its title."""
    return re.split(r"^(?=## )", page, flags=re.MULTILINE)


def with_section(page: str, section: str) -> str:
    """A page with a section that replaces the one with the same title, or is added before the notes or at the end."""
    title, parts = section.splitlines()[0], sections(page)
    places = [n for n, part in enumerate(parts) if part.splitlines()[:1] == [title]]
    ends = [n for n, part in enumerate(parts) if part.startswith("## Notes")] or [len(parts)]
    before, after = (places[0], places[0] + 1) if places else (ends[0], ends[0])
    return "".join([*parts[:before], section + "\n" * (after < len(parts)), *parts[after:]])
