#!/usr/bin/env python3
"""The cost of the first and of a further click in a window: operations, cached bytes, seconds on this machine.

benchmarks/session_cost.py            tiny and ViT-B, windows of 128 x 128 x 128; minutes on a CPU
benchmarks/session_cost.py tiny       only tiny; seconds
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from nnsam3d.network import SAM3D
from nnsam3d.network.config import preset_config
from nnsam3d.network.cost import count_flop, on_shapes
from nnsam3d.training.options import TrainingOptions

SIZE = (128, 128, 128)


def row(name: str) -> str:
    config = preset_config(name, patch_size=SIZE, fine_click_maps=TrainingOptions().fine_click_maps)
    image = torch.rand(1, 1, *SIZE)
    clicks, labels = torch.tensor([[[64.0, 60, 70], [30, 40, 50]]]), torch.tensor([[1, 0]])
    with torch.no_grad(), on_shapes(lambda: SAM3D(config).eval()) as net:
        inputs = torch.empty_like(clicks), torch.zeros_like(labels)
        features = net.encode(torch.empty_like(image))
        further = count_flop(lambda: net.decode(features, *inputs))
        first = count_flop(lambda: net.segment(torch.empty_like(image), *inputs))
    network = SAM3D(config).eval()
    with torch.inference_mode():
        features, encoding = timed(lambda: network.encode(image))
        decoding = min(timed(lambda: network.decode(features, clicks, labels))[1] for _ in range(3))
    kept = sum(part.nbytes for part in features if isinstance(part, torch.Tensor))
    return (
        f"| {name} | {first / 1e9:.0f} | {further / 1e9:.0f} | {further / first:.1%} | {encoding + decoding:.1f} "
        f"| {decoding:.1f} | {decoding / (encoding + decoding):.0%} | {kept / 1e6:.0f} |"
    )


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def main() -> None:
    print("| preset | GFLOP, first click | further click | share | s, first click | further click | share | MB kept |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or ("tiny", "vit_b"):
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
