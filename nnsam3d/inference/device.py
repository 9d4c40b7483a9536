"""Which device a name means, found out before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnsam3d.errors import UserError


def choose_device(name: str) -> str:
    """ "auto" is the GPU of CUDA if there is one, else the CPU; any other name is torch's.

    Raises:
        UserError: a device that is not there.

    >>> choose_device("cpu")
    'cpu'
    >>> choose_device("no-such-device")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    nnsam3d.errors.UserError: device no-such-device: ...
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name}: {reason}. Without a GPU: cpu") from error
    return name


def choose_devices(names: Sequence[str], jobs: int | None = None) -> list[str]:
    """A device for each of the jobs that run at a time; several take them in turn.

    Args:
        names: "auto" is every GPU of CUDA, or the CPU; others as :func:`choose_device` takes them.
        jobs: None: one for each device.

    Raises:
        UserError: a device that is not there.

    >>> choose_devices(["cpu"], jobs=2)
    ['cpu', 'cpu']
    """
    import torch

    devices = [choose_device(name) for name in names if name != "auto"]
    if "auto" in names:
        devices += [f"cuda:{number}" for number in range(torch.cuda.device_count())] or ["cpu"]
    return [devices[number % len(devices)] for number in range(jobs or len(devices))]


def half_precision_of(device: Any) -> Any:
    """Autocast where nnU-Net's prediction enters it: on CUDA.

    Args:
        device: a torch.device.
    """
    import torch

    return torch.autocast(device.type, enabled=device.type == "cuda")
