"""Peak memory of a training step, found by running the step on tensors that have shapes but no values.

Forward pass, loss and backward pass run as they would in a training; every storage is counted from the operation
that makes it to the moment it is freed, so recomputation, temporaries and gradients are in the peak without a
formula. Not seen: what a kernel allocates inside, and what the allocator wastes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .config import SAM3DConfig
from .cost import on_shapes
from .prompts import PromptTensors
from .rounds import Logits, RollOut
from .sam3d import SAM3D, freeze_pretrained

SLOTS = 6  # for corrections
ADAMW_STATES = 2  # moments per trainable parameter, float32
Loss = Callable[[Logits, Tensor], Tensor]


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one training step."""

    parameters: int
    trainable: int
    step: int  # peak of forward, loss and backward: parameters, gradients, activations, temporaries

    @property
    def peak(self) -> int:
        """With AdamW's state, as from the second step on."""
        return self.step + ADAMW_STATES * self.trainable


class LiveStorages(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.watch(leaf)
        return result


def normalise_in_float32(net: nn.Module) -> None:
    """Makes autocast on a CPU, which runs, keep what autocast on a GPU, which is asked about, keeps."""
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def _no_correction(logits_BKDHW: Tensor, prompts: PromptTensors) -> tuple[Tensor, Tensor]:
    """Replaces the search for errors, which needs values: no correction, but the same int16 label map."""
    logits_BKDHW.argmax(1).to(torch.int16)
    return prompts.points_BN3[:, 0], prompts.labels_BN[:, 0]


def step_memory(
    config: SAM3DConfig, *, batch: int, loss: Loss, frozen: bool, half: bool, rounds: int = 1
) -> StepMemory:
    """Memory of a training step with patches of the configuration's size.

    Args:
        config: of the network; it gets the paper's decoder.
        batch: number of patches per step.
        loss: of logits (B, K, D, H, W) and target (B, 1, D, H, W), int16 as from nnU-Net's data loader.
        rounds: of the roll-out. Further rounds do not raise the peak.
        frozen: whether the backbone trains not, see `freeze_pretrained`.
        half: mixed precision as on a GPU; otherwise float32 throughout.
    """

    def build() -> SAM3D:
        net = SAM3D(config).train()
        if frozen:
            freeze_pretrained(net)
        if half:
            normalise_in_float32(net)
        return net

    with on_shapes(build) as net, LiveStorages() as live:
        for tensor in [*net.parameters(), *net.buffers()]:
            live.watch(tensor)
        sizes = [(p.nbytes, p.requires_grad) for p in net.parameters()]
        data_BCDHW = torch.empty(batch, config.num_image_channels + config.prompt_channels, *config.patch_size)
        target = torch.empty(batch, 1, *config.patch_size, dtype=torch.int16)
        task = RollOut(rounds, SLOTS, lambda logits: loss(logits, target), _no_correction)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            error = net(data_BCDHW, task)
        error.backward()
        peak = live.peak
    return StepMemory(
        parameters=sum(size for size, _ in sizes),
        trainable=sum(size for size, trains in sizes if trains),
        step=peak,
    )
