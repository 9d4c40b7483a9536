"""`python -m benchmarks.memory_check`: compares the planner's memory estimate with real training steps.

Every line is measured in a separate process, over two steps with AdamW. On a CPU, the figure is the process's peak
resident memory minus that before the network was built; freed storage is returned to the system immediately
(MALLOC_MMAP_THRESHOLD_), so that the peak is that of live tensors. With --device cuda, it is
torch.cuda.max_memory_allocated with float16 autocast.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.bench import memory_mb
from nnsam3d.network import SAM3D, RollOut, SAM3DConfig, freeze_pretrained, preset_config
from nnsam3d.network.memory import normalise_in_float32, step_memory
from nnsam3d.network.prompts import PromptTensors
from nnsam3d.network.rounds import BatchClick
from nnsam3d.planning.memory import nnunet_loss
from nnsam3d.training.error_click import error_clicks
from nnsam3d.training.options import TrainingOptions
from nnsam3d.training.plans import window_edge

STEPS, ROUNDS = 2, 3


@dataclass(frozen=True)
class Case:
    """One line of the table; frozen backbone for all presets but tiny."""

    preset: str
    patch: tuple[int, int, int]  # D, H, W voxels at token stride 4
    batch: int
    checkpointing: str
    half: bool = False
    channels: int = 1
    classes: int = 2

    @property
    def config(self) -> SAM3DConfig:
        return preset_config(
            self.preset,
            patch_size=self.patch,
            window=tuple(window_edge(-(-size // 4)) for size in self.patch),
            num_image_channels=self.channels,
            num_classes=self.classes,
            max_clicks=8,
            checkpointing=self.checkpointing,
            fine_click_maps=TrainingOptions().fine_click_maps,
        )

    @property
    def frozen(self) -> bool:
        return self.preset != "tiny"


SMALL = (
    Case("tiny", (64, 64, 64), 2, "none"),
    Case("tiny", (64, 64, 64), 2, "cheap"),
    Case("tiny", (96, 96, 96), 1, "blocks"),
    Case("tiny", (40, 56, 40), 8, "none", classes=3),
    Case("tiny", (64, 64, 64), 2, "none", half=True, channels=4, classes=4),
    Case("vit_b", (48, 48, 48), 2, "none"),
    Case("vit_b", (48, 48, 48), 2, "none", half=True),
    Case("vit_b", (64, 64, 64), 1, "cheap"),
    Case("vit_b", (64, 64, 64), 1, "blocks"),
)
LARGE = (
    Case("vit_b", (128, 128, 128), 1, "blocks"),  # the only one here for a computer without a GPU: ten minutes
    Case("vit_b", (128, 128, 128), 2, "blocks", half=True),
    Case("vit_b", (128, 128, 128), 2, "none", half=True),
    Case("vit_l", (128, 128, 128), 2, "cheap", half=True),
    Case("vit_h", (128, 128, 128), 2, "cheap", half=True),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_check", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--large", action="store_true", help="also measure plans for large cards (5 to 60 GB)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        print(json.dumps(measured(case_of(json.loads(given.worker)), given.device)))
        return 0
    print("| network | patch | batch | checkpointing | precision | estimate, GB | measured, GB | estimate / measured |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for case in SMALL + (LARGE if given.large else ()):
        print(row(case, estimated(case), in_a_process(case, given.device)), flush=True)
    return 0


def case_of(values: dict[str, Any]) -> Case:
    return Case(**{**values, "patch": tuple(values["patch"])})


def row(case: Case, estimate: int, measurement: int) -> str:
    patch = "x".join(map(str, case.patch))
    extra = f", {case.channels} channel(s), {case.classes} classes" if (case.channels, case.classes) != (1, 2) else ""
    precision = "mixed" if case.half else "float32"
    return (
        f"| {case.preset}{extra} | {patch} | {case.batch} | {case.checkpointing} | {precision} "
        f"| {estimate / 1e9:.2f} | {measurement / 1e9:.2f} | {estimate / measurement:.2f} |"
    )


def estimated(case: Case) -> int:
    """Bytes, without the planner's allowance."""
    return step_memory(case.config, batch=case.batch, loss=nnunet_loss(), frozen=case.frozen, half=case.half).peak


def in_a_process(case: Case, device: str = "cpu") -> int:
    """`measured(case)` in a separate process."""
    values = {**case.__dict__}
    command = [sys.executable, "-m", "benchmarks.memory_check", "--device", device]
    done = subprocess.run(
        [*command, "--worker", json.dumps(values)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    return int(json.loads(done.stdout.splitlines()[-1]))


def measured(case: Case, device: str) -> int:
    """Peak bytes of two training steps."""
    # Libraries that are loaded by the first operations are not part of the step.
    train(Case("tiny", (16, 16, 16), 1, "none", half=case.half, classes=case.classes), device, steps=1)
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train(case, device, STEPS)
        return torch.cuda.max_memory_allocated() - before
    before_mb = memory_mb("VmRSS")
    train(case, device, STEPS)
    return round((memory_mb("VmHWM") - before_mb) * 1e6)


def train(case: Case, device: str, steps: int) -> None:
    """Training steps like the trainer's, on noise with one click and three corrections."""
    torch.manual_seed(0)
    net = SAM3D(case.config).train()
    if case.frozen:
        freeze_pretrained(net)
    if case.half and device == "cpu":
        normalise_in_float32(net)
    net = net.to(device)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad])
    data_BCDHW = torch.randn(case.batch, case.channels + 1, *case.patch)
    data_BCDHW[:, -1] = 0
    data_BCDHW[:, -1, 3, 4, 5] = 2
    data_BCDHW = data_BCDHW.to(device)
    target = torch.randint(case.classes, (case.batch, 1, *case.patch), dtype=torch.int16, device=device)
    loss, foreground = nnunet_loss(), range(1, case.classes)

    def correct(logits_BKDHW: Tensor, prompts: PromptTensors) -> BatchClick:
        predicted_BDHW = logits_BKDHW.argmax(1).to(torch.int16)
        clicks = prompts.points_BN3, prompts.labels_BN
        return error_clicks(target[:, 0], predicted_BDHW, *clicks, (1, 1, 1), labels=foreground)

    task = RollOut(ROUNDS, TrainingOptions().rounds_range[1], lambda logits: loss(logits, target), correct)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        dtype = torch.float16 if device == "cuda" else torch.bfloat16
        with torch.autocast(device, dtype=dtype, enabled=case.half):
            error = net(data_BCDHW, task)
        error.backward()
        optimizer.step()
        del error


if __name__ == "__main__":
    sys.exit(main())
