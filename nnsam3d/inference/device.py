"""Which device a name means, found out before anything is loaded."""

from __future__ import annotations

from nnsam3d.errors import UserError


def choose_device(name: str) -> str:
    """"auto" is the GPU of CUDA if there is one, else the CPU; any other name is torch's.

    Raises:
        UserError: a device that is not there.
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
