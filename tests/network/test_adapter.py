from __future__ import annotations

import pytest
import torch

from nnsam3d.network.adapter import Adapter

from . import oracle


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 5e-6)])
def test_adapter_alone(dtype: torch.dtype, relative: float) -> None:
    data = oracle.load("adapter_alone")
    adapter = Adapter(24, 12)
    oracle.fill(adapter, data, "adapter.")
    x = oracle.seeded(data["input_seed"], data["input_shape"], dtype)
    oracle.check(adapter.to(dtype)(x), data["out"], relative)


def test_update_is_never_negative() -> None:
    x = torch.randn(2, 3, 4, 5, 8)
    assert (Adapter(8, 4)(x) >= x).all()
