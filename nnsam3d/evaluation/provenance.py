"""The origin of results: commands, machine and versions, stored beside them."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from nnsam3d.files import write_json, write_text

COMMANDS_FILE = "commands.txt"
ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("nnsam3d", "nnunetv2", "batchgeneratorsv2", "torch", "numpy", "scipy", "monai", "SimpleITK")


def remember_command(output: Path, arguments: Sequence[str]) -> None:
    """Record a command that made these results, unless recorded already."""
    command = shlex.join(["nnsam3d", *arguments])
    known = commands(output)
    if command not in known:
        write_text(output / COMMANDS_FILE, "\n".join([*known, command]) + "\n")


def commands(output: Path) -> list[str]:
    """The recorded commands, in order of first use."""
    path = output / COMMANDS_FILE
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def how_to_continue(output: Path) -> str:
    """The last recorded command, which skips finished jobs."""
    return (commands(output) or ["repeat the original command"])[-1]


def remember_environment(output: Path, devices: Sequence[str]) -> None:
    """Record versions and machine of the last run."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    facts = {
        "versions": f"Python {platform.python_version()}, {versions}",
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "device": ", ".join(dict.fromkeys(map(device_name, devices))),
    }
    write_json(output / ENVIRONMENT_FILE, facts)


def processor() -> str:
    """The name of the CPU, if known."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def device_name(device: str) -> str:
    """Of a GPU, the name of its model."""
    import torch  # late: loads long

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
