"""The GPU columns of `make bench`: milliseconds, peak memory, and the share of the peak speed.

The share is the minimum time for the counted arithmetic, at the speed of a large matrix product measured on the same
card immediately before, divided by the measured time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from nnsam3d.network import SAM3DConfig
from nnsam3d.network.config import CHECKPOINTING
from nnsam3d.network.cost import measure

PRODUCT = 8192  # edge of the matrices whose product determines the card's speed
DTYPE = torch.bfloat16


def section(subjects: Mapping[str, Callable[[str], Any]], repeats: int, device: str = "cuda") -> str:
    """The table of all presets.

    Args:
        subjects: preset -> function of the checkpointing mode that makes a `bench.Subject` on the CPU.
        repeats: runs per median.
    """
    where = torch.device(device)
    peak = product_speed(where, repeats)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "stand-in on the CPU"
    lines = [
        f"## {name}, batch 1, bfloat16 autocast: medians of {repeats} runs",
        "",
        f"The share is relative to a matrix product, which reaches {peak / 1e12:.3g} TFLOP/s.",
        "",
        "| | ms | peak memory, GB | TFLOP/s | share |",
        "|---|---|---|---|---|",
    ]
    for preset, make in subjects.items():
        lines += rows(preset, make, where, repeats, peak)
    return "\n".join(lines)


def rows(preset: str, make: Callable[[str], Any], device: torch.device, repeats: int, peak: float) -> list[str]:
    subject = make("none")
    config: SAM3DConfig = subject.net.config
    cost = measure(config, autocast=DTYPE)
    move(subject, device)
    title = f"{preset}, {config.patch_size[0]}³"
    with torch.no_grad(), torch.autocast(device.type, dtype=DTYPE):
        features = subject.encode()
        forward = timed(subject.forward, device, repeats)
        click = timed(lambda: subject.decode(features), device, repeats)
    result = [
        row(f"{title}: forward", *forward, cost.forward_flop, peak),
        row(f"{title}: a further click", *click, cost.click_flop, peak),
    ]
    for mode in CHECKPOINTING:
        subject = make(mode)
        optimizer = move(subject, device).optimizer()

        def step(subject: Any = subject, optimizer: Any = optimizer) -> None:
            with torch.autocast(device.type, dtype=DTYPE):
                subject.train_step(optimizer)

        # the backward pass of the frozen parts needs no gradients of weights: no count to compare with
        result.append(row(f'{title}: training step, "{mode}"', *timed(step, device, repeats), None, peak))
    return result


def move(subject: Any, device: torch.device) -> Any:
    subject.net.to(device)
    for name in ("image", "clicks", "labels"):
        setattr(subject, name, getattr(subject, name).to(device))
    return subject


def timed(run: Callable[[], Any], device: torch.device, repeats: int) -> tuple[float, float]:
    """Median seconds of a run, and the peak of the device's memory in bytes (0 without a GPU)."""
    gpu = device.type == "cuda"
    run()  # warm-up
    if gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), float(torch.cuda.max_memory_allocated(device)) if gpu else 0.0


def product_speed(device: torch.device, repeats: int) -> float:
    """FLOP per second of a large matrix product."""
    edge = PRODUCT if device.type == "cuda" else 256
    a, b = (torch.randn(edge, edge, device=device, dtype=DTYPE) for _ in range(2))
    seconds, _ = timed(lambda: a @ b, device, repeats)
    return 2 * edge**3 / seconds


def row(name: str, seconds: float, memory: float, flop: int | None, peak: float) -> str:
    speed = f"{flop / seconds / 1e12:.3g} | {flop / seconds / peak:.0%}" if flop else "– | –"
    return f"| {name} | {1e3 * seconds:,.1f} | {memory / 1e9:.2f} | {speed} |"
