"""Resolve device names before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnsam3d.errors import UserError, first_line


def choose_device(name: Any) -> str:
    """ "auto" (or None) is a CUDA GPU if available, else the CPU; others are torch's names, devices and numbers.

    Raises:
        UserError: the device is not available.

    >>> choose_device("cpu")
    'cpu'
    >>> choose_device("no-such-device")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nnsam3d.errors.UserError: device no-such-device: ...
    """
    import torch

    if name is None or name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
        return str(torch.device(name))
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = first_line(error)
        raise UserError(f"device {name}: {reason}. Without a GPU: cpu") from error


def choose_devices(names: Sequence[str], jobs: int | None = None) -> list[str]:
    """A device for each concurrent job, assigned in turn.

    Args:
        names: "auto" stands for all CUDA GPUs, or the CPU; others as in :func:`choose_device`.
        jobs: None: one per device.

    Raises:
        UserError: the device is not available.

    >>> choose_devices(["cpu"], jobs=2)
    ['cpu', 'cpu']
    """
    import torch

    devices = [choose_device(name) for name in names if name != "auto"]
    if "auto" in names:
        devices += [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
    return [devices[number % len(devices)] for number in range(jobs or len(devices))]


def half_precision_of(device: Any) -> Any:
    """Autocast like nnU-Net's prediction: on CUDA.

    Args:
        device: a torch.device.
    """
    import torch

    return torch.autocast(device.type, enabled=device.type == "cuda")
