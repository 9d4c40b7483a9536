"""SAM3D: image encoder, prompt encoder and mask decoder as one network (docs/network.md).

Shape suffixes: B batch, C image channels, K logit maps, D H W voxels, N clicks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from .config import SAM3DConfig
from .decoder import Decoder, Features, PaperDecoder, pad_to_tokens
from .image_encoder import ImageEncoder
from .prompts import PromptTensors
from .rounds import RollOut, play, summed

COMPILED_SLOTS = 64  # clicks per window that a compiled network reads in prediction
LOGIT_LIMIT = 50.0  # nnU-Net's sliding window sums logits in half precision with weights of up to 10


class SAM3D(nn.Module):
    """The promptable 3-D network. Input of `forward`: image channels, then the prompt channels."""

    def __init__(self, config: SAM3DConfig, decoder: Decoder | None = None) -> None:
        """
        Args:
            decoder: from the encoder's levels and prompts to logits; None: the paper's.
        """
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.decoder: Decoder = PaperDecoder(config) if decoder is None else decoder
        for name, part in self.decoder.parts().items():
            self.add_module(name, part)
        # DDP waits for a gradient of every parameter; these never get one (see PromptLayer).
        # torch.compile, which nnU-Net applies first, puts a prefix before all names.
        unused = [name for name, _ in self.named_parameters() if ".cross_attn_token_to_image." in name]
        self._ddp_params_and_buffers_to_ignore = [*unused, *(f"_orig_mod.{name}" for name in unused)]

    @property
    def starts_at_zero(self) -> tuple[str, ...]:
        """See :attr:`Decoder.starts_at_zero`."""
        return self.decoder.starts_at_zero

    def forward(self, x_BCDHW: Tensor, roll_out: RollOut | None = None) -> Tensor:
        """Logits (B, K, D, H, W); the prompts are read from the channels after the image's.

        In prediction, the maps of prompts with an extent may be left out: there are none.
        With a ``roll_out``, the mean loss of its rounds instead: a complete training step in one forward pass.
        """
        channels = self.config.num_image_channels
        without_maps = not self.training and x_BCDHW.ndim == 5 and x_BCDHW.shape[1] == channels + 1
        prompt_channels = 1 if without_maps else self.config.prompt_channels
        meaning = f"{channels} image channel(s) and {prompt_channels} prompt channel(s)"
        self._check_volume(x_BCDHW, channels + prompt_channels, meaning)
        image_BCDHW, prompts_BPDHW = x_BCDHW[:, :channels], x_BCDHW[:, channels:]
        if roll_out is not None:
            first = PromptTensors.read(prompts_BPDHW, self.config.max_clicks)
            return self.rolled_out(self.encode(image_BCDHW), first, roll_out)
        slots = self.config.max_clicks if self.training else None
        if not self.training and torch.compiler.is_compiling():  # static, but there may be many clicks
            slots = max(self.config.max_clicks, COMPILED_SLOTS)
        logits = self.segment(image_BCDHW, PromptTensors.read(prompts_BPDHW, slots))
        if self.training or self.config.paper:
            return logits
        return logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def encode(self, image_BCDHW: Tensor) -> Features:
        """Everything that does not depend on the prompts, for `decode`; any size."""
        channels = self.config.num_image_channels
        self._check_volume(image_BCDHW, channels, f"{channels} image channel(s)")
        levels = self.image_encoder(pad_to_tokens(image_BCDHW, self.config.token_stride))
        return self.decoder.prepare(image_BCDHW, levels)

    def decode(self, features: Features, prompts: PromptTensors | Tensor, labels_BN: Tensor | None = None) -> Tensor:
        """Logits (B, K, D, H, W) at the size of the image.

        Args:
            features: from :meth:`encode`.
            prompts: of the whole batch, or only click positions (B, N, 3), (D, H, W) voxels, floating point.
            labels_BN: int64 labels of such positions, -1 = padding; ignored beside a :class:`PromptTensors`.

        Raises:
            TypeError: positions without labels.
            ValueError: prompts of another shape or type; on a CPU also labels that the network does not know.
        """
        prompts = PromptTensors.of(prompts, labels_BN)
        self._check_prompts(features, prompts)
        return self.decoder.answer(features, prompts)

    def segment(self, image_BCDHW: Tensor, prompts: PromptTensors | Tensor, labels_BN: Tensor | None = None) -> Tensor:
        """`decode(encode(image), prompts)`.

        Args:
            image_BCDHW: any size.
            prompts, labels_BN: see :meth:`decode`.

        Raises:
            TypeError: see :meth:`decode`.
            ValueError: see :meth:`decode`; also an empty image, or one with other axes or channels.
        """
        return self.decode(self.encode(image_BCDHW), prompts, labels_BN)

    def rolled_out(self, features: Features, first: PromptTensors, roll_out: RollOut) -> Tensor:
        """Mean loss of several rounds of clicks on the same features (see `rounds`).

        Args:
            features: from :meth:`encode`.
            first: prompts of the first answer.
            roll_out: number of rounds, loss and corrections.
        """

        def losses_of(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
            same = features.with_tensors(tensors)
            return play(lambda prompts: self.decode(same, prompts), first, roll_out)

        used = itertools.chain.from_iterable(part.parameters() for part in self.decoder.parts().values())
        return summed(losses_of, features.tensors(), used, roll_out.scale)

    def compile_halves(self, **how: Any) -> None:
        """Apply torch.compile to `encode` and `decode` separately, because rounds run in between."""
        self.encode = torch.compile(self.encode, **how)  # type: ignore[method-assign]
        self.decode = torch.compile(self.decode, **how)  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled halves, which are bound to this instance."""
        state: dict[str, Any] = super().__getstate__()
        return {key: value for key, value in state.items() if key not in ("encode", "decode")}

    def _check_volume(self, x: Tensor, channels: int, meaning: str) -> None:
        if x.ndim != 5:
            raise ValueError(
                f"expected a 5-D tensor (batch, channels, D, H, W), got {x.ndim}-D of shape {tuple(x.shape)}"
            )
        if x.shape[1] != channels:
            raise ValueError(f"expected {channels} channels ({meaning}), got {x.shape[1]} in shape {tuple(x.shape)}")
        if 0 in x.shape:
            raise ValueError(f"the input is empty: shape {tuple(x.shape)}")

    def _check_prompts(self, features: Features, prompts: PromptTensors) -> None:
        clicks, labels = prompts.points_BN3, prompts.labels_BN
        batch = features.tensors()[0].shape[0]
        if clicks.ndim != 3 or clicks.shape[2] != 3 or clicks.shape[0] != batch:
            raise ValueError(f"expected click positions (D, H, W) of shape ({batch}, N, 3), got {tuple(clicks.shape)}")
        if not clicks.is_floating_point():
            raise ValueError(f"click positions must be floating point, got {clicks.dtype}: use .float()")
        if labels.shape != clicks.shape[:2]:
            raise ValueError(
                f"expected one label per click, shape {tuple(clicks.shape[:2])}, got {tuple(labels.shape)}"
            )
        dense = prompts.dense_BMDHW
        if dense is not None and dense.shape[:2] != (batch, self.config.extent_maps):
            raise ValueError(f"expected {self.config.extent_maps} maps of prompts, got shape {tuple(dense.shape)}")
        # On an accelerator the check would wait for the device, in every training step; compilation and
        # `cost` run on tensors without values.
        cheap = labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling()
        cheap = cheap and not isinstance(labels, FakeTensor)
        if cheap and not self.config.paper and int(labels.max()) >= self.config.num_click_labels:
            raise ValueError(
                f"click label {int(labels.max())} is out of range: this network supports the labels "
                f"0..{self.config.num_click_labels - 1} (-1 = padding)"
            )


FROZEN = (  # what the paper does not train (docs/network.md#parameters)
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
    """Freezes the parameters from SAM that the paper does not train; all others remain trainable."""
    for name, parameter in net.image_encoder.named_parameters(prefix="image_encoder"):
        if any(part in name for part in FROZEN):
            parameter.requires_grad_(False)


def parameter_counts(net: nn.Module) -> tuple[int, int]:
    """(number of parameters, number of trainable parameters)."""
    sizes = [(p.numel(), p.requires_grad) for p in net.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)
