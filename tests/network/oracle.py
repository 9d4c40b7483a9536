"""Reference values of the official modules, and the rules for weights and inputs (tests/data/oracle/README.md)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnsam3d.network import SAM3D
from nnsam3d.network.weights import from_official

ORACLE = Path(__file__).resolve().parents[1] / "data" / "oracle"


def load(name: str) -> dict[str, np.ndarray]:
    with np.load(ORACLE / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def json_of(array: np.ndarray) -> Any:
    return json.loads(str(array))


def value_of(key: str, shape: tuple[int, ...], lr: float = 1.0) -> np.ndarray:
    last = key.rsplit(".", 1)[-1]
    if last == "lr":
        return np.full(shape, lr, np.float32)
    z = np.random.RandomState(zlib.crc32(key.encode("ascii"))).standard_normal(size=shape)
    if last in ("pos_embed", "depth_embed", "global_query"):
        z = 0.5 * z
    elif last.startswith("rel_pos_"):
        z = 0.2 * z
    elif last == "weight":
        z = 1 + 0.1 * z if len(shape) == 1 else z / np.sqrt(np.prod(shape[1:]))
    elif last == "bias":
        z = 0.1 * z
    else:
        assert last == "positional_encoding_gaussian_matrix", key
    return z.astype(np.float32)


def official_state(data: dict[str, np.ndarray], prefix: str, lr: float = 1.0) -> dict[str, Tensor]:
    """The official state dict of a file, prefix removed, float32."""
    entries = json_of(data["manifest"])
    return {
        key.removeprefix(prefix): torch.from_numpy(np.asarray(value_of(key, tuple(shape), lr)))
        for key, shape in entries
    }


def fill(module: nn.Module, data: dict[str, np.ndarray], prefix: str, lr: float = 1.0) -> None:
    """Fills a module; its keys must be exactly the official ones (the unused Fourier matrix apart)."""
    state = official_state(data, prefix, lr)
    state.pop("positional_encoding_gaussian_matrix", None)
    module.load_state_dict(state, strict=True)


def official_net(name: str, data: dict[str, np.ndarray], dtype: torch.dtype) -> SAM3D:
    """One of the whole tiny networks."""
    cfg: Any = json_of(data["cfg"])
    state = {key: value.to(dtype) for key, value in official_state(data, f"{name}.").items()}
    return from_official(state, num_heads=cfg["heads"], window=cfg["win"], prompt_heads=cfg["pheads"])


def seeded(seed: object, shape: object, dtype: torch.dtype) -> Tensor:
    size = tuple(int(n) for n in np.atleast_1d(np.asarray(shape)))
    values = np.random.RandomState(int(np.asarray(seed))).standard_normal(size=size)
    return torch.from_numpy(values.astype(np.float32)).to(dtype)


def image(seed: object, size_DHW: object, dtype: torch.dtype) -> Tensor:
    """The synthetic crop, (1, 1, D, H, W)."""
    depth, height, width = (int(n) for n in np.asarray(size_DHW))
    noise = np.random.RandomState(int(np.asarray(seed))).standard_normal((depth, height, width))
    d, h, w = np.ogrid[:depth, :height, :width]
    values = 0.5 * noise + np.sin(2 * np.pi * d / 40) + np.cos(2 * np.pi * h / 56) + 0.02 * w - 0.5
    return torch.from_numpy(values.astype(np.float32)).to(dtype)[None, None]


def clicks_dhw(points_DWH: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Stored clicks are (D, W, H); ours are (D, H, W)."""
    return torch.from_numpy(points_DWH).to(dtype)[..., [0, 2, 1]]


def check(ours: Tensor, reference: np.ndarray, relative: float, what: str = "") -> float:
    """Largest deviation relative to the reference's largest value; fails above `relative`."""
    assert tuple(ours.shape) == reference.shape, (what, ours.shape, reference.shape)
    expected = torch.from_numpy(np.asarray(reference)).double()
    deviation = float((ours.detach().double() - expected).abs().max() / expected.abs().max())
    assert deviation <= relative, f"{what}: {deviation:.2e} > {relative:.0e}"
    return deviation


def stats(x: Tensor) -> list[float]:
    x = x.detach().double()
    return [float(v) for v in (x.mean(), x.std(correction=0), x.norm(), x.abs().max(), x.min(), x.max())]


def check_stats(x: Tensor, reference: np.ndarray, relative: float = 1e-8) -> None:
    """Statistics over the whole tensor; relative to their scale (standard deviation, norm, maximum)."""
    scale = [reference[1], reference[1], reference[2], reference[3], reference[3], reference[3]]
    for ours, theirs, unit in zip(stats(x), reference, scale, strict=True):
        assert abs(ours - theirs) <= relative * unit, (stats(x), reference)


def at(x: Tensor, pos_hwd: np.ndarray, channels_last: bool) -> Tensor:
    h, w, d = torch.from_numpy(pos_hwd.astype(np.int64)).unbind(1)
    return x[0, h, w, d] if channels_last else x[0, :, h, w, d].T
