"""Where a second of training goes: the time of an update of SAM3DAdapterTrainer, by what it is spent on.

    python -m benchmarks.training_second Dataset513_STS_PET [--updates 60] [--into docs/performance.md]

The dataset must be planned and preprocessed. Its fold 0 is trained with the default options (or those of the variable
nnsam3d_options) for some updates, with nnU-Net's own loading and augmentation of patches beside it; nothing is written
into nnUNet_results. Times are exclusive: what an inner part takes is not counted again by the outer one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.page import conditions, publish
from nnsam3d.tables import markdown

TITLE = "Where a second of training goes"
WARM_UP = 8  # updates
PARTS = (
    "waiting for patches",
    "image encoder and detail branch, forward",
    "prompts and mask decoder, forward",
    "loss",
    "clicks on errors",
    "prompts and mask decoder, backward",
    "image encoder and detail branch, backward",
    "clipping and AdamW",
    "rest",
)
DATA, ENCODE, DECODE, LOSS, CLICKS, DECODE_BACK, ENCODE_BACK, STEP, REST = PARTS


class Clock:
    """Exclusive seconds by part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._inner: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside is this part, except for parts within it."""
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            taken = time.perf_counter() - start
            self.seconds[name] += taken - self._inner.pop()
            self.calls[name] += 1
            if self._inner:
                self._inner[-1] += taken

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose calls are this part."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return call


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_second", description=__doc__)
    parser.add_argument("dataset", help="name, such as Dataset513_STS_PET")
    parser.add_argument("-c", "--configuration", default="3d_fullres")
    parser.add_argument("-p", "--plans", default="nnUNetPlans")
    parser.add_argument("--updates", type=int, default=60, help="that are measured (default: 60)")
    parser.add_argument("--into", type=Path, help=f"a Markdown file whose section '{TITLE}' is replaced")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as results, mock.patch.dict(os.environ, nnUNet_results=results):
        clock, workers, patch = measure(args.dataset, args.configuration, args.plans, args.updates)
    total = sum(clock.seconds.values())
    rows = [
        [part, f"{clock.seconds[part] / args.updates:.3f}", f"{100 * clock.seconds[part] / total:.0f} %",
         f"{clock.calls[part] / args.updates:.1f}" if part != REST else ""]
        for part in PARTS
    ]  # fmt: skip
    header = ["part", "seconds per update", "share", "calls per update"]
    about = (
        f"{args.dataset}, {patch}: {60 * args.updates / total:.0f} updates per minute. The process that loads and "
        f"augments patches used {workers / total:.2f} of a core beside it."
    )
    begun = conditions("training_second", arguments)
    publish(f"## {TITLE}\n\n{begun}\n\n{about}\n\n{markdown(header, rows)}\n", args.into)
    return 0


def measure(dataset: str, configuration: str, plans: str, updates: int) -> tuple[Clock, float, str]:
    """The clock, processor seconds of the data workers, and a sentence about the patches."""
    from nnsam3d.training import rollout
    from nnsam3d.training import trainer as module

    preprocessed = Path(os.environ["nnUNet_preprocessed"]) / dataset
    described = json.loads((preprocessed / f"{plans}.json").read_text()) | {"continue_training": False}
    dataset_json = json.loads((preprocessed / "dataset.json").read_text())
    trainer = module.SAM3DAdapterTrainer(described, configuration, 0, dataset_json, torch.device("cpu"))
    trainer.initialize()
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    clock, network = Clock(), trainer.bare_network
    network.encode = clock.timed(ENCODE, network.encode)  # type: ignore[method-assign]
    network.decode = clock.timed(DECODE, network.decode)  # type: ignore[method-assign]
    loss = trainer.loss
    trainer.loss = clock.timed(LOSS, loss)
    trainer.optimizer.step = clock.timed(STEP, trainer.optimizer.step)  # type: ignore[method-assign]
    patched = (
        mock.patch.object(rollout, "next_clicks", clock.timed(CLICKS, rollout.next_clicks)),
        mock.patch.object(module, "clip_gradients", clock.timed(STEP, module.clip_gradients)),
        mock.patch.object(torch.autograd, "grad", clock.timed(DECODE_BACK, torch.autograd.grad)),
        mock.patch.object(torch.Tensor, "backward", clock.timed(ENCODE_BACK, torch.Tensor.backward)),
    )
    try:
        for one in patched:
            one.start()
        for number in range(WARM_UP + updates):
            if number == WARM_UP:
                clock.seconds.clear()
                clock.calls.clear()
                before = _processor_seconds()
            trainer._iteration = number  # from which the number of corrections is drawn
            with clock.part(REST):
                with clock.part(DATA):
                    batch = next(trainer.dataloader_train)
                trainer.update(batch)
        workers = _processor_seconds() - before
    finally:
        mock.patch.stopall()
        for worker in multiprocessing.active_children():
            worker.kill()
    shape = tuple(batch["data"].shape)
    low, high = trainer.options.rounds_range
    words = f"batches of {shape[0]} patches of {' × '.join(map(str, shape[2:]))} voxels, {low} to {high} corrections"
    return clock, workers, words


def _processor_seconds() -> float:
    """Of this process's children, so far (Linux)."""
    ticks = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
    os._exit(0)  # without waiting for the data workers
