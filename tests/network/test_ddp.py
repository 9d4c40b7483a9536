"""Distributed training: every parameter that DDP waits for gets a gradient, the same as in one process."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from nnsam3d.network import SAM3D, PromptTensors, RollOut, SAM3DConfig, freeze_pretrained

from .conftest import SMALL, same

PROCESSES = 2
ROOT = Path(__file__).resolve().parents[2]


def network(mode: str = "none") -> SAM3D:
    torch.manual_seed(0)
    net = SAM3D(SAM3DConfig(**SMALL, checkpointing=mode, fine_click_maps=2, detail_dim=4)).train()
    with torch.no_grad():
        for part in (net.prompt_encoder.click_map, net.mask_decoder.click_map):
            part.weight.normal_(std=0.1)  # type: ignore[union-attr, operator]
    return net


def batch(items: int = 2 * PROCESSES) -> Tensor:
    x_BCDHW = torch.randn(items, 2, *SAM3DConfig(**SMALL).patch_size, generator=torch.Generator().manual_seed(1))
    x_BCDHW[:, 1] = 0
    for item in range(items - 1):  # the last one has no click: the processes take different ways
        x_BCDHW[item, 1, 2 + item, 3, 4] = 1 + item % 3
    return x_BCDHW


def correct(logits: Tensor, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
    return logits.flatten(2)[:, :, :3].abs().mean(1), torch.ones_like(prompts.labels_BN[:, 0])


ROLL_OUT = RollOut(2, 3, lambda logits: logits.square().mean(), correct)  # type: ignore[union-attr]


TASKS: dict[str, RollOut | None] = {"plain": None, "rolled": ROLL_OUT}
MODES = {False: ("none", "blocks"), True: ("cheap",)}  # of a network with a frozen backbone, and without


def gradients(net: torch.nn.Module, x_BCDHW: Tensor, roll_out: RollOut | None = None) -> dict[str, Tensor]:
    net.zero_grad(set_to_none=True)
    (net(x_BCDHW).square().mean() if roll_out is None else net(x_BCDHW, roll_out)).backward()
    return {
        name.removeprefix("module.").removeprefix("_orig_mod."): p.grad
        for name, p in net.named_parameters()
        if p.grad is not None
    }


@pytest.mark.parametrize("compiled", ["no", "whole", "halves"])
def test_ddp_trains(tmp_path: Path, compiled: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        bare = network()
        whole: torch.nn.Module = bare
        if compiled == "whole":  # as nnU-Net does it, which puts a prefix before the parameters' names
            whole = torch.compile(bare, backend="eager")
        parallel = torch.nn.parallel.DistributedDataParallel(whole)
        if compiled == "halves":  # as the trainer does it, after nnU-Net has wrapped
            bare.compile_halves(backend="eager")
        for task in (None,) if compiled == "whole" else (None, ROLL_OUT):
            for _ in range(2):  # DDP complains in the iteration after a parameter was left out
                gradients(parallel, batch(1), task)
    finally:
        dist.destroy_process_group()


def one_of_two(folder: str, rank: int) -> None:
    torch.set_num_threads(1)
    share = batch().chunk(PROCESSES)[rank]
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES)
    try:
        for frozen in (False, True):
            for mode in MODES[frozen]:
                net = network(mode)
                if frozen:
                    freeze_pretrained(net)
                parallel = torch.nn.parallel.DistributedDataParallel(net)
                for name, task in TASKS.items():
                    for _ in range(2):
                        found = gradients(parallel, share, task)
                    torch.save(found, f"{folder}/{frozen}-{mode}-{name}-{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """Half of the batch each: identical on both sides, and equal to the whole batch in one process."""
    command = [sys.executable, "-m", "tests.network.test_ddp", str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], cwd=ROOT) for rank in range(PROCESSES)]
    assert [process.wait(timeout=600) for process in processes] == [0] * PROCESSES
    for frozen in (False, True):
        net = network()
        if frozen:
            freeze_pretrained(net)
        for mode, task in itertools.product(MODES[frozen], TASKS):
            expected = gradients(net, batch(), TASKS[task])
            first, second = (torch.load(tmp_path / f"{frozen}-{mode}-{task}-{rank}.pt") for rank in range(PROCESSES))
            assert first.keys() == second.keys() == expected.keys()
            for name, grad in first.items():
                assert torch.equal(grad, second[name]), name
                if not name.endswith("k_proj.bias"):  # analytically zero
                    same(grad, expected[name], 1e-3)


if __name__ == "__main__":
    one_of_two(sys.argv[1], int(sys.argv[2]))
