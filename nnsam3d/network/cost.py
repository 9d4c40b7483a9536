"""The cost of a configuration, determined by running it on tensors with shapes but no values.

Nothing is allocated or computed, so a ViT-H takes seconds on any machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from .attention import CONSTANT
from .config import SAM3DConfig
from .prompts import PromptTensors
from .sam3d import SAM3D, freeze_pretrained

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Cost:
    """Of one patch in float32 (or under autocast, see `measure`); matrix products and convolutions only."""

    forward_flop: int  # a multiplication and an addition count as two
    click_flop: int  # `decode` with cached features: the cost of a further click
    saved_bytes: int  # kept by the forward pass for the backward pass, parameters excluded
    trainable_bytes: int  # gradients need as much, AdamW's moments twice as much


def measure(
    of: SAM3DConfig | SAM3D, *, batch: int = 1, frozen: bool = True, autocast: torch.dtype | None = None
) -> Cost:
    """The cost of a configuration with the paper's decoder, or of a network, with patches of its size.

    Args:
        of: a configuration, or a network; its weights are not read.
        batch: number of patches; all numbers but ``trainable_bytes`` grow with it.
        frozen: as by `freeze_pretrained`.
        autocast: data type of mixed precision; None: float32 throughout.
    """
    config = of if isinstance(of, SAM3DConfig) else of.config

    def build() -> SAM3D:
        net = SAM3D(of) if isinstance(of, SAM3DConfig) else as_built(of)
        if frozen:
            freeze_pretrained(net)
        return net.train()

    with on_shapes(build) as net, torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        image = torch.empty(batch, config.num_image_channels, *config.patch_size)
        positions = torch.empty(batch, config.max_clicks, 3)
        dense = torch.empty(batch, config.extent_maps, *config.patch_size) if config.extent_maps else None
        prompts = PromptTensors(positions, torch.zeros(batch, config.max_clicks, dtype=torch.long), dense)
        with torch.no_grad():
            features = net.encode(image)
            click_flop = count_flop(lambda: net.decode(features, prompts))
            forward_flop = count_flop(lambda: net.segment(image, prompts))
        saved = saved_bytes(net, lambda: net.segment(image, prompts))
        trainable = sum(p.nbytes for p in net.parameters() if p.requires_grad)
    return Cost(
        forward_flop=forward_flop,
        click_flop=click_flop,
        saved_bytes=saved,
        trainable_bytes=trainable,
    )


def as_built(net: Module) -> Module:
    """A copy without values, whose parameters are trainable as in a new network; those of loaded ones are not."""
    memo: dict[int, Tensor] = {id(one): torch.empty_like(one, device="meta") for one in net.buffers()}
    for name, one in net.named_parameters():
        memo[id(one)] = nn.Parameter(torch.empty_like(one, device="meta"), requires_grad=not name.endswith(CONSTANT))
    return copy.deepcopy(net, memo)  # type: ignore[arg-type]


@contextmanager
def on_shapes(build: Callable[[], Module]) -> Iterator[Module]:
    """The network made by `build`, without values; inside the context, other tensors have no values either."""
    with torch.device("meta"):  # initialising parameters looks at values
        net = build()
    # Not on "meta" itself: it would take attention's unfused path, which saves the scores.
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield net.to_empty(device="cpu")


def count_flop(run: Callable[[], Any]) -> int:
    """Floating-point operations of `run`: matrix products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping=_uncounted()) as counter:
        run()
    return counter.get_total_flops()


def _uncounted() -> dict[Any, Any]:
    """The CPU's fused attention, which older versions of torch do not count."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if fused in flop_registry:
        return {}

    def attention(q: Any, k: Any, v: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(q, k, v)

    return {fused: attention}


def saved_bytes(net: nn.Module, run: Callable[[], Tensor]) -> int:
    """Bytes that the forward pass `run` keeps for its backward pass; every storage counts once.

    Parameters and buffers are not counted.
    """
    own = {_storage(t) for t in [*net.parameters(), *net.buffers()]}
    sizes: dict[int, int] = {}
    keep = []  # a freed storage could share its address with the next one

    def pack(tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in own:
            sizes[key] = tensor.untyped_storage().nbytes()
            keep.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        keep.append(run())
    return sum(sizes.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
