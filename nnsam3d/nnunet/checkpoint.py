"""nnU-Net's checkpoints, opened without running what a stranger may have put into them.

A checkpoint is a pickle, and a pickle can run any code when it is opened. nnU-Net's hold tensors, plain Python values
and a few NumPy numbers: with these allowed and nothing else, torch's restricted unpickler opens them.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnsam3d.errors import UserError

TRUST_VARIABLE = "nnsam3d_trust_checkpoint"


def open_checkpoint(path: str | Path, trusted: bool | None = False, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint that an nnU-Net trainer wrote, on the CPU.

    Args:
        trusted: open it with everything that it holds; also where ``nnsam3d_trust_checkpoint=1`` is in the environment.
            None: never, whatever the environment says.
        mapped: leave the tensors in the file until they are used.

    Raises:
        UserError: it cannot be read, is no checkpoint of nnU-Net, or holds more than data.
    """
    if trusted is False:
        trusted = os.environ.get(TRUST_VARIABLE, "") not in ("", "0")
    try:
        with torch.serialization.safe_globals(_numbers()):
            # torch's files of before 2020 cannot be mapped
            mapped = mapped and zipfile.is_zipfile(path)
            loaded = torch.load(path, map_location="cpu", weights_only=not trusted, mmap=mapped)
    except OSError as error:
        raise UserError(f"{path}: the checkpoint cannot be read ({error.strerror})") from None
    except pickle.UnpicklingError as error:
        raise UserError(_refusal(path, error)) from None
    except (ImportError, AttributeError, TypeError) as error:  # of what was trusted
        raise UserError(f"{path}: needs code that is not installed here ({_first_line(error)})") from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:  # a zip archive cut short, another kind of file
        raise UserError(f"{path}: this is no checkpoint, or a damaged one ({_first_line(error)})") from None
    if not isinstance(loaded, dict) or not {"network_weights", "init_args", "trainer_name"} <= loaded.keys():
        raise UserError(f"{path}: no checkpoint of an nnU-Net training (network_weights, init_args, trainer_name)")
    return loaded


def is_damaged(path: Path) -> bool:
    """Whether a checkpoint of today's torch was cut short, or is not what was written; reads all of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError):
        return True


def _refusal(path: str | Path, error: Exception) -> str:
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint
    try:
        with torch.serialization.safe_globals(_numbers()):
            names = ", ".join(sorted(unsafe(path))[:5])
    except Exception:  # no zip archive, so nobody knows what it holds
        names = ""
    what = f"asks to run {names}" if names else "holds more than data"
    return (
        f"{path}: the checkpoint {what}, which no checkpoint of nnU-Net needs, so it is not opened. If you trust "
        f"whoever made it with this machine: {TRUST_VARIABLE}=1 in the environment, or nnsam3d predict "
        "--trust_checkpoint"
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _numbers() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """NumPy's numbers as they stand in pickles, under the names of NumPy 1 and 2."""
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [np.dtype, *dict.fromkeys(kinds), *((scalar, name) for name in names)]
