"""Opens nnU-Net's checkpoints without executing code that they may contain.

Weights that are passed on can also be a .safetensors file, which contains no code, without the optimiser's state.

A checkpoint is a pickle, which can execute arbitrary code when opened. nnU-Net's checkpoints contain tensors, plain
Python values and a few NumPy numbers; torch's restricted unpickler opens them with an allow list of just these.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from nnsam3d.errors import UserError, first_line

WEIGHTS_ENDING = ".safetensors"
TRUST_VARIABLE = "nnsam3d_trust_checkpoint"


class UntrustedCheckpoint(UserError):
    """A checkpoint that would run code when it is opened."""


def open_checkpoint(path: str | Path, trusted: bool | None = False, mapped: bool = False) -> dict[str, Any]:
    """A checkpoint of an nnU-Net trainer, on the CPU.

    Args:
        trusted: open it without restrictions; also if ``nnsam3d_trust_checkpoint=1`` is set in the environment.
            None: never, regardless of the environment.
        mapped: memory-map the tensors.

    Raises:
        UntrustedCheckpoint: it would run code.
        UserError: it cannot be read, is not a checkpoint of nnU-Net, or contains more than data.
    """
    if Path(path).suffix == WEIGHTS_ENDING:
        return _open_weights(Path(path))
    if trusted is False:
        trusted = os.environ.get(TRUST_VARIABLE, "") not in ("", "0")
    try:
        with torch.serialization.safe_globals(_numbers()):
            # torch files from before 2020 cannot be memory-mapped
            mapped = mapped and zipfile.is_zipfile(path)
            loaded = torch.load(path, map_location="cpu", weights_only=not trusted, mmap=mapped)
    except OSError as error:
        raise UserError(f"{path}: the checkpoint cannot be read ({error.strerror})") from None
    except pickle.UnpicklingError:
        raise _refusal(path) from None
    except (ImportError, AttributeError, TypeError) as error:  # raised by trusted code
        raise UserError(f"{path}: needs code that is not installed here ({first_line(error)})") from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:  # a truncated zip archive, or another type of file
        raise UserError(f"{path}: not a checkpoint, or damaged ({first_line(error)})") from None
    if not isinstance(loaded, dict) or not {"network_weights", "init_args", "trainer_name"} <= loaded.keys():
        raise UserError(f"{path}: not a checkpoint of an nnU-Net training (network_weights, init_args, trainer_name)")
    return loaded


def _open_weights(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            known = json.loads((file.metadata() or {})["nnsam3d"])
            return {"network_weights": {name: file.get_tensor(name) for name in file.keys()}, **known}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: the weights cannot be read ({error.strerror or error})") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not the weights of a model of nnsam3d, or damaged ({first_line(error)})") from None


def is_damaged(path: Path) -> bool:
    """Whether a checkpoint of today's torch was cut short, or is not what was written; reads all of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError):
        return True


def _refusal(path: str | Path) -> UserError:
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint
    try:
        with torch.serialization.safe_globals(_numbers()):
            names = ", ".join(sorted(unsafe(path))[:5])
    except Exception:  # not a zip archive: unknown contents
        names = ""
    what = f"would run {names}" if names else "contains more than data"
    return (UntrustedCheckpoint if names else UserError)(
        f"{path}: the checkpoint {what}, unlike nnU-Net's checkpoints, so it is not opened. If you trust its author "
        f"to run code on this machine: {TRUST_VARIABLE}=1 in the environment, or nnsam3d predict "
        "--trust_checkpoint"
    )


def _numbers() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """NumPy's numbers in pickles, under the names of NumPy 1 and 2."""
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [np.dtype, *dict.fromkeys(kinds), *((scalar, name) for name in names)]
