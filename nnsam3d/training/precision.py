"""The training precision of a device, the same for every trainer of a comparison."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import autocast


def half_precision(device: torch.device, cpu_bfloat16: bool) -> Any:
    """Autocast: float16 on a GPU as in nnU-Net, bfloat16 on a CPU with fast bfloat16, otherwise none.

    Args:
        cpu_bfloat16: the option of that name; False disables bfloat16.
    """
    if device.type == "cuda":
        return autocast("cuda")
    if device.type == "cpu" and cpu_bfloat16 and fast_bfloat16():
        return autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


def fast_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 (AVX-512 BF16 or AMX); without them it is slower than float32."""
    # torch has no public function for this, and older versions have none at all
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
