"""From an encoded image to logits in two halves: the prompt-independent part, once; then the answer to each prompt.

:class:`Decoder` is the interface: `SAM3D` accepts any, and features are opaque to all others.
:class:`PaperDecoder` is the paper's prompt encoder and mask decoder with the additions of nnsam3d.

Shape suffixes: B batch, C channels, K logit maps, O decoder channels, D H W voxels, X Y Z fine grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from .config import SAM3DConfig, Triple
from .mask_decoder import MaskDecoder
from .prompt_encoder import PromptEncoder
from .prompts import PromptTensors
from .recompute import recompute


class Features(Protocol):
    """The prompt-independent features of an image, which can be kept between clicks."""

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, batch first: for gradients and memory."""

    def with_tensors(self, tensors: Sequence[Tensor]) -> Features:
        """A copy with other tensors, in the order of :meth:`tensors`."""


class Decoder(Protocol):
    """The part of `SAM3D` after the image encoder.

    Attributes:
        starts_at_zero: prefixes of the zero-initialised parameters through which prompts act; they are trained with a
            larger learning rate.
    """

    starts_at_zero: tuple[str, ...]

    def parts(self) -> Mapping[str, nn.Module]:
        """Its modules by the names that their parameters have in a checkpoint."""

    def prepare(self, image_BCDHW: Tensor, levels: Sequence[Tensor]) -> Features:
        """The first half.

        Args:
            image_BCDHW: any size.
            levels: four maps (B, C, H, W, D) of the image encoder, of the image padded to whole tokens; with a detail
                branch also its features on the fine grid (B, F, X, Y, Z) and at the voxels (B, V, D, H, W).
        """

    def answer(self, features: Any, prompts: PromptTensors) -> Tensor:
        """The second half: logits (B, K, D, H, W) at the image's own size."""


class PaperFeatures(NamedTuple):
    """The features of the paper's decoder."""

    deepest_BCHWD: Tensor  # the level that the prompt encoder works on, token grid
    fused_BOXYZ: Tensor  # share of the other levels and of the image in the decoder's fusion
    padded_size: Triple  # (D, H, W) voxels after padding to whole tokens
    size: Triple  # (D, H, W) voxels of the image as given
    detail_BVDHW: Tensor | None = None  # of the detail branch, at the voxels of the padded image

    def tensors(self) -> tuple[Tensor, ...]:
        always = self.deepest_BCHWD, self.fused_BOXYZ
        return always if self.detail_BVDHW is None else (*always, self.detail_BVDHW)

    def with_tensors(self, tensors: Sequence[Tensor]) -> PaperFeatures:
        deepest, fused, *detail = tensors
        return self._replace(deepest_BCHWD=deepest, fused_BOXYZ=fused, detail_BVDHW=detail[0] if detail else None)


class PaperDecoder:
    """Prompt encoder on the deepest level, then the fusion of all levels (docs/network.md#prompt-encoder)."""

    starts_at_zero: tuple[str, ...] = (  # the additional parameters through which clicks act
        "prompt_encoder.label_embed.",
        "prompt_encoder.no_click",
        "prompt_encoder.click_map.",
        "mask_decoder.click_map.",
        "mask_decoder.extent_map.",
        "mask_decoder.extent_logits.",
        "mask_decoder.voxel_map.",
    )

    def __init__(self, config: SAM3DConfig) -> None:
        self.config = config
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)

    def parts(self) -> Mapping[str, nn.Module]:
        return {"prompt_encoder": self.prompt_encoder, "mask_decoder": self.mask_decoder}

    def prepare(self, image_BCDHW: Tensor, levels: Sequence[Tensor]) -> PaperFeatures:
        d, h, w = image_BCDHW.shape[2:]
        padded_BCDHW = pad_to_tokens(image_BCDHW, self.config.token_stride)
        fine, voxels = levels[4:] if self.config.has_detail else (None, None)
        fused = self._run(self.mask_decoder.fuse_unprompted, padded_BCDHW, *levels[:3], fine)
        pd, ph, pw = padded_BCDHW.shape[2:]
        return PaperFeatures(levels[3], fused, (pd, ph, pw), (d, h, w), voxels)

    def answer(self, features: PaperFeatures, prompts: PromptTensors) -> Tensor:
        if prompts.dense_BMDHW is not None:
            padded_BMDHW = pad_to_tokens(prompts.dense_BMDHW, self.config.token_stride)
            prompts = prompts._replace(dense_BMDHW=padded_BMDHW)
        prompted = self._run(self.prompt_encoder, features.deepest_BCHWD, prompts)
        known = features.fused_BOXYZ, prompted, features.padded_size, prompts, features.detail_BVDHW
        logits = self._run(self.mask_decoder.finish, *known)
        d, h, w = features.size
        return logits if features.size == features.padded_size else logits[:, :, :d, :h, :w]

    def _run(self, part: Callable[..., Tensor], *inputs: Any) -> Tensor:
        return recompute(part, *inputs) if self.config.checkpointing == "blocks" else part(*inputs)


def pad_to_tokens(image_BCDHW: Tensor, token_stride: Triple) -> Tensor:
    """The image, padded to whole tokens by repeating its last voxels."""
    d, h, w = image_BCDHW.shape[2:]
    pd, ph, pw = (-n % s for n, s in zip((d, h, w), token_stride, strict=True))
    return F.pad(image_BCDHW, (0, pw, 0, ph, 0, pd), mode="replicate") if pd or ph or pw else image_BCDHW
