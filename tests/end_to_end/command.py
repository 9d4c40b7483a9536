"""Runs a command in a fork of a process that has imported torch: the imports take longer than the work on phantoms.

nnU-Net reads its folders from the environment when it is imported; before the fork, only what it imports is there.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = """
SimpleITK acvl_utils batchgenerators batchgeneratorsv2 dynamic_network_architectures matplotlib.pyplot nibabel pandas
scipy.ndimage scipy.stats skimage.measure sklearn.model_selection torch._dynamo
"""
FORKS.set_forkserver_preload(PRELOADED.split())


def run(name: str, arguments: Sequence[str], environment: dict[str, str], output: Path) -> int:
    """The command's exit code; what it writes goes to the file ``output``."""
    process = FORKS.Process(target=_as_script, args=(name, arguments, environment, output))
    process.start()
    process.join(1800)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{name} {arguments}: {output.read_text()[-6000:]}")
    return process.exitcode


def _as_script(name: str, arguments: Sequence[str], environment: dict[str, str], output: Path) -> None:
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type]  # the default, as in a new process
    sys.argv = [name, *arguments]
    (script,) = entry_points(group="console_scripts", name=name)
    try:
        sys.exit(script.load()())
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
