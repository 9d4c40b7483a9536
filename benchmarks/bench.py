"""`make bench`: the cost of the network, compared to a plain implementation (tests/network/reference.py).

Operations and saved bytes are determined from shapes. Times are medians of interleaved runs; peak memory is measured in
separate processes. `--full` adds a ViT-B at 128³ on the CPU (minutes per line). With a GPU, milliseconds, peak memory
and the share of its peak speed are added.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import bench_gpu
from benchmarks.page import conditions, sections
from nnsam3d.files import write_text
from nnsam3d.network import SAM3D, freeze_pretrained, preset_config
from nnsam3d.network.config import CHECKPOINTING
from nnsam3d.network.cost import count_flop, measure, on_shapes, saved_bytes
from nnsam3d.network.decoder import PaperFeatures
from nnsam3d.network.prompts import PromptTensors
from nnsam3d.tables import markdown

REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "network" / "reference.py"
PRESETS = ("vit_b", "tiny")
FULL = ("blocks", "blocks-bf16", "cheap", "prediction", "decoder", "click")
PAIRS = {  # of FULL: those that are measured on both sides
    "prediction": "forward pass",
    "decoder": "prompt encoder and decoder, forward and backward",
    "click": "a further click",
}
PLAIN, OURS = "plain", "ours"
SIDES = ("", PLAIN, OURS, "ratio")  # columns


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--output", type=Path, help="write the tables to this file as well")
    parser.add_argument("--repeats", type=int, default=7, help="runs per median (default: 7)")
    parser.add_argument(
        "--full",
        nargs="*",
        choices=FULL,
        help="also measure a ViT-B at 128³, completely or these parts: minutes each, 6 GB of memory (cheap: 12 GB)",
    )
    parser.add_argument("--full-repeats", type=int, default=3, help="runs per line of --full (default: 3)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        print(json.dumps(work(**json.loads(given.worker))))
        return 0
    if not REFERENCE.is_file():
        parser.error(f"{REFERENCE} does not exist: run this command in a checkout")
    written = [HEADING + conditions("bench", arguments), costs(), tiny(given.repeats)]
    if given.full is not None:
        written.append(full(given.full or FULL, given.full_repeats))
    if torch.cuda.is_available():
        subjects = [lambda mode, name=name: Subject(name, OURS, mode) for name in PRESETS]
        written.append(bench_gpu.section(dict(zip(PRESETS, subjects, strict=True)), given.repeats))
    text = "\n\n".join(written) + "\n"
    print(text)
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(given.output, text + notes(given.output))
    return 0


HEADING = (
    "# Performance\n\n"
    "This network compared to a plain implementation of the paper's (`tests/network/reference.py`), which computes the "
    "same function.\n\n"
)
KEPT = ("Where a second of training goes", "Notes")


def notes(path: Path) -> str:
    """The sections of an earlier output that other commands or hands have written."""
    parts = sections(path.read_text() if path.is_file() else "")
    kept = [part.rstrip() for part in parts if part.startswith(tuple(f"## {name}" for name in KEPT))]
    return "".join(f"\n{part}\n" for part in kept)


# ---- the compared networks ----


def plain_network(net: SAM3D) -> Any:
    spec = importlib.util.spec_from_file_location("nnsam3d_reference", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PlainSAM3D(net)


class Subject:
    """One preset in paper mode, ours or plain, with an image, one click and a target."""

    def __init__(self, preset: str, side: str, mode: str = "none") -> None:
        torch.manual_seed(0)
        config = preset_config(preset, paper=True, checkpointing=mode)
        self.net = SAM3D(config).train()
        freeze_pretrained(self.net)
        self.plain = plain_network(self.net) if side == PLAIN else None
        self.image = torch.randn(1, 1, *config.patch_size)
        self.clicks = torch.tensor([[[9.0, 20.0, 30.0]]])
        self.labels = torch.zeros(1, 1, dtype=torch.long)

    def forward(self) -> Tensor:
        if self.plain:
            return self.plain.segment(self.image, self.clicks)
        return self.net.segment(self.image, self.clicks, self.labels)

    def encode(self) -> Any:
        return self.plain.encode(self.image) if self.plain else self.net.encode(self.image)

    def decode(self, features: Any) -> Tensor:
        if self.plain:
            return self.plain.decode(features, self.image, self.clicks)
        return self.net.decode(features, self.clicks, self.labels)

    def decoder_step(self, levels: list[Tensor]) -> None:
        """Prompt encoder and decoder, forward and backward."""
        if self.plain:
            logits = self.plain.decode(levels, self.image, self.clicks)
        else:
            prompts = PromptTensors(self.clicks, self.labels)
            prompted = self.net.prompt_encoder(levels[3], prompts)
            fused = self.net.mask_decoder.fuse_unprompted(self.image, *levels[:3])
            logits = self.net.mask_decoder.finish(fused, prompted, self.image.shape[2:], prompts)
        logits.square().mean().backward()

    def train_step(self, optimizer: torch.optim.Optimizer, log: Callable[[str], None] = lambda _: None) -> float:
        """One update; calls `log` after every part."""
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.forward().float(), (self.image[:, 0] > 1).long())
        log(f"forward pass, loss {loss.item():.4f}")
        loss.backward()
        log("backward pass")
        optimizer.step()
        log("AdamW")
        return loss.item()

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.net.parameters() if p.requires_grad], lr=4e-4)


# ---- from shapes alone ----


def costs() -> str:
    rows = []
    for preset in PRESETS:
        config = preset_config(preset, paper=True)
        crop = f"{preset}, {config.patch_size[0]}³"
        forward, click, saved = plain_costs(preset)
        ours = measure(config)
        stems = [stem_flop(preset, side) / 1e9 for side in (PLAIN, OURS)]
        rows.append(row(f"{crop}: stem, GFLOP", *stems))
        rows.append(row(f"{crop}: forward, GFLOP", forward / 1e9, ours.forward_flop / 1e9))
        rows.append(row(f"{crop}: a further click, GFLOP", click / 1e9, ours.click_flop / 1e9))
        for mode in CHECKPOINTING:
            cost = measure(preset_config(preset, paper=True, checkpointing=mode))
            rows.append(row(f'{crop}: saved for the backward pass, "{mode}", GB', saved / 1e9, cost.saved_bytes / 1e9))
    return f"## Operations and memory by shape, batch 1, float32\n\n{markdown(SIDES, rows)}"


def plain_costs(preset: str) -> tuple[int, int, int]:
    """FLOP of a forward pass and of a further click, and bytes saved for the backward pass."""
    with torch.device("meta"):
        subject = Subject(preset, PLAIN)
    with on_shapes(lambda: subject.net):
        subject.image, subject.clicks = torch.empty(subject.image.shape), torch.empty(subject.clicks.shape)
        with torch.no_grad():
            features = subject.encode()
            forward, click = count_flop(subject.forward), count_flop(lambda: subject.decode(features))
        return forward, click, saved_bytes(subject.net, subject.forward)


def stem_flop(preset: str, side: str) -> int:
    with torch.device("meta"):
        subject = Subject(preset, side)
    with on_shapes(lambda: subject.net), torch.no_grad():
        image = torch.empty(subject.image.shape)
        stem = subject.plain.stem if subject.plain else subject.net.image_encoder.stem
        return count_flop(lambda: stem(image))


def row(name: str, plain: float, ours: float) -> list[str]:
    return [name, _number(plain), _number(ours), f"{ours / plain:.2g}"]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# ---- measured ----


def tiny(repeats: int) -> str:
    sides = {side: Subject("tiny", side) for side in (PLAIN, OURS)}
    features, optimizers = {}, {}
    for side, subject in sides.items():
        with torch.no_grad():
            features[side] = subject.encode()
        optimizers[side] = subject.optimizer()

    tasks: dict[str, Callable[[str], Any]] = {
        "forward": lambda side: without_gradients(sides[side].forward),
        "a further click": lambda side: without_gradients(lambda: sides[side].decode(features[side])),
        "training step": lambda side: sides[side].train_step(optimizers[side]),
    }
    rows = []
    for name, task in tasks.items():
        seconds = interleaved(task, repeats)
        rows.append(row(f"{name}, ms", 1e3 * seconds[PLAIN], 1e3 * seconds[OURS]))
    for name, what in (("prediction", "prediction"), ("training step", "step")):
        peaks = [in_a_process(preset="tiny", side=side, what=what)["above_mb"] for side in (PLAIN, OURS)]
        rows.append(row(f"peak memory of a {name} above the loaded network, MB", *peaks))
    return f"## tiny, 64³, batch 1, float32: medians of {repeats} interleaved runs\n\n{markdown(SIDES, rows)}"


def interleaved(task: Callable[[str], Any], repeats: int) -> dict[str, float]:
    """Median seconds per side; interleaved, so that other load affects both alike."""
    seconds: dict[str, list[float]] = {PLAIN: [], OURS: []}
    for repeat in range(repeats + 1):
        for side, times in seconds.items():
            start = time.perf_counter()
            task(side)
            if repeat:  # the first run warms up
                times.append(time.perf_counter() - start)
    return {side: statistics.median(times) for side, times in seconds.items()}


def full(parts: Sequence[str], repeats: int) -> str:
    """A ViT-B at 128³, every line in separate processes."""
    steps, logs, pairs = [], [], []
    for part in parts:
        if part in PAIRS:
            results: dict[str, list[dict[str, Any]]] = {PLAIN: [], OURS: []}
            for _ in range(repeats):  # interleaved, as above
                for side, runs in results.items():
                    runs.append(in_a_process(preset="vit_b", side=side, what=part))
            seconds = [statistics.median(run["seconds"] for run in results[side]) for side in (PLAIN, OURS)]
            peaks = [max(run["above_mb"] for run in results[side]) / 1e3 for side in (PLAIN, OURS)]
            pairs += [row(f"{PAIRS[part]}, s", *seconds), row("its peak memory above the loaded network, GB", *peaks)]
        else:
            mode, _, bf16 = part.partition("-")
            result = in_a_process(preset="vit_b", side=OURS, what="step", mode=mode, bf16=bool(bf16))
            precision = "bfloat16 autocast" if bf16 else "float32"
            steps.append([mode, precision, f"{result['peak_mb'] / 1e3:.2f}", f"{result['seconds']:.0f}"])
            logs += [f"    {mode}, {precision}", *(f"    {line}" for line in result["log"])]
    lines = ["## vit_b, 128³, batch 1"]
    if steps:
        header = ["checkpointing", "precision", "peak process memory, GB", "seconds"]
        lines += ["", "One training step with AdamW, each in a separate process:", "", markdown(header, steps)]
        lines += ["", "Logs (seconds since the start, current memory, peak):", "", *logs]
    if pairs:
        lines += ["", f"Medians of {repeats} interleaved processes, float32, largest peak:", ""]
        lines += [markdown(SIDES, pairs)]
    return "\n".join(lines)


def in_a_process(**task: Any) -> dict[str, Any]:
    """`work(**task)` in a separate process."""
    command = [sys.executable, "-m", "benchmarks.bench", "--worker", json.dumps(task)]
    print(f"... {task}", file=sys.stderr, flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"    {result}", file=sys.stderr, flush=True)
    return result


def work(preset: str, side: str, what: str, mode: str = "none", bf16: bool = False) -> dict[str, Any]:
    """Run a task; returns its seconds, the process's peak memory in total and above that before, and a log."""
    subject = Subject(preset, side, mode)
    optimizer = subject.optimizer()
    config = subject.net.config
    levels = [torch.randn(1, config.neck_dim, *config.token_grid, requires_grad=True) for _ in range(4)]
    log: list[str] = []
    start = time.perf_counter()

    def note(what: str) -> None:
        now, peak = memory_mb("VmRSS") / 1e3, memory_mb("VmHWM") / 1e3
        log.append(f"{time.perf_counter() - start:6.1f} s  {now:5.2f} GB  {peak:5.2f} GB  {what}")

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        features = without_gradients(lambda: features_of(subject, levels)) if what == "click" else None
        gc.collect()
        before = memory_mb("VmRSS")
        start = time.perf_counter()
        note("network, image and optimiser created")
        if what == "prediction":
            without_gradients(subject.forward)
        elif what == "click":
            without_gradients(lambda: subject.decode(features))
        elif what == "decoder":
            subject.decoder_step(levels)
        else:
            subject.train_step(optimizer, note)
    seconds, peak = time.perf_counter() - start, memory_mb("VmHWM")
    return {"seconds": seconds, "peak_mb": peak, "above_mb": peak - before, "log": log}


def features_of(subject: Subject, levels: list[Tensor]) -> Any:
    """Features as returned by `encode`, made from random maps: their values do not affect the cost of a click."""
    if subject.plain:
        return levels
    fused = subject.net.mask_decoder.fuse_unprompted(subject.image, *levels[:3])
    size = tuple(subject.image.shape[2:])
    return PaperFeatures(levels[3], fused, size, size)  # type: ignore[arg-type]


def without_gradients(run: Callable[[], Any]) -> Any:
    with torch.no_grad():
        return run()


def memory_mb(field: str) -> float:
    """A field of /proc/self/status (Linux): VmRSS is the process's current memory, VmHWM its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    sys.exit(main())
