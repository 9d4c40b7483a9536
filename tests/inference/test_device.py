"""Which devices names mean."""

from __future__ import annotations

import pytest
import torch

from nnsam3d.errors import UserError
from nnsam3d.inference.device import choose_device, choose_devices


def test_jobs_take_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_devices(["cpu"]) == ["cpu"]
    assert choose_devices(["auto"], 2) == ["cpu", "cpu"]
    monkeypatch.setattr("nnsam3d.inference.device.choose_device", lambda name: name)
    assert choose_devices(["cuda:0", "cuda:1"]) == ["cuda:0", "cuda:1"]
    assert choose_devices(["cuda:0", "cuda:1"], 3) == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_devices(["auto"]) == ["cuda:0", "cuda:1"]


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match="device nonsense"):
        choose_device("nonsense")
    with pytest.raises(UserError, match="device nonsense"):
        choose_devices(["nonsense"])
