"""Sizes of the network: one frozen, JSON-serialisable dataclass and the named presets.

Public triples are in (D, H, W) order, like the arrays of nnU-Net: patch and stride in voxels, window and
token grid in tokens. Inside the network tokens are laid out (H, W, D), see `hwd`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import index
from typing import Any, TypeVar

from nnsam3d.geometry import Triple
from nnsam3d.keys import known, mismatch

T = TypeVar("T")
CHECKPOINTING = ("none", "cheap", "blocks")  # less memory and more time, in this order
SAM_PATCH = 16  # edge of SAM's patch embedding, in the pixels that SAM sees
FINE_SIGMAS = (0.35, 1.0)  # widths of the Gaussians around clicks on the decoder's fine grid, in tokens
VOXEL_SIGMAS = FINE_SIGMAS[:1]  # likewise of those at the voxels, beside the detail branch
MAY_BE_ZERO = ("fine_click_maps", "extent_maps", "detail_dim")  # zero: the network has none
SAM_WINDOW = 14  # window of SAM's own windowed blocks; the length of its tables follows from it


def hwd(size_DHW: Sequence[T]) -> tuple[T, T, T]:
    """(D, H, W), the public order, to (H, W, D), the network's order (docs/network.md#conventions)."""
    d, h, w = size_DHW
    return h, w, d


@dataclass(frozen=True)
class Execution:
    """How the network computes. Its weights, and what they mean, do not depend on it."""

    max_clicks: int = 16  # click slots per window while training or compiled
    # What training computes twice to save memory: "none" (only attention's inner part, whose intermediates are many
    # and quick to rebuild), "cheap" (also MLPs and adapters), "blocks" (nearly everything). The function is the same.
    checkpointing: str = "none"


@dataclass(frozen=True)
class SAM3DConfig(Execution):
    """Every size of the network; the defaults are the ViT-B of the paper (docs/network.md#shapes).

    Survives JSON: `SAM3DConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config`.
    """

    patch_size: Triple = (128, 128, 128)  # (D, H, W) voxels: size of the position tables; other inputs work too
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    window: Triple = (8, 8, 8)  # (D, H, W) tokens
    token_stride: Triple = (4, 4, 4)  # (D, H, W) voxels per token
    adapter_dim: int = 0  # 0: embed_dim // 2
    neck_dim: int = 256
    decoder_dim: int = 128
    prompt_heads: int = 8
    prompt_mlp_dim: int = 2048
    num_queries: int = 10
    pos_embed_size: tuple[int, int] = (64, 64)  # (H, W) of the position table, SAM's is 64 x 64; (0, 0): the token grid
    # Lengths of the relative-position tables: "sam" (27, and 2 * pos_embed_size - 1 in the feature blocks),
    # "window" (2 * window - 1: nothing to interpolate) or one (H, W, D) triple per block.
    rel_pos_tables: str | tuple[Triple, ...] = "sam"
    num_image_channels: int = 1
    num_classes: int = 2  # logit maps
    num_click_labels: int = 0  # clicks carry 0 .. num_click_labels - 1; 0: num_classes
    paper: bool = False  # True: exactly the paper's function, click labels ignored
    # Click maps at the decoder's fine grid, next to the logits: how many widths per label (see FINE_SIGMAS);
    # 0: none. Zero-initialised, so a new network computes the same function with and without.
    fine_click_maps: int = 0
    detail_dim: int = 0  # channels of the detail branch at the voxels (see `detail`); 0: none
    extent_maps: int = 0  # dense maps of prompts with an extent (boxes, lassos, ...) that the network gets; 0: none
    extents_at_voxels: bool = False  # where these maps act straight on the logits; False: on the decoder's fine grid
    # (D, H, W) edges of a token relative to each other: what is round in mm
    token_aspect: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Converts lists to tuples and single numbers to triples, and derives missing sizes from others."""
        for name in ("patch_size", "window", "token_stride"):
            self._set(name, _ints(name, getattr(self, name), 3))
        for name, default in (("adapter_dim", self.embed_dim // 2), ("num_click_labels", self.num_classes)):
            if getattr(self, name) in (None, 0):
                self._set(name, default)
        self._set("token_aspect", _positive_floats("token_aspect", self.token_aspect))
        for one in fields(self):
            if one.type == "int" and one.name not in MAY_BE_ZERO:
                self._set(one.name, _ints(one.name, getattr(self, one.name), 1)[0])
        self._check()
        derived = self.pos_embed_size is None or tuple(self.pos_embed_size) == (0, 0)
        self._set("pos_embed_size", _ints("pos_embed_size", self.token_grid[1:] if derived else self.pos_embed_size, 2))
        if not isinstance(self.rel_pos_tables, str):
            tables = tuple(_ints("rel_pos_tables", t, 3) for t in self.rel_pos_tables)
            if len(tables) != self.depth:
                raise ValueError(
                    f"rel_pos_tables has {len(tables)} entries for depth {self.depth}: give one (H, W, D) "
                    'triple per block, or "sam" or "window"'
                )
            self._set("rel_pos_tables", tables)
        elif self.rel_pos_tables not in ("sam", "window"):
            raise ValueError(
                f'rel_pos_tables is {self.rel_pos_tables!r}: use "sam", "window" or an (H, W, D) triple per block'
            )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def _check(self) -> None:
        if self.fine_click_maps not in range(len(FINE_SIGMAS) + 1):
            raise ValueError(f"fine_click_maps is {self.fine_click_maps!r}: use 0 to {len(FINE_SIGMAS)} widths")
        for name in ("extent_maps", "detail_dim"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r}: use a whole number, 0 or more")
        if self.checkpointing not in CHECKPOINTING:
            raise ValueError(f"checkpointing is {self.checkpointing!r}: use one of {', '.join(CHECKPOINTING)}")
        if self.depth % 4:
            raise ValueError(
                f"depth is {self.depth}: it must be a multiple of 4, because four levels of features are "
                f"read at equal distances; use {self.depth // 4 * 4 or 4} or {self.depth // 4 * 4 + 4}"
            )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"num_heads {self.num_heads} does not divide embed_dim {self.embed_dim}: change one of them"
            )
        if self.neck_dim % 2 or (self.neck_dim // 2) % self.prompt_heads:
            raise ValueError(
                f"prompt_heads {self.prompt_heads} does not divide half of neck_dim {self.neck_dim} (the "
                f"width of the prompt cross attention): make neck_dim a multiple of {2 * self.prompt_heads}"
            )
        if max(self.token_stride) > SAM_PATCH:
            raise ValueError(
                f"token_stride is {self.token_stride}: each axis must be in 1..{SAM_PATCH} voxels, because "
                f"SAM's patch embedding sees {SAM_PATCH} samples per token"
            )
        if any(w > g for w, g in zip(self.window, self.token_grid, strict=True)):
            fitting = tuple(min(w, g) for w, g in zip(self.window, self.token_grid, strict=True))
            raise ValueError(
                f"window {self.window} is larger than the token grid {self.token_grid} of patch_size "
                f"{self.patch_size} at token_stride {self.token_stride} (all D, H, W): use a window of at "
                f"most {fitting}, a larger patch or a smaller token_stride"
            )

    @property
    def token_grid(self) -> Triple:
        """Tokens of one patch, (D, H, W); patches that are not multiples of the stride are padded."""
        d, h, w = (-(-p // s) for p, s in zip(self.patch_size, self.token_stride, strict=True))
        return d, h, w

    @property
    def prompt_channels(self) -> int:
        """Channels behind those of the image: one with clicks, then the maps of prompts with an extent."""
        return 1 + self.extent_maps

    @property
    def has_detail(self) -> bool:
        """Whether the network has a detail branch; the paper's has none."""
        return self.detail_dim > 0 and not self.paper

    @property
    def feature_blocks(self) -> tuple[int, ...]:
        """The blocks (from 0) whose output feeds a neck; in SAM these have global attention."""
        return tuple(self.depth // 4 * k - 1 for k in (1, 2, 3, 4))

    @property
    def rel_pos_lengths(self) -> tuple[Triple, ...]:
        """Per block the rows of rel_pos_h, rel_pos_w, rel_pos_d."""
        if isinstance(self.rel_pos_tables, tuple):
            return self.rel_pos_tables
        if self.rel_pos_tables == "window":
            h, w, d = hwd(self.window)
            return ((2 * h - 1, 2 * w - 1, 2 * d - 1),) * self.depth
        windowed = (2 * SAM_WINDOW - 1,) * 3
        h, w = self.pos_embed_size
        at_feature_blocks = (2 * h - 1, 2 * w - 1, 2 * h - 1)  # SAM's are square; depth starts as their mean
        return tuple(at_feature_blocks if i in self.feature_blocks else windowed for i in range(self.depth))


def _positive_floats(name: str, value: Any) -> tuple[float, ...]:
    try:
        result = tuple(float(v) for v in value)
    except TypeError:
        result = ()
    if len(result) != 3 or not all(0 < v < float("inf") for v in result):
        raise ValueError(f"{name} must be three positive numbers (D, H, W), got {value!r}")
    return result


def _ints(name: str, value: Any, length: int) -> tuple[int, ...]:
    """A whole number or a sequence of `length` whole numbers, all positive, as a tuple."""
    try:
        values = tuple(value) if isinstance(value, Iterable) else (value,) * length
        result = tuple(index(v) for v in values if not isinstance(v, bool))
    except TypeError:
        result = ()
    if len(result) != length or min(result) < 1:
        wanted = "a positive whole number" if length == 1 else f"one or {length} positive whole numbers"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return result


def fields_of_weights() -> tuple[str, ...]:
    """The fields that affect parameters or their meaning: networks that agree in them can share checkpoints."""
    other = {one.name for one in fields(Execution)}
    return tuple(one.name for one in fields(SAM3DConfig) if one.name not in other)


PRESETS: dict[str, dict[str, Any]] = {
    # Small enough to train on a CPU; not SAM's sizes.
    "tiny": {
        "patch_size": (64, 64, 64),
        "embed_dim": 96,
        "depth": 4,
        "num_heads": 4,
        "window": (4, 4, 4),
        "neck_dim": 32,
        "decoder_dim": 32,
        "prompt_heads": 4,
        "prompt_mlp_dim": 128,
        "pos_embed_size": (0, 0),
        "rel_pos_tables": "window",
        "detail_dim": 16,
        "extents_at_voxels": True,
    },
    "vit_b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "pos_embed_size": (64, 64)},
    "vit_l": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "pos_embed_size": (64, 64)},
    "vit_h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "pos_embed_size": (64, 64)},
}


def preset_config(name: str, **overrides: Any) -> SAM3DConfig:
    """The configuration of a preset, with some fields replaced, e.g. `preset_config("tiny", num_classes=3)`."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: known are {', '.join(PRESETS)}")
    unknown, _ = mismatch(SAM3DConfig, overrides)
    if unknown:
        raise ValueError(f"unknown field(s) {', '.join(unknown)}: known are {', '.join(sorted(known(SAM3DConfig)))}")
    return SAM3DConfig(**{**PRESETS[name], **overrides})
