"""SAM3D: image encoder, prompt encoder and mask decoder as one network (SPEC §1).

Shape suffixes: B batch, C image channels, K logit maps, D H W voxels, N clicks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from nnsam3d.prompts.encoding import ENCODING

from .config import SAM3DConfig, Triple
from .image_encoder import ImageEncoder
from .mask_decoder import MaskDecoder
from .prompt_encoder import PromptEncoder
from .prompts import PromptTensors
from .recompute import recompute
from .rounds import RollOut, play, summed

COMPILED_SLOTS = 64  # clicks per window that a compiled network reads in prediction
LOGIT_LIMIT = 50.0  # nnU-Net's sliding window sums logits in half precision with weights of up to 10


class Features(NamedTuple):
    """What the clicks do not change about an image; can be kept while the user clicks."""

    deepest_BCHWD: Tensor  # the level that the prompt encoder works on, token grid
    fused_BOXYZ: Tensor  # share of the other levels and of the image in the decoder's fusion
    padded_size: Triple  # (D, H, W) voxels after padding to whole tokens
    size: Triple  # (D, H, W) voxels of the image as given


class SAM3D(nn.Module):
    """The promptable 3-D network. Input of `forward`: image channels, then the prompt channel."""

    def __init__(self, config: SAM3DConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)
        # DDP waits for a gradient of every parameter that it knows; these never get one (see PromptLayer).
        # torch.compile, which nnU-Net applies first, puts a prefix before all names.
        unused = [name for name, _ in self.named_parameters() if ".cross_attn_token_to_image." in name]
        self._ddp_params_and_buffers_to_ignore = [*unused, *(f"_orig_mod.{name}" for name in unused)]

    def forward(self, x_BCDHW: Tensor, roll_out: RollOut | None = None) -> Tensor:
        """Logits (B, K, D, H, W); the prompts are read from the channels after the image's.

        With a ``roll_out`` the mean loss of its rounds instead: the whole of a training step in one forward pass.
        """
        channels = self.config.num_image_channels
        meaning = f"{channels} image channel(s) and the prompt channel"
        self._check_volume(x_BCDHW, channels + ENCODING.num_channels, meaning)
        image_BCDHW, prompts_BPDHW = ENCODING.split(x_BCDHW, axis=1)
        if roll_out is not None:
            first = PromptTensors.read(prompts_BPDHW, self.config.max_clicks)
            return self.rolled_out(self.encode(image_BCDHW), first, roll_out)
        slots = self.config.max_clicks if self.training else None
        if not self.training and torch.compiler.is_compiling():  # needs a static number, but users may click a lot
            slots = max(self.config.max_clicks, COMPILED_SLOTS)
        logits = self.segment(image_BCDHW, PromptTensors.read(prompts_BPDHW, slots))
        if self.training or self.config.paper:
            return logits
        return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def encode(self, image_BCDHW: Tensor) -> Features:
        """Everything that does not depend on the clicks, for `decode`; any size, padded to whole tokens."""
        channels = self.config.num_image_channels
        self._check_volume(image_BCDHW, channels, f"{channels} image channel(s)")
        d, h, w = size = tuple(image_BCDHW.shape[2:])
        sd, sh, sw = self.config.token_stride
        missing = (-d % sd, -h % sh, -w % sw)
        if any(missing):
            pd, ph, pw = missing
            image_BCDHW = F.pad(image_BCDHW, (0, pw, 0, ph, 0, pd), mode="replicate")
        levels = self.image_encoder(image_BCDHW)
        fused = self._run(self.mask_decoder.fuse_unprompted, image_BCDHW, *levels[:3])
        padded = (d + missing[0], h + missing[1], w + missing[2])
        return Features(levels[3], fused, padded, (size[0], size[1], size[2]))

    def decode(
        self, features: Features, prompts: PromptTensors | Tensor, labels_BN: Tensor | None = None
    ) -> Tensor:
        """Logits (B, K, D, H, W) for prompts, or for clicks at (D, H, W) voxels (B, N, 3) with labels, -1 = padding."""
        prompts = PromptTensors.of(prompts, labels_BN)
        self._check_prompts(features, prompts)
        prompted = self._run(self.prompt_encoder, features.deepest_BCHWD, prompts)
        logits = self._run(self.mask_decoder.finish, features.fused_BOXYZ, prompted, features.padded_size, prompts)
        d, h, w = features.size
        return logits if features.size == features.padded_size else logits[:, :, :d, :h, :w]

    def segment(
        self, image_BCDHW: Tensor, prompts: PromptTensors | Tensor, labels_BN: Tensor | None = None
    ) -> Tensor:
        """`decode(encode(image), prompts)`."""
        return self.decode(self.encode(image_BCDHW), prompts, labels_BN)

    def rolled_out(self, features: Features, first: PromptTensors, roll_out: RollOut) -> Tensor:
        """Mean loss of several rounds of clicks on the same features (see `rounds`)."""

        def losses_of(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
            same = features._replace(deepest_BCHWD=tensors[0], fused_BOXYZ=tensors[1])
            return play(lambda prompts: self.decode(same, prompts), first, roll_out)

        used = itertools.chain(self.prompt_encoder.parameters(), self.mask_decoder.parameters())
        return summed(losses_of, (features.deepest_BCHWD, features.fused_BOXYZ), used, roll_out.scale)

    def compile_halves(self, **how: Any) -> None:
        """torch.compile, with its arguments, for `encode` and `decode` each: between them rounds are played."""
        self.encode = torch.compile(self.encode, **how)  # type: ignore[method-assign]
        self.decode = torch.compile(self.decode, **how)  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled halves: they are bound to this very network, a copy compiles its own."""
        state: dict[str, Any] = super().__getstate__()
        return {key: value for key, value in state.items() if key not in ("encode", "decode")}

    def _run(self, part: Callable[..., Tensor], *inputs: Any) -> Tensor:
        return recompute(part, *inputs) if self.config.checkpointing == "blocks" else part(*inputs)

    def _check_volume(self, x: Tensor, channels: int, meaning: str) -> None:
        if x.ndim != 5:
            raise ValueError(
                f"expected a 5-D tensor (batch, channels, D, H, W), got {x.ndim}-D of shape {tuple(x.shape)}"
            )
        if x.shape[1] != channels:
            raise ValueError(
                f"expected {channels} channels ({meaning}), got {x.shape[1]} in shape {tuple(x.shape)}"
            )
        if 0 in x.shape:
            raise ValueError(f"the input is empty: shape {tuple(x.shape)}")

    def _check_prompts(self, features: Features, prompts: PromptTensors) -> None:
        clicks, labels = prompts.points_BN3, prompts.labels_BN
        batch = features.deepest_BCHWD.shape[0]
        if clicks.ndim != 3 or clicks.shape[2] != 3 or clicks.shape[0] != batch:
            raise ValueError(
                f"expected click positions (D, H, W) of shape ({batch}, N, 3), got {tuple(clicks.shape)}"
            )
        if not clicks.is_floating_point():
            raise ValueError(f"click positions must be floating point, got {clicks.dtype}: use .float()")
        if labels.shape != clicks.shape[:2]:
            raise ValueError(
                f"expected one label per click, shape {tuple(clicks.shape[:2])}, got {tuple(labels.shape)}"
            )
        # On an accelerator the check would wait for the device, in every training step; compilation and
        # `cost` run on tensors without values.
        cheap = labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling()
        cheap = cheap and not isinstance(labels, FakeTensor)
        if cheap and not self.config.paper and int(labels.max()) >= self.config.num_click_labels:
            raise ValueError(
                f"click label {int(labels.max())} is out of range: this network knows the labels "
                f"0..{self.config.num_click_labels - 1} (-1 = padding)"
            )


STARTS_AT_ZERO = (  # all through which labels and places of clicks act beside the paper's way
    "prompt_encoder.label_embed.",
    "prompt_encoder.no_click",
    "prompt_encoder.click_map.",
    "mask_decoder.click_map.",
)

FROZEN = (  # SPEC §7, the rows that the paper does not train
    ".patch_embed.",
    ".pos_embed",
    ".attn.qkv.",
    ".attn.proj.",
    ".attn.rel_pos_h",
    ".attn.rel_pos_w",
    ".attn.lr",
    ".mlp.",
)


def freeze_pretrained(net: SAM3D) -> None:
    """Freezes what the paper takes from SAM and keeps (SPEC §7, "no"); everything else keeps training."""
    for name, parameter in net.image_encoder.named_parameters(prefix="image_encoder"):
        if any(part in name for part in FROZEN):
            parameter.requires_grad_(False)


def parameter_counts(net: nn.Module) -> tuple[int, int]:
    """(all parameters, those that train)."""
    sizes = [(p.numel(), p.requires_grad) for p in net.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)
